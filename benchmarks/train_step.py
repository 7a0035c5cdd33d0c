"""Training steps of whole models on one GPU: ours beside each architecture's peer, same shapes, same data, same run.

    python benchmarks/train_step.py [--only hybrid …] [--compile] [--float8 rowwise] [--steps 12] [--json out.json]
    python benchmarks/train_step.py --only hybrid --ours --lengths 4096 16384 32768      # utilisation by context

Both train with bfloat16 products over float32 weights (autocast), fused AdamW, clipped gradients and 4 × 4096 tokens a
step, or as many in sequences of another length, one at least. Ours is the step of `sidewinder pretrain` itself: data,
gradients, norm, clipping, update. A peer is the library's own model class in the plainest loop that does the same;
transformers models compute their loss from all logits, as their own loss does. With `--float8` the layers of ours
multiply in float8, by that recipe; peers stay in bfloat16, and MFU remains a share of the GPU's bfloat16 peak. A time
is the median of the steps after the warm-up, by the wall clock, the GPU waited for.
`ratio` is our tokens a second over the peer's. MFU is told twice: by 6 · parameters · tokens, and by the model's own
FLOPs (`sidewinder.model.count`), over the GPU's peak where that is known.
Peers: transformers (NemotronH, Llama), mamba-ssm (its own language model, Mamba-1 and Mamba-2).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidewinder.config.model import Attention, Mamba1, Mamba2, Mlp, ModelConfig, Rope
from sidewinder.config.training import Float8, Training
from sidewinder.model import LanguageModel, init_weights
from sidewinder.model.count import count_parameters, flops_per_token
from sidewinder.train.hardware import peak_of
from sidewinder.train.loop import Trainer
from sidewinder.train.parallel.parallelize import prepare_layers

BATCH, LENGTH, VOCABULARY, WARM_UPS = 4, 4096, 32_000, 4
HYBRID = "M-M-M--M-M*-M-M-M-M--M*-M-M-"  # The first half of the 8B hybrid's layers.


class Sequences:
    """Random tokens: the arithmetic does not depend on them."""

    eos, bytes_per_token = 2, None

    def __init__(self, context_tokens: int = LENGTH, vocabulary: int = VOCABULARY) -> None:
        self.context_tokens, self.vocabulary = context_tokens, vocabulary

    def sequences(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        tokens_BL = np.random.default_rng(first).integers(0, self.vocabulary, (count, self.context_tokens + 1))
        return tokens_BL[:, :-1], tokens_BL[:, 1:]

    def position(self, first: int) -> dict[str, Any]:
        return {"sequence": first}


@dataclass(frozen=True)
class Pair:
    """A model of ours and how to make its peer."""

    config: ModelConfig
    peer: str
    make: Callable[[ModelConfig, int], nn.Module]


def transformers_class(config: ModelConfig, length: int) -> nn.Module:
    """The class that an export of this model would have, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from sidewinder.export.classes import target_of

    values = target_of(config).config(config, vocab_size=VOCABULARY, context_tokens=length, bos=1, eos=2)
    kind = values.pop("model_type")
    made: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
    return made.float()


def mamba_ssm(config: ModelConfig, length: int) -> nn.Module:
    """mamba-ssm's own language model: fused residual and norm, its fused Mamba kernels."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    if "M" in config.layers:
        sizes = {"layer": "Mamba2", "d_state": config.mamba2.state_size, "ngroups": config.mamba2.groups}
        sizes |= {"headdim": config.mamba2.head_size, "chunk_size": config.mamba2.chunk}
    else:
        sizes = {"layer": "Mamba1", "d_state": config.mamba1.state_size}
    made: nn.Module = MambaLMHeadModel(
        MambaConfig(
            d_model=config.hidden_size,
            n_layer=len(config.layers),
            vocab_size=VOCABULARY,
            ssm_cfg=sizes,
            tie_embeddings=False,
        )
    )
    return made


PAIRS = {
    "hybrid": Pair(
        ModelConfig(
            pattern=HYBRID,
            hidden_size=2048,
            attention=Attention(heads=16, kv_heads=8, head_size=128),
            mlp=Mlp(size=8192),
            mamba2=Mamba2(chunk=256),
        ),
        "transformers NemotronH",
        transformers_class,
    ),
    "mamba2": Pair(
        ModelConfig(pattern="M" * 24, hidden_size=2048, mamba2=Mamba2(chunk=256)), "mamba-ssm Mamba-2", mamba_ssm
    ),
    "mamba": Pair(
        ModelConfig(pattern="m" * 24, hidden_size=2048, mamba1=Mamba1(state_size=16)), "mamba-ssm Mamba-1", mamba_ssm
    ),
    "transformer": Pair(
        ModelConfig(
            pattern="*-" * 16,
            hidden_size=2048,
            attention=Attention(heads=16, kv_heads=16, head_size=128, rope=Rope(fraction=1.0)),
            mlp=Mlp(size=8192, activation="swiglu"),
        ),
        "transformers Llama",
        transformers_class,
    ),
}


def batch_of(length: int) -> int:
    """Sequences of a step."""
    return max(1, BATCH * LENGTH // length)


def our_steps(
    config: ModelConfig, length: int, steps: int, compiled: bool, recompute: str, float8: Float8
) -> tuple[list[float], int]:
    """Seconds of each step and peak bytes of the loop's own step."""
    training = Training(
        context_tokens=length,
        batch_sequences=batch_of(length),
        budget_tokens=10**4 * batch_of(length) * length,
        learning_rate=1e-4,
        minimum_learning_rate=1e-5,
        precision="bfloat16",
        compile=compiled,
        recompute=recompute,
        float8=float8,
    )
    with torch.device("meta"):
        model = LanguageModel(config, VOCABULARY)
    model = model.to_empty(device="cuda")
    init_weights(model, 1)
    prepare_layers(model, training)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer("benchmark", Path(folder), "0" * 64, model, Sequences(length), training)
        return timed(lambda step: trainer.compute(step), steps)


