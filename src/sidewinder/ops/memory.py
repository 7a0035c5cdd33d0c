"""One setting of the C library's allocator that makes training on a CPU a few per cent faster and steadier."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Tells the allocator to keep freed memory for the next tensor instead of giving it back to the system.

    Otherwise every step asks for the same pages again and the kernel clears them again: up to 25,000 page faults,
    50 ms, in a training step of the toy Transformer. Returns False, and changes nothing, where the C library is not
    glibc. Call it once, before the first large tensor.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
