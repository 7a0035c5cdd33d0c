"""A watchdog over a training process: one that makes no progress tells where it hangs, and ends.

A process that waits for another in a collective operation would wait for ever; ended, its launcher ends the others.
Each process has its own watchdog, so that the one that holds up the rest is found among the stacks. A process with no
stack file is the suspect: it had died, or was stuck with Python's global lock held, which stops this thread as well.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

HUNG = 124
"""Exit status of a process that its watchdog ended; the same as timeout(1)'s."""
TELLING_S = 20
"""For so long a process that ends may try to write; the disk may be what hangs."""


class Watchdog:
    """Within it, a process that is silent for `timeout_s` writes its stacks and ends with status HUNG.

    The stacks of all Python threads go to stderr and to `folder/stacks-rank<rank>-<pid>.txt`. `tell`, where given, is
    called with a one-line message before that, from another thread. Time in which the process was stopped as a whole
    (SIGSTOP, a suspended job) does not count. `timeout_s` must exceed the longest honest pause between two beats: a
    step's part, a save, the compilation of kernels in the first step. None watches over nothing.
    """

    def __init__(
        self, timeout_s: float | None, folder: Path, rank: int = 0, tell: Callable[[str], None] | None = None
    ) -> None:
        self.timeout_s, self.folder, self.rank, self.tell = timeout_s, folder, rank, tell
        self._step, self._beats = 0, 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def stacks(self) -> Path:
        """Where the stacks of this process would go."""
        return self.folder / f"stacks-rank{self.rank}-{os.getpid()}.txt"

    def beat(self, step: int) -> None:
        """Says that the process makes progress; `step` is the one at work. Costs nothing worth counting."""
        self._step = step
        self._beats += 1

    def __enter__(self) -> Self:
        if self.timeout_s is not None:
            self._thread = threading.Thread(
                target=self._watch, args=(self.timeout_s,), name="sidewinder-watchdog", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, timeout_s: float) -> None:
        look_s = min(timeout_s / 10, 5.0)
        silent_s, beats, looked = 0.0, self._beats, time.monotonic()
        while not self._done.wait(look_s):
            now = time.monotonic()
            # A longer time between two looks is one in which this thread, and so the process, was stopped.
            silent_s, looked = silent_s + min(now - looked, 2 * look_s), now
            if self._beats != beats:
                silent_s, beats = 0.0, self._beats
            elif silent_s >= timeout_s:
                self._end(silent_s, linger_s=2 * look_s)

    def _end(self, silent_s: float, linger_s: float) -> None:
        telling = threading.Thread(target=self._tell_all, args=(silent_s,), daemon=True)
        telling.start()
        telling.join(TELLING_S)
        # The watchdogs of the other processes are about to speak, before a launcher that sees us end kills them.
        time.sleep(linger_s)
        os._exit(HUNG)

    def _tell_all(self, silent_s: float) -> None:
        message = (
            f"rank {self.rank} (process {os.getpid()} on {socket.gethostname()}) made no progress for {silent_s:.0f} s "
            f"in step {self._step:,}; it ends with status {HUNG}; its stacks are in {self.stacks}"
        )
        with suppress(OSError):
            print(f"error: {message}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(2, all_threads=True)
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.stacks.open("w") as stream:
                stream.write(message + "\n\n")
                stream.flush()
                faulthandler.dump_traceback(stream, all_threads=True)
        if self.tell:
            with suppress(Exception):
                self.tell(message)
