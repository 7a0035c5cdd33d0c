"""Checkpoints that are damaged, foreign, incomplete or have no equal here: named errors, and nothing left behind."""

from __future__ import annotations

import resource
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sidewinder.errors import CheckpointError
from sidewinder.imports.megatron import import_megatron
from sidewinder.model import load_model

FILE = "release/mp_rank_00/model_optim_rng.pt"
Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[Path], str]:
    """Imports, and returns the error's text after checking that nothing was left."""

    def importing(source: Path) -> str:
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(CheckpointError) as caught:
            import_megatron(source, tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        assert "\n  remedy: " in str(caught.value)
        return str(caught.value)

    return importing


@pytest.fixture
def hybrid(writer: Any, make_model: Any, tmp_path: Path) -> Path:
    return writer.write_model(make_model("hybrid"), tmp_path / "in", tensor=2)


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Replaces or removes records of a file of torch.save."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            if (new := change(name, content)) is not None:
                archive.writestr(name, new)


def with_tensors(writer: Any, make_model: Any, folder: Path, change: Change, name: str = "hybrid") -> Path:
    """A checkpoint on two ranks, the tensors of the second changed."""
    model = make_model(name)
    states = [writer.rank_state(model, at, 2, 0, 1, False) for at in range(2)]
    change(states[1])
    return writer.write_files([states], writer.arguments_of(model, tensor=2, pipeline=1, later=True), folder)


def test_everything_wrong_with_tensors_is_listed_at_once(
    writer: Any, make_model: Any, tmp_path: Path, refused: Any
) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        del state["decoder.layers.0.mixer.D"], state["output_layer.weight"]
        state["decoder.layers.2.mixer.out_proj.weight"] = torch.zeros(32, 30)
        state["decoder.layers.3.self_attention.q_layernorm.weight"] = torch.zeros(8)
        state["embedding.position_embeddings.weight"] = torch.zeros(64, 32)

    error = refused(with_tensors(writer, make_model, tmp_path / "in", change))
    for line in (
        "5 tensors differ",
        "missing: mp_rank_01: decoder.layers.0.mixer.D [4]",
        "missing: mp_rank_01: output_layer.weight [48, 32]",
        "extra: mp_rank_01: decoder.layers.3.self_attention.q_layernorm.weight [8]",
        "extra: mp_rank_01: embedding.position_embeddings.weight [64, 32]",
        "wrong shape: mp_rank_01: decoder.layers.2.mixer.out_proj.weight [32, 30], expected [32, 32]",
    ):
        assert line in error


def test_half_a_block_is_missed(writer: Any, make_model: Any, tmp_path: Path, refused: Any) -> None:
    """A Transformer's block without its MLP is not taken for an attention layer."""
    model = make_model("transformer")
    state = writer.rank_state(model, 0, 1, 0, 1, False)
    for name in [name for name in state if name.startswith("decoder.layers.1.mlp")]:
        del state[name]
    arguments = writer.arguments_of(model, tensor=1, pipeline=1, later=True)
    error = refused(writer.write_files([[state]], arguments, tmp_path / "in"))
    assert "missing: mp_rank_00: decoder.layers.1.mlp.linear_fc2.weight [32, 64]" in error
    assert "2 tensors differ" in error


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_layers": 9}, "num_layers is 9, but there are tensors of 6 layers"),
        ({"hybrid_override_pattern": "M-M-*M"}, "hybrid_override_pattern is 'M-M-*M', but the tensors are of 'M-M*-M'"),
        ({"hidden_size": 64}, "hidden_size: 64 after the arguments, 32 after the tensors"),
        ({"ffn_hidden_size": 50}, "ffn_hidden_size: 50 after the arguments, 48 after the tensors"),
        ({"num_query_groups": 2}, "num_query_groups: 2 after the arguments, 4 after the tensors"),
        ({"group_query_attention": False}, "num_query_groups: 8 after the arguments, 4 after the tensors"),
        ({"num_attention_heads": 7}, "kv_channels: 64 is not a multiple of 7"),
        ({"num_attention_heads": ...}, "num_attention_heads: neither the arguments nor the tensors tell it"),
        ({"kv_channels": 4}, "kv_channels: 4 after the arguments, 8 after the tensors"),
        ({"swiglu": True}, "linear_fc1: 48 rows for width 48, where swiglu is True"),
        ({"mamba_num_groups": 8}, "mixer.conv1d: 64 channels of B, but 8 groups of 16 states"),
        ({"mamba_num_groups": ..., "mamba_state_dim": ...}, "64 channels of B, but 8 groups of 128 states"),
        ({"mamba_head_dim": 64}, "mamba_head_dim: 64 after the arguments, 8 after the tensors"),
        ({"norm_epsilon": 1e-6}, "norm_epsilon: 1e-06; with Mamba-2 only 1e-05"),
        ({"normalization": "CustomNorm"}, "normalization: CustomNorm; only RMSNorm and LayerNorm are known"),
        ({"position_embedding_type": "yarn"}, "position_embedding_type: yarn; only rope and none are known"),
        ({"seq_length": ..., "max_position_embeddings": ...}, "seq_length: neither the arguments nor the tensors"),
        ({"untie_embeddings_and_output_weights": False}, "our models have a head of their own"),
        ({"rotary_interleaved": True}, "rotary_interleaved = True changes what the layers compute"),
        ({"apply_residual_connection_post_layernorm": True}, "has no equal here"),
        ({"padded_vocab_size": 128}, "embedding.word_embeddings.weight [48, 32], expected [64, 32]"),
        ({"hidden_size": "wide"}, "argument hidden_size = 'wide' should be a whole number"),
        ({"seq_length": [[7]]}, "argument seq_length = a list should be a whole number"),
        ({"seq_length": True}, "argument seq_length = True should be a whole number"),
        ({"tensor_model_parallel_size": 4}, "saved with tensor-parallel 4, but has files of 2 tensor-parallel"),
        (
            {"pipeline_model_parallel_size": 2},
            "saved with pipeline-parallel 2, but has files of 2 tensor-parallel and 1",
        ),
    ],
)
def test_arguments_against_tensors(
    writer: Any, make_model: Any, tmp_path: Path, refused: Any, changed: dict[str, Any], said: str
) -> None:
    assert said in refused(writer.write_model(make_model("hybrid"), tmp_path / "in", tensor=2, **changed))


