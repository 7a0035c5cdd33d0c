# mypy: ignore-errors
# Triton compiles these functions from a subset of Python: no annotations, tuples by +, constants tested by themselves.
"""Loss of each token from its logits, and the gradient of the logits in their place.

Shapes: V vocabulary, in blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def loss_kernel(
    logits, targets, count, losses, vocabulary, IGNORED: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    """A token a program: its loss; with GRADIENT its logits give way to their gradient."""
    row = tl.program_id(0).to(tl.int64)
    v = tl.arange(0, BLOCK)
    logits += row * vocabulary
    target = tl.load(targets + row)
    kept = target != IGNORED
    largest_V = tl.full([BLOCK], float("-inf"), tl.float32)
    total_V = tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocabulary, BLOCK):
        logits_V = tl.load(logits + first + v, mask=first + v < vocabulary, other=float("-inf")).to(tl.float32)
        higher_V = tl.maximum(largest_V, logits_V)
        # −inf − −inf where neither holds a logit yet: there the sum stays 0.
        base_V = tl.where(higher_V == float("-inf"), 0.0, higher_V)
        total_V = total_V * tl.exp(largest_V - base_V) + tl.exp(logits_V - base_V)
        largest_V = higher_V
    largest = tl.max(largest_V)
    log_sum = largest + tl.log(tl.sum(total_V * tl.exp(largest_V - largest)))
    own = tl.load(logits + target, mask=kept, other=0.0).to(tl.float32)
    tl.store(losses + row, tl.where(kept, log_sum - own, 0.0))
    if GRADIENT:
        # Every thread must have read the target's logit before any overwrites it.
        tl.debug_barrier()
        scale = tl.where(kept, 1.0 / tl.load(count).to(tl.float32), 0.0)
        for first in range(0, vocabulary, BLOCK):
            logits_V = tl.load(logits + first + v, mask=first + v < vocabulary, other=float("-inf")).to(tl.float32)
            gradient_V = (tl.exp(logits_V - log_sum) - tl.where(first + v == target, 1.0, 0.0)) * scale
            tl.store(logits + first + v, gradient_V.to(logits.dtype.element_ty), mask=first + v < vocabulary)
