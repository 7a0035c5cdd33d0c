"""Resumable saves: everything that training needs to go on as if it had never stopped.

    <stage folder>/state/step-00000123/     model.safetensors  optimizer.safetensors  state.json

A save is written into a hidden folder beside its place, forced to the disk and renamed, so that it is whole or absent.
state.json holds step, tokens, the identity of the job and the digest of every file; a save that does not match is set
aside with a warning and the one before it is used. No random numbers are drawn while training (no dropout; the data
order is a function of seed and step), so a save holds no generator state.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from sidewinder.errors import CheckpointError
from sidewinder.record import digest, file_digest

ABOUT = "state.json"


@dataclass(frozen=True)
class Save:
    """A verified save."""

    folder: Path
    step: int
    tokens: int

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one file of the save (`model` or `optimizer`), on the CPU."""
        return safetensors.torch.load_file(self.folder / f"{part}.safetensors")


def write_save(
    state: Path, *, step: int, tokens: int, identity: str, parts: dict[str, dict[str, Tensor]], keep: int
) -> int:
    """Writes one save, then deletes all but the newest `keep`. Returns its size in bytes.

    Raises CheckpointError where the disk is full or the folder not writable; earlier saves are then as they were.
    """
    # Serialised in memory rather than by save_file, whose own writing reports a full disk without an errno.
    files = {f"{part}.safetensors": safetensors.torch.save(tensors) for part, tensors in parts.items()}
    about = {"step": step, "tokens": tokens, "identity": identity}
    sizes = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    about["files"] = sizes
    files[ABOUT] = json.dumps(about | {"sha256": digest(about)}, indent=1).encode()
    needed = sum(len(data) for data in files.values())
    with explained(state, needed_bytes=needed):
        _put(state, f"step-{step:08d}", files)
        for old in saves(state)[:-keep]:
            _remove(old)
    return needed


def saves(state: Path) -> list[Path]:
    """Folders of the saves, oldest first."""
    return sorted(path for path in state.glob("step-*") if path.is_dir())


def tidy(state: Path, identity: str, warn: Callable[[str], None]) -> None:
    """Clears what an interrupted run left half-done, and moves saves of another configuration or corpus aside."""
    for path in sorted(state.glob(".step-*")):
        shutil.rmtree(path)
    moved: set[Path] = set()
    for save in saves(state):
        other = _identity(save)
        if other not in (None, identity):
            aside = state.with_name(f"{state.name}-{other[:8]}")
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / save.name, ignore_errors=True)
            save.rename(aside / save.name)
            moved.add(aside)
    for aside in sorted(moved):
        warn(
            f"{state} held saves of another configuration or corpus: they are now in {aside}, and training starts "
            f"afresh; delete {aside} when you do not need it"
        )


def latest(state: Path, identity: str, warn: Callable[[str], None]) -> Save | None:
    """The newest save that is whole and of this identity; None where there is none.

    A damaged save is renamed to `damaged-…` after a warning that names its broken file, so that it can be looked at
    and is not counted among the saves to keep.
    """
    damaged = False
    for folder in reversed(saves(state)):
        try:
            return _verified(folder, identity)
        except CheckpointError as error:
            damaged = True
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            warn(f"{error}; set aside as {aside.name}, the save before it is used")
    if damaged:
        warn(f"{state} holds no whole save: training starts again from its first step")
    return None


@contextmanager
def explained(folder: Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turns an OSError of writing into a CheckpointError that names folder, bytes needed and free, and remedy."""
    try:
        yield
    except OSError as error:
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(place).free
        needed = f"{needed_bytes:,} bytes needed, " if needed_bytes is not None else ""
        raise CheckpointError(
            f"cannot write to {folder}: {error.strerror or error} ({needed}{free:,} free)",
            remedy="free space or make the folder writable, then run the same command again: it goes on from the "
            "newest save; the earlier saves are intact",
        ) from error


def _put(state: Path, name: str, files: dict[str, bytes]) -> None:
    """Writes a folder of files so that it appears whole, on the disk, under its name."""
    part = state / f".{name}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for file, data in files.items():
            with (part / file).open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        _sync(part)
        _remove(state / name)
        part.rename(state / name)
        _sync(state)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _remove(save: Path) -> None:
    """Deletes a save by way of a hidden name, so that a kill half-way leaves nothing that looks like a save."""
    if save.exists():
        hidden = save.with_name(f".{save.name}.old")
        shutil.rmtree(hidden, ignore_errors=True)
        save.rename(hidden)
        shutil.rmtree(hidden)


def _sync(folder: Path) -> None:
    """Forces a folder's entries (not its files' content) to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _identity(save: Path) -> str | None:
    """The identity that a save claims; None where state.json cannot be read."""
    try:
        return str(json.loads((save / ABOUT).read_text())["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _verified(folder: Path, identity: str) -> Save:
    """Compares every file with its digest. Raises CheckpointError that names the first one that differs."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        whole = about.pop("sha256") == digest(about) and about["identity"] == identity
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"damaged save: {folder / ABOUT} cannot be read ({error})") from error
    if not whole:
        raise CheckpointError(f"damaged save: {folder / ABOUT} does not have the digest written in it")
    for name, expected in about["files"].items():
        if fault := _fault(folder / name, expected["bytes"], expected["sha256"]):
            raise CheckpointError(f"damaged save: {folder / name} {fault}")
    return Save(folder, about["step"], about["tokens"])


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