def peer_steps(pair: Pair, length: int, steps: int, compiled: bool) -> tuple[list[float], int]:
    """The same of the peer's class in a plain loop."""
    with torch.device("cuda"):
        model = pair.make(pair.config, length).train()
    forward = torch.compile(model) if compiled else model
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    data, batch = Sequences(length), batch_of(length)

    def step(number: int) -> None:
        inputs_BL, targets_BL = (torch.from_numpy(part).cuda() for part in data.sequences(batch * number, batch))
        with torch.autocast("cuda", torch.bfloat16):
            logits_BLV: Tensor = forward(inputs_BL).logits
        loss = F.cross_entropy(logits_BLV.float().flatten(0, 1), targets_BL.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return timed(step, steps)


def timed(step: Callable[[int], object], steps: int) -> tuple[list[float], int]:
    """Seconds of each step after the warm-up, and the peak of memory."""
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number in range(1, WARM_UPS + steps + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        step(number)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UPS:], torch.cuda.max_memory_allocated()


def measure(name: str, pair: Pair, length: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for the peer and one for ours; a side that fails tells why instead of a time."""
    steps, compiled, recompute, float8 = options.steps, options.compile, options.recompute, options.float8
    ours = "Sidewinder" if float8 == "none" else f"Sidewinder, float8 {float8}"
    sides = {
        pair.peer: lambda: peer_steps(pair, length, steps, compiled),
        ours: lambda: our_steps(pair.config, length, steps, compiled, recompute, float8),
    }
    if options.ours:
        del sides[pair.peer]
    parameters = count_parameters(pair.config, VOCABULARY).total
    flops = flops_per_token(pair.config, VOCABULARY, length)
    peak = peak_of(torch.device("cuda", 0))
    rows = []
    for side, run in sides.items():
        row: dict[str, Any] = {
            "model": name,
            "length": length,
            "parameters": parameters,
            "side": side + (", compiled" if compiled else ""),
        }
        try:
            seconds, peak_bytes = run()
        except Exception as error:
            rows.append(row | {"error": f"{type(error).__name__}: {str(error)[:300]}"})
        else:
            speed = batch_of(length) * length / statistics.median(seconds)
            row |= {"tokens_per_s": round(speed), "spread": round(max(seconds) / min(seconds), 3)}
            row |= {"peak_gib": round(peak_bytes / 2**30, 1)}
            if peak:
                row |= {"mfu_6n": round(6 * parameters * speed / peak, 4), "mfu": round(flops * speed / peak, 4)}
            rows.append(row)
        gc.collect()
        torch.cuda.empty_cache()
    if len(rows) == 2 and all("tokens_per_s" in row for row in rows):
        rows[1]["ratio"] = round(rows[1]["tokens_per_s"] / rows[0]["tokens_per_s"], 3)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--ours", action="store_true", help="leave the peers out")
    parser.add_argument("--compile", action="store_true", help="torch.compile on both sides")
    parser.add_argument("--recompute", default="", help="letters of layers whose activations ours computes again")
    parser.add_argument("--float8", choices=get_args(Float8), default="none", help="recipe of our float8 products")
    parser.add_argument("--lengths", nargs="*", type=int, default=[LENGTH], help="tokens of a sequence")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("train_step: no GPU here; the figures would say nothing")
    rows = []
    for name in options.only:
        for length in options.lengths:
            for row in measure(name, PAIRS[name], length, options):
                rows.append(row)
                print(json.dumps(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"gpu": torch.cuda.get_device_name(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
