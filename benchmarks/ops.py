"""Times each operation on one GPU: the plain PyTorch form, the peers that are installed, and ours, on the same inputs.

    python benchmarks/ops.py [--only convolution …] [--forms ours peer torch] [--json out.json]

Shapes are those of the 8B models and of models near 1B: 4 × 4096 tokens, bfloat16 with float32 parameters. A time is
the GPU's: the median of replays of a recorded CUDA graph between two events (of plain runs for the plain form).
`share` is the bytes that must move (each input read once, each output and gradient written once) over the time, against
the bandwidth of a large copy measured in the same run. `host` is the processor's time to launch forward and backward
once, in ms; in training it hides behind the GPU's. The last column is the time of the best peer, or of the plain form
where there is no peer, over ours, forward and backward together.
Peers: mamba-ssm (state-space duality, gated norm, selective scan if compiled), causal-conv1d, torch.nn.functional.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from sidewinder.ops import dispatch
from timing import copy_bandwidth, graph_milliseconds, host_milliseconds, milliseconds

BATCH, LENGTH = 4, 4096
PLAIN_RUNS = 3
"""Runs of the plain forms, some of which take seconds."""


@dataclass(frozen=True)
class Case:
    """One operation at one shape. `forms` maps a form's kind to its name and function of the inputs."""

    operation: str
    shape: str
    inputs: dict[str, Tensor]
    forms: dict[str, tuple[str, Callable[..., Tensor]]]
    forward_bytes: int
    backward_bytes: int


@dataclass(frozen=True)
class Row:
    operation: str
    shape: str
    form: str
    kind: str
    forward_ms: float | None
    both_ms: float | None
    forward_share: float | None
    both_share: float | None
    host_ms: float | None = None
    note: str = ""


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def convolution() -> Iterator[Case]:
    from sidewinder.ops.causal_conv1d import causal_conv1d
    from sidewinder.ops.causal_conv1d_triton import causal_conv1d_triton

    def cudnn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        padded_BCT = F.pad(x.transpose(1, 2), (3, 0))
        return F.silu(F.conv1d(padded_BCT, weight.to(x.dtype), bias.to(x.dtype), groups=len(bias))).transpose(1, 2)

    forms = {
        "torch": ("torch", lambda x, weight, bias: causal_conv1d(x, weight, bias)[0]),
        "peer": ("F.conv1d", cudnn),
        "ours": ("ours", lambda x, weight, bias: causal_conv1d_triton(x, weight, bias)[0]),
    }
    if (theirs := optional("causal_conv1d", "causal_conv1d_fn")) is not None:
        forms["peer 2"] = (
            "causal-conv1d",
            lambda x, weight, bias: theirs(x.transpose(1, 2), weight[:, 0], bias, activation="silu").transpose(1, 2),
        )
    for shape, z, channels, heads in (("Mamba-2 8B", 8192, 10240, 128), ("Mamba-2 1B", 4096, 6144, 64)):
        projected = normal(BATCH, LENGTH, z + channels + heads)
        x = projected[..., z : z + channels]
        inputs = {"x": x, "weight": normal(channels, 1, 4, dtype=torch.float32), "bias": normal(channels).float()}
        yield Case("convolution", shape, inputs, forms, 2 * bytes_of(x), 3 * bytes_of(x))


def gated_norm() -> Iterator[Case]:
    from sidewinder.ops.gated_norm import gated_norm as plain
    from sidewinder.ops.gated_norm_triton import gated_norm_triton

    forms = {
        "torch": ("torch", lambda x, z, weight: plain(x, z, weight, 1e-5, 8)),
        "ours": ("ours", lambda x, z, weight: gated_norm_triton(x, z, weight, 1e-5, 8)),
    }
    if (theirs := optional("mamba_ssm.ops.triton.layernorm_gated", "rmsnorm_fn")) is not None:

        def mamba_ssm(x: Tensor, z: Tensor, weight: Tensor) -> Tensor:
            size = x.shape[-1] // 8
            return theirs(x, weight, None, z=z, eps=1e-5, group_size=size, norm_before_gate=False)

        forms["peer"] = ("mamba-ssm", mamba_ssm)
    for shape, inner, rest in (("Mamba-2 8B", 8192, 10368), ("Mamba-2 1B", 4096, 6208)):
        x, z = normal(BATCH, LENGTH, inner), normal(BATCH, LENGTH, inner + rest)[..., :inner]
        inputs = {"x": x, "z": z, "weight": torch.ones(inner, device="cuda")}
        yield Case("gated norm", shape, inputs, forms, 3 * bytes_of(x), 5 * bytes_of(x))


