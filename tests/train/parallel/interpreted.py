"""A rank as in ranks.py whose operations are the GPU's kernels, run by Triton's interpreter (TRITON_INTERPRET=1)."""

from __future__ import annotations

from sidewinder.ops import dispatch

dispatch.on_gpu = lambda x: x.dtype in dispatch.FAST_DTYPES  # Before the operations take it from there.

import ranks  # noqa: E402

if __name__ == "__main__":
    ranks.main()
