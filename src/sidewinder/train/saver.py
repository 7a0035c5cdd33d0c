"""Writes and reads resumable saves with torch.distributed.checkpoint: each process its part, on any mesh.

Tensors carry the names of whole parameters and know where their shards lie, so what one mesh has saved another can
load. On a GPU the writing goes on beside training: the tensors are copied to the CPU first, a thread writes them and
takes the digests of what it wrote, and a save counts only once every process has done so.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future as Written

from sidewinder.errors import CheckpointError
from sidewinder.model.checkpoint import check_tensors
from sidewinder.train.parallel.world import FOR_EVER, World
from sidewinder.train.saves import (
    Files,
    Save,
    described,
    drop_old,
    explained,
    hidden,
    measured,
    publish,
    saves,
    set_aside,
    tidy,
    unwritable,
    verify,
)

Tensors = dict[str, Tensor]


@dataclass
class _Pending:
    """A save that is being written; `written` tells of the files of this process."""

    part: Path
    step: int
    tokens: int
    started: float
    stall_s: float
    written: Future[Files]


class _Writer(FileSystemWriter):
    """Says why a write failed on the process where it did: only there are its bytes and its disk known."""

    def __init__(self, part: Path, needed_bytes: int, **options: Any) -> None:
        super().__init__(part, **options)
        self.state, self.needed_bytes = part.parent, needed_bytes

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Written[list[WriteResult]]:
        with self._saying_why():
            return super().write_data(plan, planner)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        with self._saying_why():
            super().finish(metadata, results)

    @contextmanager
    def _saying_why(self) -> Iterator[None]:
        with explained(self.state, needed_bytes=self.needed_bytes):
            try:
                yield
            except RuntimeError as error:
                # torch reports a full disk as a position in a file that it did not expect: the room tells more.
                if shutil.disk_usage(self.state).free < self.needed_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                raise


@dataclass
class Saver:
    """The resumable saves of one stage. Every process calls every method, at the same step."""

    state: Path
    identity: str
    world: World
    keep: int
    keep_every_tokens: int | None = None
    """Saves that pass a multiple of it are milestones, which are kept for ever."""
    asynchronous: bool = False
    warn: Callable[[str], None] = print
    _pending: _Pending | None = None
    _group: Any = field(default=None, init=False)
    _thread: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sidewinder-save")
        # A single process saves alone, and means to.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        if self.world.device_mesh is not None:
            # Writing talks among the processes while training does: not in the same group. It may take longer than
            # any step; the watchdog watches the training that waits for it.
            self._group = dist.new_group(backend="gloo", timeout=FOR_EVER)

    def start(self, step: int, tokens: int, tensors: Tensors) -> None:
        """Begins to write the save of a step, or writes all of it where saving is not asynchronous.

        Raises CheckpointError where its folder cannot be made; what goes wrong later, `finish` raises.
        """
        started, part = time.perf_counter(), hidden(self.state, step)
        self.world.alone_first(lambda: self._make(part))
        if self.asynchronous:
            # Training is about to change them. torch's own stager copies a shard twice.
            copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            written = self._thread.submit(self._write, part, copies)
        else:
            written = _done(lambda: self._write(part, tensors))
        self._pending = _Pending(part, step, tokens, started, time.perf_counter() - started, written)

    @property
    def written(self) -> bool:
        """Whether this process has a save that is written, or has failed, and waits for `finish`."""
        return self._pending is not None and self._pending.written.done()

    @property
    def busy(self) -> bool:
        """Whether a save has been begun and not finished."""
        return self._pending is not None

    def finish(self) -> dict[str, Any]:
        """Waits for the save, makes it count, drops old ones; returns step, bytes and seconds for the metrics.

        Raises CheckpointError, on every process, that names the one that could not write, and why; earlier saves are
        then as they were.
        """
        pending, self._pending = self._pending, None
        assert pending is not None
        waited = time.perf_counter()
        try:
            own = self.world.together(lambda: self._result(pending.written))
        except CheckpointError:
            shutil.rmtree(pending.part, ignore_errors=True)
            raise
        files: Files = {name: entry for part in self.world.gathered(own) for name, entry in part.items()}
        self.world.alone_first(lambda: self._publish(pending, files))
        now = time.perf_counter()
        return {
            "step": pending.step,
            "bytes": sum(entry["bytes"] for entry in files.values()),
            "save_s": round(now - pending.started, 6),
            "stall_s": round(pending.stall_s + now - waited, 6),
        }

    def newest(self) -> Save | None:
        """The newest save that is whole and of this stage's identity, after tidying; None where there is none.

        A damaged save is set aside with a warning that names its broken file.
        """
        damaged = False
        self.world.alone_first(self._tidy)
        for folder in self.world.alone_first(lambda: list(reversed(saves(self.state)))):
            try:
                found = self.world.together(lambda folder=folder: self._verified(folder))  # type: ignore[misc]
            except CheckpointError as error:
                damaged = True
                aside = self.world.alone_first(lambda folder=folder: set_aside(folder))  # type: ignore[misc]
                self.warn(f"{error}; set aside as {aside.name}, the save before it is used")
                continue
            return found
        if damaged:
            self.warn(f"{self.state} holds no whole save: training starts again from its first step")
        return None

    def restore(self, kept: Save, tensors: Tensors) -> None:
        """Reads a save into tensors, in place. Raises CheckpointError that lists every tensor that does not fit."""
        reader = FileSystemReader(kept.folder)
        try:
            stored = reader.read_metadata().state_dict_metadata
            found = {name: list(entry.size) for name, entry in stored.items() if hasattr(entry, "size")}
            check_tensors(kept.folder, {name: list(tensor.shape) for name, tensor in tensors.items()}, found)
            load(tensors, storage_reader=reader, process_group=self._group, no_dist=self._group is None)
        except (CheckpointException, CheckpointError) as error:
            raise CheckpointError(
                f"{kept.folder} does not fit the model: {error}",
                remedy=f"it was written by other code; delete {self.state} to train from the start",
            ) from error

    def _make(self, part: Path) -> None:
        with explained(self.state):
            part.mkdir(parents=True)

    def _tidy(self) -> None:
        with explained(self.state):
            tidy(self.state, self.identity, self.warn)

    def _verified(self, folder: Path) -> Save:
        found = described(folder)
        verify(found, self.world.rank, self.world.size)
        return found

    def _write(self, part: Path, tensors: Tensors) -> Files:
        """Writes this process's part; size and digest of its files. The first one also describes those of all."""
        # What lies on the CPU already needs no copying ahead.
        options = {"per_thread_copy_ahead": 0} if self.asynchronous else {}
        writer = _Writer(part, sum(_local_bytes(tensor) for tensor in tensors.values()), **options)
        save(tensors, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
        with explained(self.state):
            own = list(part.glob(f"__{self.world.rank}_*"))
            return measured([*own, part / ".metadata"] if self.world.first else own)

    def _result(self, written: Future[Files]) -> Files:
        """What `_write` returned. Raises CheckpointError for what it raised; names the process where torch does."""
        try:
            return written.result()
        except CheckpointException as failed:
            rank, (cause, _) = min(failed.failures.items())
            error = self._explained(cause)
            if self.world.size > 1:
                error = CheckpointError(f"rank {rank}: {error}")
            error.everywhere = True
            raise error from failed
        except (OSError, RuntimeError) as failed:
            raise self._explained(failed) from failed

    def _explained(self, cause: BaseException) -> CheckpointError:
        if isinstance(cause, CheckpointError):
            return cause
        if isinstance(cause, OSError):
            return unwritable(self.state, cause)
        return CheckpointError(
            f"cannot write to {self.state}: {cause!r}",
            remedy="run the same command again: it goes on from the newest save; the earlier saves are intact",
        )

    def _publish(self, pending: _Pending, files: Files) -> None:
        with explained(self.state):
            publish(
                pending.part,
                step=pending.step,
                tokens=pending.tokens,
                identity=self.identity,
                milestone=self._is_milestone(pending.tokens),
                files=files,
            )
            drop_old(self.state, self.keep)

    def _is_milestone(self, tokens: int) -> bool:
        """Whether a multiple of `keep_every_tokens` lies between the save before and this one."""
        if self.keep_every_tokens is None:
            return False
        earlier = [described(folder).tokens for folder in saves(self.state)]
        before = max((count for count in earlier if count < tokens), default=0)
        return tokens // self.keep_every_tokens > before // self.keep_every_tokens


def _done(work: Callable[[], Files]) -> Future[Files]:
    """Does the work now; what it raises is kept for whoever asks for the result."""
    done: Future[Files] = Future()
    try:
        done.set_result(work())
    except (Exception, CheckpointException) as error:
        done.set_exception(error)
    return done


def _local_bytes(tensor: Tensor) -> int:
    to_local = getattr(tensor, "to_local", None)
    own: Tensor = tensor if to_local is None else to_local()
    return own.nbytes
