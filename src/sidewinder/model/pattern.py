"""Layer patterns: one letter a layer (`M` Mamba-2, `m` Mamba-1, `*` attention, `-` MLP), and the paper's rule."""

from __future__ import annotations

LAYER_KINDS = {"M": "mamba2", "m": "mamba1", "*": "attention", "-": "mlp"}


def check_pattern(pattern: str) -> str:
    """Returns `pattern`, or raises ValueError that names its first bad letter and the allowed ones."""
    allowed = ", ".join(f"'{letter}' {kind}" for letter, kind in LAYER_KINDS.items())
    if not pattern:
        raise ValueError(f"the pattern is empty; write one letter a layer: {allowed}")
    for place, letter in enumerate(pattern):
        if letter not in LAYER_KINDS:
            raise ValueError(f"bad letter {letter!r} at place {place} of pattern {pattern!r}; allowed: {allowed}")
    return pattern


def allocate(layers: int, attention: float, mlp: float) -> str:
    """Pattern of `layers` letters with the given shares spread evenly (paper, Appendix A, Algorithm 1).

    Counts are rounded half to even, and the counters below keep the paper's order of double-precision operations,
    because many points sit exactly on the threshold.
    """
    attention_layers = round(layers * attention)
    run = (layers - attention_layers) / (attention_layers + 1)
    pattern = _spread(["M"] * layers, "*", run)
    mlp_layers = round(layers * mlp)
    if mlp_layers:
        mamba_layers = layers - attention_layers - mlp_layers
        pattern = _spread(pattern, "-", mamba_layers / mlp_layers)
    return "".join(pattern)


def _spread(pattern: list[str], letter: str, run: float) -> list[str]:
    """Turns an `M` into `letter` each time a counter, one less at every `M`, falls below one half."""
    left, out = run, []
    for old in pattern:
        if old != "M":
            out.append(old)
        elif left < 0.5:
            out.append(letter)
            left += run
        else:
            out.append(old)
            left -= 1
    return out
