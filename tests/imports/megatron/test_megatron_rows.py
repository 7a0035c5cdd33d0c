"""What rows mean: Megatron's layers recomputed from their raw tensors, token by token in float64, against the import.

Nothing of ours takes part but the importer and the imported model. The tensors are random numbers under Megatron's
names; the recomputation follows its mixer (z, x, B, C, dt), its attention (queries, key, value by group) and its MLP.
Shapes: L length, D hidden.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidewinder.imports.megatron import import_megatron
from sidewinder.model import load_model

HIDDEN, VOCABULARY, LENGTH = 16, 40, 23
HEADS, HEAD, GROUPS, STATES, INNER = 8, 4, 2, 6, 32  # Mamba-2: heads of 4 channels in 2 groups.
QUERIES, KEYS, SIZE = 6, 3, 4  # Attention: 6 query heads of 4 channels, 3 key heads.
WIDTH = 20
Arrays = dict[str, np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + torch.erf(torch.tensor(x) / 2**0.5).numpy())


def rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def mamba(layer: Arrays, x_LD: np.ndarray) -> np.ndarray:
    """The mixer, one token after the other."""
    both = GROUPS * STATES
    state = np.zeros((HEADS, HEAD, STATES))
    window = np.zeros((4, INNER + 2 * both))
    out = []
    for x_D in x_LD:
        row = layer["mixer.in_proj.weight"] @ x_D
        z, rest, dt = row[:INNER], row[INNER:-HEADS], np.log1p(np.exp(row[-HEADS:] + layer["mixer.dt_bias"]))
        window = np.vstack([window[1:], rest])
        mixed = (window.T * layer["mixer.conv1d.weight"][:, 0]).sum(1) + layer["mixer.conv1d.bias"]
        mixed *= sigmoid(mixed)
        y = np.zeros(INNER)
        for head in range(HEADS):
            channels, group = slice(head * HEAD, (head + 1) * HEAD), head // (HEADS // GROUPS)
            b = mixed[INNER + group * STATES :][:STATES]
            c = mixed[INNER + both + group * STATES :][:STATES]
            state[head] *= np.exp(-dt[head] * np.exp(layer["mixer.A_log"][head]))
            state[head] += dt[head] * np.outer(mixed[channels], b)
            y[channels] = state[head] @ c + layer["mixer.D"][head] * mixed[channels]
        y = rms((y * z * sigmoid(z)).reshape(GROUPS, -1)).ravel() * layer["mixer.norm.weight"]
        out.append(layer["mixer.out_proj.weight"] @ y)
    return np.array(out)


def attention(layer: Arrays, x_LD: np.ndarray, rotated: int) -> np.ndarray:
    """Softmax over the tokens so far; channel i of the first `rotated` turns together with channel i + rotated / 2."""
    rows = x_LD @ layer["self_attention.linear_qkv.weight"].T
    per = QUERIES // KEYS + 2
    heads, half = [], rotated // 2
    for place in range(KEYS * per):
        head = rows[:, place * SIZE : (place + 1) * SIZE].copy()
        if half and place % per != per - 1:
            turn = np.exp(1j * np.outer(np.arange(len(x_LD)), 10_000.0 ** (-np.arange(half) / half)))
            turned = (head[:, :half] + 1j * head[:, half:rotated]) * turn
            head[:, :half], head[:, half:rotated] = turned.real, turned.imag
        heads.append(head)
    outs = []
    for group in range(KEYS):
        *queries, keys, values = heads[group * per : (group + 1) * per]
        for query in queries:
            scores = query @ keys.T / np.sqrt(SIZE)
            scores[np.triu_indices(len(x_LD), 1)] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True))
            outs.append(weights / weights.sum(1, keepdims=True) @ values)
    return np.hstack(outs) @ layer["self_attention.linear_proj.weight"].T


def mlp(layer: Arrays, x_LD: np.ndarray, activation: str) -> np.ndarray:
    rows = x_LD @ layer["mlp.linear_fc1.weight"].T
    if activation == "swiglu":
        gate, other = rows[:, :WIDTH], rows[:, WIDTH:]
        rows = gate * sigmoid(gate) * other
    else:
        rows = gelu(rows) if activation == "gelu" else np.maximum(rows, 0) ** 2
    return rows @ layer["mlp.linear_fc2.weight"].T


def norm(x_LD: np.ndarray, tensors: Arrays, name: str, kind: str) -> np.ndarray:
    """RMSNorm, or LayerNorm whose stored weight lacks one."""
    if kind == "RMSNorm":
        return rms(x_LD) * tensors[name + "weight"]
    return rms(x_LD - x_LD.mean(-1, keepdims=True)) * (1 + tensors[name + "weight"]) + tensors[name + "bias"]


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "M": {
        "norm.weight": (HIDDEN,),
        "mixer.in_proj.weight": (2 * INNER + 2 * GROUPS * STATES + HEADS, HIDDEN),
        "mixer.conv1d.weight": (INNER + 2 * GROUPS * STATES, 1, 4),
        "mixer.conv1d.bias": (INNER + 2 * GROUPS * STATES,),
        "mixer.dt_bias": (HEADS,),
        "mixer.A_log": (HEADS,),
        "mixer.D": (HEADS,),
        "mixer.norm.weight": (INNER,),
        "mixer.out_proj.weight": (HIDDEN, INNER),
    },
    "*": {
        "self_attention.linear_qkv.weight": ((QUERIES + 2 * KEYS) * SIZE, HIDDEN),
        "self_attention.linear_proj.weight": (HIDDEN, QUERIES * SIZE),
    },
    "-": {"mlp.linear_fc2.weight": (HIDDEN, WIDTH)},
}


def random_tensors(layers: list[str], kind: str, activation: str) -> Arrays:
    """Random numbers under the names of a hybrid, or of Transformer blocks with norms of their own."""
    blocks = "*-" in layers
    shapes: dict[str, tuple[int, ...]] = {"embedding.word_embeddings.weight": (VOCABULARY, HIDDEN)}
    for index, letters in enumerate(layers):
        for letter in letters:
            shapes |= {f"decoder.layers.{index}.{name}": shape for name, shape in SHAPES[letter].items()}
            if letter == "-":
                shapes[f"decoder.layers.{index}.mlp.linear_fc1.weight"] = (
                    WIDTH * (1 + (activation == "swiglu")),
                    HIDDEN,
                )
        before = (
            {"input_layernorm.", "pre_mlp_layernorm."}
            if blocks
            else {"*": {"self_attention.linear_qkv.layer_norm_"}, "-": {"mlp.linear_fc1.layer_norm_"}}.get(
                letters, set()
            )
        )
        for name in before:
            shapes |= {f"decoder.layers.{index}.{name}weight": (HIDDEN,)}
            shapes |= {f"decoder.layers.{index}.{name}bias": (HIDDEN,)} if kind == "LayerNorm" else {}
    final = "decoder.final_layernorm." if blocks else "decoder.final_norm."
    shapes |= {final + "weight": (HIDDEN,)} | ({final + "bias": (HIDDEN,)} if kind == "LayerNorm" else {})
    shapes["output_layer.weight"] = (VOCABULARY, HIDDEN)
    numbers = np.random.default_rng(2)
    return {name: 0.4 * numbers.standard_normal(shape) for name, shape in shapes.items()}


def logits(
    tensors: Arrays, layers: list[str], tokens: np.ndarray, kind: str, activation: str, rotated: int
) -> np.ndarray:
    x_LD = tensors["embedding.word_embeddings.weight"][tokens]
    for index, letters in enumerate(layers):
        within = f"decoder.layers.{index}."
        layer = {name.removeprefix(within): value for name, value in tensors.items() if name.startswith(within)}
        if "M" in letters:
            x_LD = x_LD + mamba(layer, norm(x_LD, layer, "norm.", kind))
        if "*" in letters:
            name = "input_layernorm." if letters == "*-" else "self_attention.linear_qkv.layer_norm_"
            x_LD = x_LD + attention(layer, norm(x_LD, layer, name, kind), rotated)
        if "-" in letters:
            name = "pre_mlp_layernorm." if letters == "*-" else "mlp.linear_fc1.layer_norm_"
            x_LD = x_LD + mlp(layer, norm(x_LD, layer, name, kind), activation)
    final = "decoder.final_layernorm." if layers[0] == "*-" else "decoder.final_norm."
    return norm(x_LD, tensors, final, kind) @ tensors["output_layer.weight"].T


@pytest.mark.parametrize(
    ("layers", "kind", "activation", "rotated"),
    [
        (["M", "-", "M", "*", "-"], "RMSNorm", "gelu", 0),
        (["M", "*", "M"], "RMSNorm", "gelu", SIZE),
        (["*-", "*-"], "LayerNorm", "squared_relu", SIZE // 2),
        (["*-", "*-"], "LayerNorm", "swiglu", SIZE),
    ],
)
def test_logits_from_raw_tensors(
    writer: Any, tmp_path: Path, layers: list[str], kind: str, activation: str, rotated: int
) -> None:
    tensors = random_tensors(layers, kind, activation)
    arguments = {
        "num_layers": len(layers),
        "num_attention_heads": QUERIES,
        "normalization": kind,
        "apply_layernorm_1p": kind == "LayerNorm",
        "squared_relu": activation == "squared_relu",
        "swiglu": activation == "swiglu",
        "position_embedding_type": "rope" if rotated else "none",
        "rotary_percent": rotated / SIZE,
        "mamba_num_groups": GROUPS,
        "seq_length": 64,
    }
    state = {name: torch.tensor(value) for name, value in tensors.items()}
    import_megatron(writer.write_files([[state]], arguments, tmp_path / "in"), tmp_path / "out")
    model, _ = load_model(tmp_path / "out", dtype=torch.float64)
    tokens = np.random.default_rng(4).integers(0, VOCABULARY, LENGTH)
    wanted = logits(tensors, layers, tokens, kind, activation, rotated)
    with torch.no_grad():
        found = model(torch.tensor(tokens)[None])[0].numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