def test_a_transformer_whose_activation_is_not_told(writer: Any, make_model: Any, tmp_path: Path, refused: Any) -> None:
    source = writer.write_model(make_model("transformer"), tmp_path / "in", squared_relu=...)
    assert "squared_relu: missing" in refused(source)


def test_groups_that_ranks_cannot_share(writer: Any, make_model: Any, tmp_path: Path, refused: Any) -> None:
    model = make_model("hybrid", mamba2={"state_size": 32, "head_size": 8, "groups": 2})
    states = [writer.rank_state(model, at, 4, 0, 1, False) for at in range(4)]
    for at, state in enumerate(states):  # What such a rank would hold is not defined; the counts alone are wrong.
        for name in ("mixer.conv1d.weight", "mixer.conv1d.bias"):
            full = f"decoder.layers.0.{name}"
            state[full] = states[at % 2][full][: 16 + 32]
    arguments = writer.arguments_of(model, tensor=4, pipeline=1, later=True)
    error = refused(writer.write_files([states], arguments, tmp_path / "in"))
    assert "mamba_num_groups: 2 cannot be shared by 4 tensor-parallel ranks" in error


@pytest.mark.parametrize("kept", [0, 3, 1000, 0.5, 0.9, -1])
def test_truncated_files(hybrid: Path, refused: Any, kept: float) -> None:
    path = hybrid / FILE
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if 0 < kept < 1 else int(kept)])
    error = refused(hybrid)
    assert str(path) in error
    assert "truncated" in error or "is empty" in error or "does not begin" in error


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello, this is text", "does not begin as a file of torch.save does"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 17309000000\n", "Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "does not begin as a file of torch.save does"),
    ],
)
def test_foreign_files(hybrid: Path, refused: Any, content: bytes, said: str) -> None:
    (hybrid / FILE).write_bytes(content)
    assert said in refused(hybrid)


