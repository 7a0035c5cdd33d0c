"""The layer rule of the paper (Appendix A, Algorithm 1) on its worked examples, and what a pattern may hold."""

from __future__ import annotations

import pytest

from sidewinder.config.model import Allocation, ModelConfig
from sidewinder.model.pattern import allocate, check_pattern

EXAMPLES = [  # layers, attention share, MLP share, pattern
    (56, 0.08, 0.5, "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"),
    (48, 0.08, 0.5, "M-M-M--M-*M-M-M-M--*M-M-M-M-*M--M-M-M-*M-M--M-M-"),
    (24, 0.08, 0.5, "M-M-M--*M-M-M-M-*M--M-M-"),
    (28, 0.08, 0.5, "M-M-M--M-*M-M-M-M-*M--M-M-M-"),
    (40, 0.08, 0.5, "M-M-M--M-*M-M-M-M-M-*-M-M-M-M-*M--M-M-M-"),
    (64, 0.0625, 0.5, "M-M-M-M--M-M*-M-M-M-M-M--*M-M-M-M-M-M-*M--M-M-M-M-M*-M-M--M-M-M-"),
    (24, 0.1, 0.2, "MMM-MMM*M-MMM-MM*MM-MMM-"),
    (24, 0.08, 0.05, "MMMMMMM*MMMMMMMM*MMMMMM-"),
    (24, 0.08, 0.3, "MM-MM-M*M-MMM-MM*-MM-MM-"),
    (24, 0.08, 0.4, "M-M-MM-*M-M-M-M-*MM-M-M-"),
    (24, 0.04, 0.0, "MMMMMMMMMMMM*MMMMMMMMMMM"),
    (24, 0.08, 0.0, "MMMMMMM*MMMMMMMM*MMMMMMM"),
    (24, 0.16, 0.0, "MMMM*MMMM*MMMM*MMMM*MMMM"),
    (24, 0.33, 0.0, "MM*MM*M*MM*MM*MM*M*MM*MM"),
    (24, 0.5, 0.0, "M*M*M*M*M*M**M*M*M*M*M*M"),
    (24, 0.25, 0.5, "M--*M-*-M-*-M*--M*--*M--"),
    (48, 0.08, 0.0, "MMMMMMMMM*MMMMMMMMM*MMMMMMMM*MMMMMMMMM*MMMMMMMMM"),
    (48, 0.1, 0.0, "MMMMMMM*MMMMMMM*MMMMMMMM*MMMMMMM*MMMMMMM*MMMMMMM"),
    (48, 0.3, 0.0, "MM*MMM*MM*MM*MM*MMM*MM*MM*MM*MMM*MM*MM*MM*MMM*MM"),
    (48, 0.7, 0.0, "*M**M***M**M***M**M***M**M***M**M***M**M***M**M*"),
    (48, 0.08, 0.05, "MMMMMMMMM*MMMMMMMMM*MMM-MMMM*MMMMMMMMM*MMMMMMMM-"),
    (48, 0.08, 0.3, "MM-MM-MM-*MMM-MM-MM*-MM-MM-M*M-MM-MMM-*MM-MM-MM-"),
    (48, 0.25, 0.25, "MM-*MM-*MM*-MM*-MM*-MM*-M*M-M*M-M*M-M*M-*MM-*MM-"),
    (48, 0.0, 0.3, "MM-MMM-MM-MMM-MM-MMM-MM-MM-MMM-MM-MMM-MM-MMM-MM-"),
    (48, 0.0, 0.5, "M-M-M-M-M-M-M-M-M-M-M-M-M-M-M-M-M-M-M-M-M-M-M-M-"),
    (48, 0.5, 0.5, "-*-*-*-*-*-*-*-*-*-*-*-**-*-*-*-*-*-*-*-*-*-*-*-"),
    (10, 0.2, 0.0, "MMM*MM*MMM"),
    (10, 0.25, 0.0, "MMM*MM*MMM"),
    (10, 0.3, 0.3, "M-*MM*-*M-"),
    (10, 0.1, 0.1, "MMMMM*MMM-"),
    (10, 0.6, 0.0, "M**M**M**M"),
    (10, 0.0, 0.3, "MM-MMM-MM-"),
    (12, 0.08, 0.5, "M-M-M-*-M-M-"),
    (16, 0.125, 0.5, "M-M--*M-M-*M--M-"),
    (8, 0.125, 0.5, "M-M-*-M-"),
    (8, 0.25, 0.25, "MM*-M*M-"),
    (4, 0.25, 0.5, "M-*-"),
    (7, 0.5, 0.5, "-**-**-"),
    (9, 0.0, 0.0, "MMMMMMMMM"),
]


@pytest.mark.parametrize(("layers", "attention", "mlp", "pattern"), EXAMPLES)
def test_examples(layers, attention, mlp, pattern):
    assert allocate(layers, attention, mlp) == pattern
    allocation = Allocation(layers=layers, attention=attention, mlp=mlp)
    assert ModelConfig(allocation=allocation, hidden_size=256).layers == pattern


def test_a_bad_letter_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"bad letter 'X' at place 2 of pattern 'M-X'"):
        check_pattern("M-X")
    with pytest.raises(ValueError, match="empty"):
        check_pattern("")
