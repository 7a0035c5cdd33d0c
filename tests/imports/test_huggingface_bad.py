"""What cannot be imported is refused with everything that is wrong, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceTrainer

from sidewinder.errors import CheckpointError
from sidewinder.imports import import_checkpoint


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Path]:
    """Where imports would go; at the end nothing must be there, not even hidden."""
    yield tmp_path / "made" / "ours"
    assert not list((tmp_path / "made").glob("*"))
    assert not list((tmp_path / "made").glob(".*"))


def source_of(hub: ModuleType, kind: str, folder: Path, config: dict[str, Any] | None = None, **options: Any) -> Path:
    """A good folder; `config` changes keys of its config.json, None removes one."""
    hub.save(hub.random_model(kind, 1, tie_word_embeddings=False), folder, **options)
    content = json.loads((folder / "config.json").read_text()) | (config or {})
    content = {key: value for key, value in content.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


BIASES = {"attention_bias": True, "mlp_bias": True}
SCALED = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 1e4, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED |= {"original_max_position_embeddings": 32}
MISTAKES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("mamba", {"use_bias": True, "hidden_act": "gelu"}, ["use_bias: False only, not True", "hidden_act: 'silu' only"]),
    ("mamba", {"use_conv_bias": False}, ["use_conv_bias: True only, not False"]),
    ("mamba2", {"time_step_limit": [0.001, 0.1]}, ["time_step_limit: [0.0, inf] only, not [0.001, 0.1]"]),
    ("mamba2", {"num_heads": 3}, ["transformers takes it for no Mamba2ForCausalLM", "hidden_size * expand"]),
    ("mamba2", {"n_groups": 3}, ["mamba2.groups", "3"]),
    (
        "nemotron_h",
        {"attention_bias": True, "sliding_window": 16, "mlp_hidden_act": "silu", "mamba_num_heads": 5},
        [
            "attention_bias: False only",
            "sliding_window: None only, not 16",
            "mlp.activation: Input should be 'gelu', 'relu2' or 'swiglu', not 'silu'",
        ],
    ),
    ("nemotron_h", {"mamba_num_heads": 5, "n_groups": 1}, ["mamba2.expand: Input should be a valid integer"]),
    ("nemotron_h", {"layers_block_type": ["full_attention", "moe"]}, ["bad letter 'E' at place 1 of pattern '*E'"]),
    ("nemotron_h", {"layers_block_type": ["linear_attention"]}, ["pattern: needs a layer '*'"]),
    ("nemotron", BIASES | {"hidden_act": "silu"}, ["attention_bias: False", "mlp_bias: False", "mlp.activation"]),
    (
        "llama",
        BIASES | {"num_attention_heads": 3, "num_key_value_heads": 2, "hidden_size": 24, "rope_parameters": SCALED},
        [
            "attention_bias: False only, not True",
            "mlp_bias: False only, not True",
            "heads (3)",
            "kv_heads (2)",
            "rope_parameters.rope_type: 'default' only, not 'llama3'",
        ],
    ),
    ("llama", {"rope_parameters": SCALED}, ["rope_parameters.rope_type: 'default' only, not 'llama3'"]),
    (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        ["rope_parameters.partial_rotary_factor: 1.0 only, not 0.5"],
    ),
    ("llama", {"max_position_embeddings": 0}, ["max_position_embeddings: 0 is not a length"]),
    (
        "llama",
        {"quantization_config": {"quant_method": "fp8"}},
        ["quantization_config: weights that are not quantised"],
    ),
    (
        "stablelm",
        {"use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True},
        ["use_qkv_bias: False only", "qk_layernorm: False only", "use_parallel_residual: False only"],
    ),
]


@pytest.mark.parametrize(("kind", "config", "said"), MISTAKES)
def test_settings_that_we_cannot_express_are_listed_at_once(
    hub: ModuleType, kind: str, config: dict[str, Any], said: list[str], tmp_path: Path, ours: Path
) -> None:
    source = source_of(hub, kind, tmp_path / "source", config)
    with pytest.raises(CheckpointError) as error:
        import_checkpoint(source, ours)
    for words in said:
        assert words in str(error.value)


def test_a_context_that_is_not_stated_is_asked_for(hub: ModuleType, tmp_path: Path, ours: Path) -> None:
    source = source_of(hub, "mamba", tmp_path / "source", {"max_position_embeddings": None})
    with pytest.raises(CheckpointError, match="not stated; give the trained context as --context-tokens"):
        import_checkpoint(source, ours)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"cannot read .*config\.json: Expecting property name"),
        ("[1]", "it is not a JSON object"),
        ('{"architectures": ["GPT2LMHeadModel"]}', "describes GPT2LMHeadModel, which cannot be imported"),
        ('{"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}', "LlamaForSequenceClassif"),
        ("{}", "describes model type None"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "Field 'hidden_size' expected int, got str"),
    ],
)
def test_a_config_that_is_none(hub: ModuleType, content: str, said: str, tmp_path: Path, ours: Path) -> None:
    source = source_of(hub, "llama", tmp_path / "source")
    (source / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=said):
        import_checkpoint(source, ours)


def test_a_folder_of_neither_system(tmp_path: Path, ours: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        import_checkpoint(tmp_path / "nowhere", ours)
    with pytest.raises(CheckpointError, match=r"holds neither config\.json \(Hugging Face\) nor"):
        import_checkpoint(tmp_path, ours)


@pytest.mark.parametrize("kind", ["mamba2", "nemotron_h", "stablelm"])
def test_missing_extra_and_misshaped_tensors_are_one_error(
    hub: ModuleType, kind: str, tmp_path: Path, ours: Path
) -> None:
    source = source_of(hub, kind, tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    norm, matrix = (next(name for name in weights if name.endswith(end)) for end in ("norm.weight", "proj.weight"))
    missing = list(weights.pop(norm).shape)
    shape = list(weights[matrix].shape)
    weights |= {matrix: weights[matrix][:, 1:].contiguous(), "adapter.weight": torch.zeros(3)}
    save_file(weights, source / "model.safetensors")
    with pytest.raises(CheckpointError, match="3 tensors differ") as error:
        import_checkpoint(source, ours)
    assert f"missing: {norm} {missing}" in str(error.value)
    assert "extra: adapter.weight [3]" in str(error.value)
    assert f"wrong shape: {matrix} {[shape[0], shape[1] - 1]}, expected {shape}" in str(error.value)


def test_damaged_files_are_all_named(hub: ModuleType, tmp_path: Path, ours: Path) -> None:
    source = source_of(hub, "llama", tmp_path / "source", max_shard_size="8KB")
    gone, cut, foreign = sorted(source.glob("model-*.safetensors"))[:3]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    foreign.write_bytes(b"no tensors in here, but text")
    with pytest.raises(CheckpointError) as error:
        import_checkpoint(source, ours)
    for path, size in ((gone, "missing"), (cut, f"{cut.stat().st_size:,} bytes"), (foreign, "28 bytes")):
        assert f"{path.name} ({size})" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04 a zip file"])
def test_a_single_file_that_is_foreign(hub: ModuleType, content: bytes, tmp_path: Path, ours: Path) -> None:
    source = source_of(hub, "mamba", tmp_path / "source")
    (source / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors \({len(content)} bytes\)"):
        import_checkpoint(source, ours)


def test_an_index_that_does_not_fit(hub: ModuleType, tmp_path: Path, ours: Path) -> None:
    source = source_of(hub, "llama", tmp_path / "source", max_shard_size="8KB")
    path = source / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = min(index["weight_map"].values())
    path.write_text(json.dumps({"weight_map": index["weight_map"] | {"model.extra.weight": first}}))
    with pytest.raises(CheckpointError, match=rf"{first}: does not hold model\.extra\.weight, as the index says"):
        import_checkpoint(source, ours)
    path.write_text(json.dumps({"weight_map": index["weight_map"] | {"lm_head.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"names files outside its folder: \.\./elsewhere\.safetensors"):
        import_checkpoint(source, ours)
    path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"cannot read .*index\.json: KeyError: 'weight_map'"):
        import_checkpoint(source, ours)
    path.unlink()
    (source / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"weights there: .*pytorch_model\.bin"):
        import_checkpoint(source, ours)


def test_weights_that_are_no_numbers(hub: ModuleType, tmp_path: Path, ours: Path) -> None:
    source = source_of(hub, "llama", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"][3, 2] = float("nan")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)
    save_file(weights, source / "model.safetensors")
    with pytest.raises(CheckpointError, match="2 tensors do not hold usable weights") as error:
        import_checkpoint(source, ours)
    assert f"head.weight: 1 of {weights['lm_head.weight'].numel():,} values are NaN or infinite" in str(error.value)
    assert "final_norm.weight: int8 is not a type of weights" in str(error.value)


def test_a_tied_head_that_differs(hub: ModuleType, tmp_path: Path, ours: Path) -> None:
    source = source_of(hub, "llama", tmp_path / "source", {"tie_word_embeddings": True})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not equal to model\.embed_tokens\.weight"):
        import_checkpoint(source, ours)


def write_tokenizer(folder: Path, ids: int) -> None:
    """A tokenizer.json whose highest id, an added token's, is `ids` - 1."""
    vocabulary = {f"piece{at}": at for at in range(ids - 1)}
    content = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": [{"id": ids - 1}]}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def test_a_tokenizer_with_more_ids_than_rows(hub: ModuleType, tmp_path: Path, ours: Path) -> None:
    source = source_of(hub, "llama", tmp_path / "source")
    write_tokenizer(source, hub.VOCABULARY + 1)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has 98 ids, but the weights have 97 rows"):
        import_checkpoint(source, ours)
    (source / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(CheckpointError, match=r"cannot read the tokenizer .*tokenizer\.json: 'vocab'"):
        import_checkpoint(source, ours)
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"cannot read the tokenizer .*tokenizer\.model"):
        import_checkpoint(source, ours)
    text = iter(["the quick brown fox jumps over the lazy dog"] * 9)
    prefix = str(source / "tokenizer")
    SentencePieceTrainer.train(
        sentence_iterator=text, model_prefix=prefix, vocab_size=300, byte_fallback=True, model_type="bpe", minloglevel=2
    )
    with pytest.raises(CheckpointError, match=r"tokenizer\.model has 300 ids, but the weights have 97 rows"):
        import_checkpoint(source, ours)


