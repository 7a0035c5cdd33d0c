"""Errors of every form of every operation against its float64 reference: outputs, final states, every gradient.

    python benchmarks/errors.py [--device cuda] [--only ssd …] [--types float32 bfloat16] [--lengths 1 2 …] [--json F]

An error is ‖found − reference‖ / ‖reference‖ (‖found‖ where the reference is zero); a row of the table has the worst of
all lengths, with and without an initial state, with and without packed documents. Numbers are drawn so that bfloat16
holds them exactly: what is shown is the error of the operation, not of its inputs. In bfloat16 what is a parameter or
a state stays float32, as in training. A form that fails gets a row that says how, and the exit status is 1.
Forms: ours on a CPU; on a GPU our Triton kernels and the plain torch forms.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from operations import Form, Operation, operations
from sidewinder.ops.memory import keep_freed_memory

LENGTHS = (1, 2, 3, 5, 31, 63, 64, 65, 127, 128, 129, 255, 257, 1000, 1023, 1025, 4096, 4097)
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}

Values = dict[str, Any]
"""Inputs by the names that an operation gives them; what is not a tensor of numbers has no gradient."""


@dataclass
class Errors:
    """The worst errors of one form in one type, each with its case; or why it failed."""

    operation: str
    form: str
    dtype: str
    worst: dict[str, tuple[float, str]] = field(default_factory=dict)
    failure: str = ""

    def add(self, errors: dict[str, float], case: str) -> None:
        for name, error in errors.items():
            if name not in self.worst or not error <= self.worst[name][0]:  # So that NaN is kept.
                self.worst[name] = (error, case)

    @property
    def gradients(self) -> dict[str, tuple[float, str]]:
        return {name: found for name, found in self.worst.items() if name.startswith("d ")}


@dataclass(frozen=True)
class Case:
    """A length, whether there is an initial state, and whether documents are packed."""

    length: int
    initial: bool
    packed: bool

    def __str__(self) -> str:
        return f"{self.length}{' initial' if self.initial else ''}{' packed' if self.packed else ''}"


def cases(operation: Operation, lengths: tuple[int, ...]) -> Iterator[Case]:
    for length in lengths:
        for initial in (False, True) if operation.initial else (False,):
            for packed in (False, True) if operation.packed else (False,):
                yield Case(length, initial, packed)


def compare(operation: Operation, case: Case, device: str, dtypes: list[str]) -> Iterator[tuple[Form, str, Any]]:
    """For each form and type: a mapping of errors, or the exception."""
    inputs = operation.draw(case.length, case.initial, case.packed)
    wanted = evaluate(operation.reference, inputs, gradients=operation.gradients)
    for form in operation.forms:
        for dtype in dtypes:
            if case.length <= form.longest and dtype in form.dtypes:
                try:
                    yield form, dtype, errors_of(operation, form, inputs, wanted, device, DTYPES[dtype])
                except Exception as error:  # A kernel may fail in any way: its row says how.
                    yield form, dtype, error


def errors_of(
    operation: Operation, form: Form, inputs: Values, wanted: dict[str, Tensor], device: str, dtype: torch.dtype
) -> dict[str, float]:
    """Error of each output and gradient of one form."""
    narrow = {name: _as(value, name in operation.parameters, device, dtype) for name, value in inputs.items()}
    with ExitStack() as settings:
        for module, name, value in form.settings:
            settings.enter_context(patch.object(module, name, value))
        found = evaluate(form.call, narrow, gradients=operation.gradients and form.gradients)
    return {name: relative_error(value, wanted[name]) for name, value in found.items()}


def evaluate(call: Callable[..., Any], inputs: Values, *, gradients: bool) -> dict[str, Tensor]:
    """Outputs and, for random gradients of all outputs, the gradient of every input, as float64 on the CPU."""
    leaves = {name: _leaf(value) if gradients else value for name, value in inputs.items()}
    with torch.set_grad_enabled(gradients):
        outputs = call(**leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    found = dict(zip(("output", "final state"), outputs, strict=False))
    if gradients:
        wanted = {name: value for name, value in leaves.items() if isinstance(value, Tensor) and value.requires_grad}
        d_inputs = torch.autograd.grad(outputs, list(wanted.values()), _noise(outputs), allow_unused=True)
        for (name, value), d_value in zip(wanted.items(), d_inputs, strict=True):
            found[f"d {name}"] = torch.zeros_like(value) if d_value is None else d_value
    return {name: value.detach().cpu().double() for name, value in found.items()}


def relative_error(found: Tensor, reference: Tensor) -> float:
    size = reference.norm()
    return ((found - reference).norm() / (size if size > 0 else 1)).item()


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value


def _as(value: Any, parameter: bool, device: str, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        return value.to(device)
    return value.to(device, torch.float32 if parameter and dtype == torch.bfloat16 else dtype)


def _noise(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients of the outputs, the same in every type and on every device."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(out.shape, generator=generator).bfloat16().to(out.device, out.dtype) for out in outputs]


def measure(operation: Operation, lengths: tuple[int, ...], device: str, dtypes: list[str]) -> list[Errors]:
    """The worst errors of each form in each type."""
    rows: dict[tuple[str, str], Errors] = {}
    for case in cases(operation, lengths):
        for form, dtype, found in compare(operation, case, device, dtypes):
            row = rows.setdefault((form.name, dtype), Errors(operation.name, form.name, dtype))
            if isinstance(found, Exception):
                row.failure = row.failure or f"{case}: {type(found).__name__}: {' '.join(str(found).split())[:120]}"
            else:
                row.add(found, str(case))
    return list(rows.values())


def markdown(row: Errors) -> str:
    """One line of the table."""
    cells = [row.operation, row.form, row.dtype]
    if row.failure:
        return "| " + " | ".join([*cells, f"failed at {row.failure}", "", ""]) + " |"
    cells += [f"{row.worst[name][0]:.1e}" if name in row.worst else "" for name in ("output", "final state")]
    name, (error, _) = max(row.gradients.items(), key=lambda entry: entry[1][0], default=("", (0.0, "")))
    return "| " + " | ".join([*cells, f"{error:.1e} ({name})" if name else ""]) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    names = list(operations("cpu"))
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--types", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--json", type=Path, help="also write every error, with the case that it is of")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # The references take thousands of tiny steps.
    keep_freed_memory()
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}; lengths {', '.join(map(str, arguments.lengths))}\n")
    print("| operation | form | type | output | final state | worst gradient |\n|---|---|---|---|---|---|", flush=True)
    rows: list[Errors] = []
    for key in arguments.only:
        for operation in operations(arguments.device)[key]:
            made = measure(operation, tuple(arguments.lengths), arguments.device, arguments.types)
            print("\n".join(map(markdown, made)), flush=True)
            rows += made
            if arguments.json:
                arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(any(row.failure for row in rows))


if __name__ == "__main__":
    sys.exit(main())
