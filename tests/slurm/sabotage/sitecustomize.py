"""Makes training slow or faulty, on PYTHONPATH of a job: BRAKE_S seconds a step, death at step CRASH_AT, or MEMORY_MB.

Python runs a module of this name when it starts. Nothing here changes what is computed.
"""

import os
import resource
import signal
import time


def slow_or_deadly() -> None:
    """Wraps the data loader, which every step asks once."""
    from sidewinder.tokens.loader import BlendLoader

    read = BlendLoader.sequences

    def sequences(self, first, count):
        time.sleep(float(os.environ.get("BRAKE_S", 0)))
        if first >= int(os.environ.get("CRASH_AT_SEQUENCE", 1 << 60)):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, first, count)

    BlendLoader.sequences = sequences


if "SLURM_PROCID" in os.environ and "BRAKE_S" in os.environ:
    slow_or_deadly()
if "SLURM_PROCID" in os.environ and "MEMORY_MB" in os.environ:
    size = int(os.environ["MEMORY_MB"]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