def test_a_padded_embedding_is_taken_with_its_tokenizer(hub: ModuleType, tmp_path: Path) -> None:
    source = source_of(hub, "llama", tmp_path / "source")
    write_tokenizer(source, hub.VOCABULARY - 7)
    import_checkpoint(source, tmp_path / "ours")
    assert (tmp_path / "ours/tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_a_destination_that_is_taken(hub: ModuleType, tmp_path: Path) -> None:
    source, taken = source_of(hub, "llama", tmp_path / "source"), tmp_path / "taken"
    taken.mkdir()
    import_checkpoint(source, taken)  # An empty folder is as good as none.
    before = sorted((path.name, path.stat().st_mtime_ns) for path in taken.iterdir())
    for place in (taken, source, taken / "model.json"):
        with pytest.raises(CheckpointError, match="exists already"):
            import_checkpoint(source, place)
    with pytest.raises(CheckpointError, match=r"cannot write .*model\.json/deeper"):
        import_checkpoint(source, taken / "model.json" / "deeper")
    assert sorted((path.name, path.stat().st_mtime_ns) for path in taken.iterdir()) == before


def test_a_full_disk_leaves_nothing(hub: ModuleType, tmp_path: Path, ours: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    source = source_of(hub, "llama", tmp_path / "source")
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from sidewinder.imports import import_checkpoint; from sidewinder.errors import CheckpointError\n"
        "import sidewinder.imports.huggingface; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try: import_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except CheckpointError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(source), str(ours)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot write" in said
    assert "free disk space" in said