def test_other_files_of_torch_save(hybrid: Path, refused: Any) -> None:
    path = hybrid / FILE
    content = {"state_dict": {"a": torch.ones(2)}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert "before PyTorch 1.6" in refused(hybrid)
    torch.save(content, path)
    assert "has no `model`; it holds state_dict" in refused(hybrid)
    torch.save([1, 2], path)
    assert "has no `model`; it holds a list" in refused(hybrid)
    torch.save({"model": {"a": torch.ones(2)}, "checkpoint_version": 3.0}, path)
    assert "has no `args`" in refused(hybrid)
    torch.save({"model": {"language_model": {"encoder": {}}}, "checkpoint_version": 3.0}, path)
    assert "legacy classes" in refused(hybrid)
    torch.save({"model0": {}, "model1": {}, "checkpoint_version": 3.0}, path)
    assert "without virtual pipeline stages" in refused(hybrid)
    torch.save({"model": {}, "checkpoint_version": 1.0}, path)
    assert "checkpoint version 1.0" in refused(hybrid)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "not one that torch.save wrote" in refused(hybrid)


def test_damaged_records(hybrid: Path, refused: Any) -> None:
    """A record too short, one missing; every tensor in them is listed. torch.load with mmap would read on."""
    kept = (hybrid / FILE).read_bytes()

    def damage(name: str, content: bytes) -> bytes | None:
        number = name.rpartition("/data/")[2]
        return None if number == "3" else content[:-2] if number in ("4", "5") else content

    rewritten(hybrid / FILE, damage)
    error = refused(hybrid)
    assert "3 tensors cannot be read" in error
    assert error.count("mp_rank_00: ") == 3
    assert "record data/3 is missing" in error
    assert "record data/4 has" in error
    (hybrid / FILE).write_bytes(kept)
    rewritten(hybrid / FILE, lambda name, content: b"big" if name.endswith("byteorder") else content)
    assert "byte order" in refused(hybrid)


def test_compressed_records(hybrid: Path, refused: Any) -> None:
    path = hybrid / FILE
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    assert "compressed or damaged" in refused(hybrid)


def test_views_beyond_their_storage(writer: Any, make_model: Any, tmp_path: Path, refused: Any) -> None:
    """A view that claims more than its storage holds, as only a forged file can."""
    source = writer.write_model(make_model("mamba2"), tmp_path / "in")

    def forge(name: str, content: bytes) -> bytes:
        # The last layer's D: 8 numbers; let its view begin at the second.
        return content.replace(b"K\x00K\x08\x85", b"K\x01K\x08\x85") if name.endswith("data.pkl") else content

    rewritten(source / FILE, forge)
    assert "it reaches element 9 of a storage of 8" in refused(source)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state["output_layer.weight"].fill_(float("nan")), "output_layer.weight (ours: head.weight)"),
        (
            lambda state: state.update({"output_layer.weight": torch.zeros(48, 32, dtype=torch.int32)}),
            "IntStorage cannot hold weights",
        ),
        (
            lambda state: state.update({"output_layer.weight": torch.zeros(48, 32, dtype=torch.float16)}),
            "output_layer.weight: FloatStorage and HalfStorage on different ranks",
        ),
        (lambda state: state["decoder.layers.0.norm.weight"].add_(1), "the copies of tensor-parallel ranks differ"),
    ],
)
def test_values_that_cannot_be(
    writer: Any, make_model: Any, tmp_path: Path, refused: Any, change: Change, said: str
) -> None:
    def on_copies(state: dict[str, torch.Tensor]) -> None:
        state.update({name: value.clone() for name, value in state.items()})
        change(state)

    assert said in refused(with_tensors(writer, make_model, tmp_path / "in", on_copies))


def test_missing_ranks(writer: Any, make_model: Any, tmp_path: Path, refused: Any) -> None:
    source = writer.write_model(make_model("hybrid"), tmp_path / "in", tensor=4)
    shutil.rmtree(source / "release" / "mp_rank_03")
    assert "saved with tensor-parallel 4, but has files of 3" in refused(source)
    (source / "release" / "mp_rank_01" / "model_optim_rng.pt").unlink()
    assert "misses mp_rank_01/model_optim_rng.pt" in refused(source)
    grid = writer.write_model(make_model("hybrid"), tmp_path / "grid", tensor=2, pipeline=2)
    shutil.rmtree(grid / "release" / "mp_rank_00_001")
    assert "misses mp_rank_00_001/model_optim_rng.pt" in refused(grid)


def test_ranks_of_different_saves(writer: Any, make_model: Any, tmp_path: Path, refused: Any) -> None:
    model = make_model("hybrid")
    arguments = writer.arguments_of(model, tensor=2, pipeline=1, later=True)
    states = [[writer.rank_state(model, at, 2, 0, 1, False) for at in range(2)]]
    for iteration in (100, 200):
        writer.write_files(states, arguments, tmp_path / "in", iteration=iteration)
    shutil.rmtree(tmp_path / "in" / "iter_0000200" / "mp_rank_01")
    shutil.copytree(tmp_path / "in" / "iter_0000100" / "mp_rank_01", tmp_path / "in" / "iter_0000200" / "mp_rank_01")
    assert "different iterations (mp_rank_00: 200, mp_rank_01: 100)" in refused(tmp_path / "in")


def test_folders_that_are_no_checkpoints(hybrid: Path, tmp_path: Path, refused: Any) -> None:
    assert "there is no folder" in refused(tmp_path / "nowhere")
    assert "there is no folder" in refused(hybrid / FILE)
    (tmp_path / "empty").mkdir()
    assert "holds no mp_rank_… folder" in refused(tmp_path / "empty")
    (tmp_path / "empty" / ".metadata").touch()
    assert "distributed checkpoint" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "mp_rank_00_000_001").mkdir()
    assert "mixtures of experts" in refused(tmp_path / "empty")
    tracker = hybrid / "latest_checkpointed_iteration.txt"
    tracker.write_text("soon")
    assert "should hold `release` or an iteration, not 'soon'" in refused(hybrid)
    tracker.write_text("7")
    assert "names iter_0000007, which is not in" in refused(hybrid)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 16 KiB: as on a full disk, writing fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full(hybrid: Path, refused: Any, small_files: None) -> None:
    assert "cannot write" in refused(hybrid)


def test_an_existing_destination_stays(hybrid: Path, tmp_path: Path) -> None:
    import_megatron(hybrid, tmp_path / "out")
    written = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="exists already"):
        import_megatron(hybrid, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == written
    load_model(tmp_path / "out")
