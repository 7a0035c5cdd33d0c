"""Finds the files of a Megatron checkpoint: one a pair of tensor-parallel and pipeline-parallel rank."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sidewinder.errors import CheckpointError

TRACKER = "latest_checkpointed_iteration.txt"
FILE = "model_optim_rng.pt"
RANK = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?(?:_(\d{3,}))?")
DISTRIBUTED = (".metadata", "metadata.json", "common.pt")
REMEDY = f"give the folder that holds {TRACKER}, or the `release` or `iter_…` folder in it"


@dataclass(frozen=True)
class Files:
    """`paths[pipeline][tensor]`, and the folders in which a tokenizer may lie."""

    folder: Path
    paths: list[list[Path]]
    beside: list[Path]


def find_files(source: Path) -> Files:
    """Finds all ranks' files. Raises CheckpointError where there is no classic checkpoint, or ranks are missing."""
    if not source.is_dir():
        raise CheckpointError(f"there is no folder {source}", remedy=REMEDY)
    folder = _iteration_folder(source)
    ranks = _ranks(folder)
    if not ranks:
        _explain(folder)
    tensor, pipeline = (1 + max(rank[place] for rank in ranks) for place in (0, 1))
    named = any(name.count("_") == 3 for name in ranks.values())
    paths = [[folder / _name(at, stage, named) / FILE for at in range(tensor)] for stage in range(pipeline)]
    missing = [str(path.relative_to(folder)) for stage in paths for path in stage if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} has ranks up to tensor-parallel {tensor - 1}, pipeline-parallel {pipeline - 1}, but misses "
            f"{', '.join(missing)}",
            remedy="fetch the missing files",
        )
    return Files(folder, paths, [source] if source == folder else [source, folder])


def _iteration_folder(source: Path) -> Path:
    tracker = source / TRACKER
    if not tracker.is_file():
        return source
    text = tracker.read_text(errors="replace").strip()
    if text != "release" and not text.isdecimal():
        raise CheckpointError(f"{tracker} should hold `release` or an iteration, not {text[:40]!r}", remedy=REMEDY)
    folder = source / (text if text == "release" else f"iter_{int(text):07d}")
    if not folder.is_dir():
        raise CheckpointError(f"{tracker} names {folder.name}, which is not in {source}", remedy="fetch that folder")
    return folder


def _ranks(folder: Path) -> dict[tuple[int, int], str]:
    """Folder names by (tensor, pipeline) rank."""
    found = {}
    for path in sorted(folder.iterdir()):
        if match := RANK.fullmatch(path.name):
            tensor, pipeline, expert = match.groups()
            if expert is not None:
                raise CheckpointError(
                    f"{path} belongs to an expert-parallel checkpoint; mixtures of experts are not imported",
                    remedy="import a dense model",
                )
            found[int(tensor), int(pipeline or 0)] = path.name
    return found


def _name(tensor: int, pipeline: int, named: bool) -> str:
    return f"mp_rank_{tensor:02d}" + (f"_{pipeline:03d}" if named else "")


def _explain(folder: Path) -> None:
    if any((folder / name).exists() for name in DISTRIBUTED):
        raise CheckpointError(
            f"{folder} is a distributed checkpoint (torch_dist or zarr), which is not imported",
            remedy="convert it with Megatron: load it and save with --ckpt-format torch",
        )
    raise CheckpointError(f"{folder} holds no mp_rank_… folder", remedy=REMEDY)
