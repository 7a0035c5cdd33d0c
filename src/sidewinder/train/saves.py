"""Resumable saves as folders: what they hold, which of them are whole, which are kept.

    <stage folder>/state/step-00000123/     .metadata  __0_0.distcp  __1_0.distcp  …  state.json

torch.distributed.checkpoint writes the tensors, each process its own file (`saver`). A save is written into a hidden
folder beside its place, forced to the disk and renamed, so that it is whole or absent. state.json holds step, tokens,
the identity of the job and the digest of every file; a save that does not match is set aside with a warning and the
one before it is used. No random numbers are drawn while training (no dropout; the data order is a function of seed and
step), so a save holds no generator state.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidewinder.errors import CheckpointError
from sidewinder.record import digest, file_digest, sync

ABOUT = "state.json"
Files = dict[str, dict[str, Any]]
"""Size in bytes and digest of each file of a save."""


@dataclass(frozen=True)
class Save:
    """What state.json says of a save."""

    folder: Path
    step: int
    tokens: int
    identity: str
    milestone: bool
    """Kept for ever."""
    files: Files


def saves(state: Path) -> list[Path]:
    """Folders of the saves, oldest first."""
    return sorted(path for path in state.glob("step-*") if path.is_dir())


def hidden(state: Path, step: int) -> Path:
    """Where the save of a step is written before it counts."""
    return state / f".step-{step:08d}.part"


def measured(paths: Iterable[Path]) -> Files:
    """Size and digest of files."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in sorted(paths)}


def publish(part: Path, *, step: int, tokens: int, identity: str, milestone: bool, files: Files) -> Path:
    """Makes a written save count: its state.json, then its name. Raises OSError where the disk is full."""
    about = {"step": step, "tokens": tokens, "identity": identity, "milestone": milestone, "files": files}
    with (part / ABOUT).open("w") as stream:
        json.dump(about | {"sha256": digest(about)}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    sync(part)
    place = part.with_name(f"step-{step:08d}")
    _remove(place)
    part.rename(place)
    sync(place.parent)
    return place


def drop_old(state: Path, keep: int) -> None:
    """Deletes all but the newest `keep` saves and the milestones."""
    for save in saves(state)[: -keep or None]:
        about = _about(save)
        if about is None or not about.milestone:
            _remove(save)


def drop_all(state: Path) -> None:
    """Deletes a finished stage's saves but for milestones, and the folder where nothing is left."""
    if state.exists():
        for path in sorted(state.iterdir()):
            about = _about(path)
            if about is None or not about.milestone:
                shutil.rmtree(path)
        if not any(state.iterdir()):
            state.rmdir()


def tidy(state: Path, identity: str, warn: Callable[[str], None]) -> None:
    """Clears what an interrupted run left half-done, and moves saves of another configuration or corpus aside."""
    for path in sorted(state.glob(".step-*")):
        shutil.rmtree(path)
    moved: set[Path] = set()
    for save in saves(state):
        about = _about(save)
        if about is not None and about.identity != identity:
            aside = state.with_name(f"{state.name}-{about.identity[:8]}")
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / save.name, ignore_errors=True)
            save.rename(aside / save.name)
            moved.add(aside)
    for aside in sorted(moved):
        warn(
            f"{state} held saves of another configuration or corpus: they are now in {aside}, and training starts "
            f"afresh; delete {aside} when you do not need it"
        )


def described(folder: Path) -> Save:
    """What a save says of itself. Raises CheckpointError where state.json is damaged."""
    try:
        read = json.loads((folder / ABOUT).read_text())
        sealed = read.pop("sha256") == digest(read)
        save = Save(folder, **read)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"damaged save: {folder / ABOUT} cannot be read ({error})") from error
    if not sealed:
        raise CheckpointError(f"damaged save: {folder / ABOUT} does not have the digest written in it")
    return save


def verify(save: Save, part: int = 0, parts: int = 1) -> None:
    """Compares every `parts`-th file with its digest. Raises CheckpointError for the first that differs."""
    for name, expected in sorted(save.files.items())[part::parts]:
        if fault := _fault(save.folder / name, expected["bytes"], expected["sha256"]):
            raise CheckpointError(f"damaged save: {save.folder / name} {fault}")


def set_aside(folder: Path) -> Path:
    """Renames a damaged save, so that it can be looked at and does not count among the saves to keep."""
    aside = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


@contextmanager
def explained(folder: Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turns an OSError of writing into a CheckpointError that names folder, bytes needed and free, and remedy."""
    try:
        yield
    except OSError as error:
        raise unwritable(folder, error, needed_bytes) from error


def unwritable(folder: Path, error: OSError, needed_bytes: int | None = None) -> CheckpointError:
    """What to tell of an OSError of writing: folder, bytes needed and free, and remedy."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    needed = f"{needed_bytes:,} bytes needed, " if needed_bytes is not None else ""
    return CheckpointError(
        f"cannot write to {folder}: {error.strerror or error} ({needed}{free:,} free)",
        remedy="free space or make the folder writable, then run the same command again: it goes on from the "
        "newest save; the earlier saves are intact",
    )


def _remove(save: Path) -> None:
    """Deletes a save by way of a hidden name, so that a kill half-way leaves nothing that looks like a save."""
    if save.exists():
        old = save.with_name(f".{save.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        save.rename(old)
        shutil.rmtree(old)


def _about(folder: Path) -> Save | None:
    """What a save says of itself; None where that cannot be read."""
    try:
        return described(folder)
    except CheckpointError:
        return None


def _fault(path: Path, size: int, sha256: str) -> str | None:
    """What is wrong with a file of a save; None for nothing."""
    try:
        if path.stat().st_size != size:
            return f"has {path.stat().st_size:,} bytes instead of {size:,}"
        return None if file_digest(path) == sha256 else f"does not have its digest ({sha256[:12]}…)"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