def selective_scan() -> Iterator[Case]:
    from sidewinder.ops.selective_scan import selective_scan as plain
    from sidewinder.ops.selective_scan_triton import selective_scan_triton

    forms = {
        "torch": ("torch", lambda **inputs: plain(**inputs)[0]),
        "ours": ("ours", lambda **inputs: selective_scan_triton(**inputs)[0]),
    }
    theirs = optional("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    if theirs is not None and hasattr(sys.modules["selective_scan_cuda"], "fwd"):
        forms["peer"] = ("mamba-ssm", TimeLast(theirs))
    for shape, channels, states in (("8B state 128", 8192, 128), ("8B state 16", 8192, 16), ("1B state 16", 4096, 16)):
        x = normal(BATCH, LENGTH, channels)
        inputs = {
            "x_BLD": x,
            "dt_BLD": F.softplus(normal(BATCH, LENGTH, channels) - 4),
            "A_DN": -torch.arange(1, states + 1, device="cuda").float().repeat(channels, 1),
            "B_BLN": normal(BATCH, LENGTH, states),
            "C_BLN": normal(BATCH, LENGTH, states),
            "D_D": torch.ones(channels, device="cuda"),
        }
        yield Case("selective scan", shape, inputs, forms, 3 * bytes_of(x), 5 * bytes_of(x))


class TimeLast:
    """mamba-ssm's scan on inputs whose time is the last dimension in memory, as its own layer keeps them."""

    def __init__(self, scan: Callable[..., Tensor]) -> None:
        self.scan = scan

    @staticmethod
    def prepared(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: part.mT.contiguous() if part.dim() == 3 else part for key, part in inputs.items()}

    def __call__(self, **i: Tensor) -> Tensor:
        return self.scan(i["x_BLD"], i["dt_BLD"], i["A_DN"], i["B_BLN"], i["C_BLN"], i["D_D"])


def state_space_duality() -> Iterator[Case]:
    from sidewinder.ops.ssd import ssd as plain
    from sidewinder.ops.ssd_triton import ssd_triton

    forms: dict[str, tuple[str, Callable[..., Tensor]]] = {
        "torch": ("torch", lambda **inputs: plain(**inputs, chunk=128)[0]),
        "ours": ("ours", lambda **inputs: ssd_triton(**inputs, chunk=128)[0]),
    }
    if (theirs := optional("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")) is not None:

        def mamba_ssm(**i: Tensor) -> Tensor:
            return theirs(i["x_BLHP"], i["dt_BLH"], i["A_H"], i["B_BLGN"], i["C_BLGN"], chunk_size=256, D=i["D_H"])

        forms["peer"] = ("mamba-ssm, chunk 256", mamba_ssm)
    for shape, heads in (("Mamba-2 8B", 128), ("Mamba-2 1B", 64)):
        inner = heads * 64
        x, b, c = normal(BATCH, LENGTH, inner + 2048).split([inner, 1024, 1024], dim=-1)
        inputs = {
            "x_BLHP": x.unflatten(-1, (heads, 64)),
            "dt_BLH": F.softplus(normal(BATCH, LENGTH, heads).float() - 4),
            "A_H": -torch.linspace(1, 16, heads, device="cuda"),
            "B_BLGN": b.unflatten(-1, (8, 128)),
            "C_BLGN": c.unflatten(-1, (8, 128)),
            "D_H": torch.ones(heads, device="cuda"),
        }
        yield Case("SSD", shape, inputs, forms, bytes_of(x, x, b, c), 3 * bytes_of(x) + 4 * bytes_of(b))


def cross_entropy() -> Iterator[Case]:
    from sidewinder.ops.cross_entropy_triton import cross_entropy_triton

    def whole(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy((hidden @ weight.T).float(), targets)

    def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy_triton(hidden, weight, targets)

    forms = {"torch": ("all logits", whole), "ours": ("ours", ours)}
    for shape, channels, vocabulary in (("8B", 4096, 256_000), ("1B", 2048, 32_000)):
        hidden, weight = normal(BATCH * LENGTH, channels), normal(vocabulary, channels) / channels**0.5
        targets = torch.randint(vocabulary, (BATCH * LENGTH,), device="cuda")
        inputs = {"hidden": hidden, "weight": weight, "targets": targets}
        yield Case("cross-entropy", shape, inputs, forms, bytes_of(hidden, weight), 2 * bytes_of(hidden, weight))


OPERATIONS = {
    "convolution": convolution,
    "gated-norm": gated_norm,
    "selective-scan": selective_scan,
    "ssd": state_space_duality,
    "cross-entropy": cross_entropy,
}


def optional(module: str, name: str) -> Callable[..., Tensor] | None:
    """A peer's function, or None where the peer is not installed."""
    import importlib
    from types import ModuleType

    try:
        importlib.import_module("selective_scan_cuda")
    except ImportError:
        sys.modules["selective_scan_cuda"] = ModuleType("selective_scan_cuda")
    try:
        found: Callable[..., Tensor] = getattr(importlib.import_module(module), name)
    except ImportError:
        return None
    return found


def measure(case: Case, kind: str, bandwidth: float) -> Row:
    """Times one form; the plain one is what our operations are where no kernels are installed."""
    if kind == "torch":
        with patch.object(dispatch, "HAS_TRITON", False):
            return _measure(case, kind, bandwidth)
    return _measure(case, kind, bandwidth)


def _measure(case: Case, kind: str, bandwidth: float) -> Row:
    name, form = case.forms[kind]
    inputs = form.prepared(case.inputs) if isinstance(form, TimeLast) else case.inputs
    inputs = {key: part.detach().requires_grad_(part.is_floating_point()) for key, part in inputs.items()}
    wanted = [part for part in inputs.values() if part.requires_grad]
    gpu_ms = partial(milliseconds, runs=PLAIN_RUNS) if kind == "torch" else graph_milliseconds
    try:
        y = form(**inputs)
        dy = torch.randn_like(y) if y.dim() else torch.ones_like(y)
        del y
        with torch.no_grad():
            forward_ms = gpu_ms(lambda: form(**inputs))
        both_ms = gpu_ms(lambda: torch.autograd.grad(form(**inputs), wanted, dy))
        host_ms = host_milliseconds(lambda: torch.autograd.grad(form(**inputs), wanted, dy))
    except Exception as error:  # a peer may fail in any way: its row says how
        torch.cuda.empty_cache()
        return Row(
            case.operation, case.shape, name, kind, None, None, None, None, None, " ".join(str(error).split())[:80]
        )
    forward_share = case.forward_bytes / (forward_ms * 1e-3) / bandwidth
    both_share = (case.forward_bytes + case.backward_bytes) / (both_ms * 1e-3) / bandwidth
    return Row(case.operation, case.shape, name, kind, forward_ms, both_ms, forward_share, both_share, host_ms)


def show(rows: list[Row]) -> None:
    """Prints the rows of one operation at one shape, ours last with the ratio."""
    for row in rows:
        start = f"{row.operation:16}{row.shape:16}{row.form:24}"
        if row.forward_ms is None or row.both_ms is None:
            print(start + row.note)
            continue
        rivals = [other for other in rows if other.kind.startswith("peer")] or [o for o in rows if o.kind == "torch"]
        times = [other.both_ms for other in rivals if other.both_ms is not None]
        ratio = f"{min(times) / row.both_ms:.2f}" if times and row.kind == "ours" else ""
        shares = f"{row.forward_share or 0:8.2f}{row.both_share or 0:8.2f}{row.host_ms or 0:8.2f}"
        print(f"{start}{row.forward_ms:12.3f}{row.both_ms:10.3f}{shares}  {ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--forms", nargs="+", choices=("torch", "peer", "ours"), default=["torch", "peer", "ours"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {bandwidth / 1e12:.2f} TB/s")
    heads = f"{'forward ms':>12}{'both ms':>10}{'share':>8}{'share':>8}{'host':>8}  ratio"
    print(f"{'operation':16}{'shape':16}{'form':24}{heads}")
    rows: list[Row] = []
    for operation in arguments.only:
        for case in OPERATIONS[operation]():
            kinds = [kind for kind in case.forms if kind.split()[0] in arguments.forms]
            measured = [measure(case, kind, bandwidth) for kind in sorted(kinds, key=lambda kind: kind == "ours")]
            show(measured)
            rows += measured
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
