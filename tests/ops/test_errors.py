"""Every CPU form of every operation against its float64 reference: outputs, final states, every gradient.

The comparison is that of benchmarks/errors.py: with and without an initial state, with and without packed documents.
"""

from __future__ import annotations

import pytest
import torch

from errors import DTYPES, LENGTHS, Case, cases, compare, main
from operations import Form, Operation, operations
from sidewinder.ops.linear_scan import scan_forward_

BOUND = {"float64": 1e-12, "float32": 5e-6, "bfloat16": 2**-8}
# Exponents are differences of sums over a chunk, which reach 10³ here; the gradient of a head's rate sums them all.
RATES = {"float64": 1e-12, "float32": 1e-4, "bfloat16": 2**-8}


def bound(operation: Operation, quantity: str, dtype: str) -> float:
    return (RATES if operation.name == "SSD" and quantity in ("d A_H", "d dt_BLH") else BOUND)[dtype]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", operations("cpu"))
def test_every_form_is_near_its_reference(name: str, length: int) -> None:
    for operation in operations("cpu")[name]:
        for case in cases(operation, (length,)):
            for form, dtype, found in compare(operation, case, "cpu", list(DTYPES)):
                if isinstance(found, Exception):
                    raise found
                assert found, (form.name, dtype)
                wrong = {what: error for what, error in found.items() if not error <= bound(operation, what, dtype)}
                assert not wrong, (operation.name, form.name, dtype, str(case))


def test_what_is_wrong_or_fails_is_seen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison itself: a form that forgets the state, one that gives NaN, one that raises."""
    (operation,) = operations("cpu")["linear-scan"][:1]

    def broken(a_T: torch.Tensor, b_T: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel\nfor this")

    forms = [
        Form("forgets", lambda a_T, b_T: b_T),
        Form("nan", lambda a_T, b_T: b_T * torch.nan),
        Form("raises", broken),
        Form("right", lambda a_T, b_T: scan_forward_(a_T, b_T.clone())),
    ]
    made = Operation("scan", operation.draw, operation.reference, forms, gradients=False)
    found = {form.name: errors for form, _, errors in compare(made, Case(9, False, False), "cpu", ["float64"])}
    assert found["forgets"]["output"] > 0.1
    assert found["nan"]["output"] != found["nan"]["output"]
    assert isinstance(found["raises"], RuntimeError)
    assert found["right"]["output"] < 1e-15

    monkeypatch.setattr("errors.operations", lambda device: {"linear-scan": [made]})
    monkeypatch.setattr("sys.argv", ["errors.py", "--device", "cpu", "--types", "float64", "--lengths", "9"])
    assert main() == 1
    table = capsys.readouterr().out
    assert "| scan | nan | float64 | nan |" in table
    assert "| scan | raises | float64 | failed at 9: RuntimeError: no kernel for this |" in table
