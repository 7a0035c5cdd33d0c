"""Memory: what this process may still take, what it took at most, and what training a tokenizer needs."""

from __future__ import annotations

import resource
from pathlib import Path

from sidewinder.errors import ConfigError

BASE_BYTES, BYTES_A_SAMPLE_BYTE = 256 << 20, 10
"""Peak memory of SentencePiece's BPE trainer, which holds all lines. Measured on code, documentation and translations:
8.6 GB for 1,000 MB and 4.0 GB for 400 MB with 256,000 pieces, 0.7 GB for 50 MB with 32,000."""
CGROUP = Path("/sys/fs/cgroup")


def tokenizer_bytes(sample_bytes: int) -> int:
    """What training a tokenizer on such a sample takes."""
    return BASE_BYTES + BYTES_A_SAMPLE_BYTE * sample_bytes


def check_memory(sample_bytes: int) -> None:
    """Raises ConfigError where the machine, or the job's share of it, has less than training would take."""
    needed, available = tokenizer_bytes(sample_bytes), available_bytes()
    if available is not None and needed > available:
        most = max(0, available - BASE_BYTES) // BYTES_A_SAMPLE_BYTE
        raise ConfigError(
            f"training a tokenizer on {sample_bytes:,} bytes takes about {needed / 2**30:.1f} GiB of memory; "
            f"{available / 2**30:.1f} GiB are available here",
            remedy=f"set tokenizer.sample_bytes to at most {most:,}, or give the job more memory",
        )


def available_bytes() -> int | None:
    """Memory that this process may still take, as far as the kernel says; None where it does not."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found = [1024 * int(lines["MemAvailable"].split()[0])]
    except (OSError, KeyError, ValueError):
        found = []
    found += [limit for limit in (_cgroup_bytes(),) if limit is not None]
    return min(found, default=None)


def peak_bytes() -> int:
    """The most memory that this process has taken since it began; a child's own usage would begin at its parent's."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    except (OSError, KeyError, ValueError):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _cgroup_bytes() -> int | None:
    """What is left below the limit of this process's control group, without its page cache."""
    try:
        name = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        folder = CGROUP / name[3:].lstrip("/")
        limit, used = (folder / "memory.max").read_text().strip(), int((folder / "memory.current").read_text())
        cache = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - used + int(cache.get("file", 0)))
    except (OSError, StopIteration, ValueError):
        return None
