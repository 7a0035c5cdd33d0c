"""The tensors of all ranks of a checkpoint, before anything is known of the model."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidewinder.errors import CheckpointError
from sidewinder.imports.megatron.archive import Archive
from sidewinder.imports.megatron.arguments import Arguments
from sidewinder.imports.megatron.folder import Files
from sidewinder.imports.megatron.pickled import StoredTensor

LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
IGNORED = ("_extra_state", "rotary_pos_emb.inv_freq")
"""Ends of names that are no weights: Transformer Engine's notes, and frequencies that follow from the arguments."""
KINDS = {"mixer.": "M", "self_attention.": "*", "mlp.": "-"}
OLDEST_VERSION = 3.0
Tensors = dict[str, StoredTensor]


@dataclass(frozen=True)
class Rank:
    """One file: its tensors by Megatron's name, and what else its top level says."""

    label: str
    archive: Archive
    tensors: Tensors
    iteration: int | None

    def problems(self) -> list[str]:
        """Why tensors cannot be read, each with its name."""
        told = ((name, self.archive.problem(tensor)) for name, tensor in self.tensors.items())
        return [f"{self.label}: {name}: {problem}" for name, problem in told if problem]


@dataclass(frozen=True)
class State:
    """`ranks[pipeline][tensor]`, and the arguments, which all ranks share."""

    folder: Path
    ranks: list[list[Rank]]
    arguments: Arguments

    @property
    def tensor_parallel(self) -> int:
        return len(self.ranks[0])

    def common(self, dimension: int, *names: str) -> int | None:
        """The most common length of one dimension among tensors of these names (a layer's without its prefix).

        One damaged tensor thus does not change what all the others say. None where there is no such tensor.
        """
        lengths: Counter[int] = Counter()
        for rank in (rank for stage in self.ranks for rank in stage):
            for full, tensor in rank.tensors.items():
                match = LAYER.fullmatch(full)
                if (match[2] if match else full) in names and len(tensor.shape) > dimension:
                    lengths[tensor.shape[dimension]] += 1
        return lengths.most_common(1)[0][0] if lengths else None


def read_state(files: Files) -> State:
    """Opens every rank. Raises CheckpointError where files are damaged, foreign or from different saves."""
    archives = [[Archive(path) for path in stage] for stage in files.paths]
    first = archives[0][0]
    arguments = Arguments(_top(first).get("args"), first.path)
    _check_parallel(arguments, files)
    ranks = [[_rank(archive) for archive in stage] for stage in archives]
    saved = {rank.iteration for stage in ranks for rank in stage}
    if len(saved) > 1:
        listed = ", ".join(f"{rank.label}: {rank.iteration}" for stage in ranks for rank in stage)
        raise CheckpointError(
            f"the ranks of {files.folder} come from different iterations ({listed})",
            remedy="fetch all ranks of one iteration",
        )
    return State(files.folder, ranks, arguments)


def layer_kinds(state: State) -> list[list[str]]:
    """Per pipeline stage, what each Megatron layer holds: `M`, `*`, `-`, or `*-` (the Transformer's blocks)."""
    problems: list[str] = []
    stages = []
    for stage in state.ranks:
        held: dict[int, str] = {}
        for name in (name for rank in stage for name in rank.tensors):
            if match := LAYER.fullmatch(name):
                index, letters = int(match[1]), held.setdefault(int(match[1]), "")
                letter = next((letter for start, letter in KINDS.items() if match[2].startswith(start)), "")
                held[index] = letters + letter if letter not in letters else letters
        layers = ["".join(sorted(held.get(index, ""))) for index in range(1 + max(held, default=-1))]
        stages.append(layers)
        problems += [
            f"{stage[0].label}: decoder.layers.{index} holds {letters or 'no known layer'}"
            for index, letters in enumerate(layers)
            if letters not in ("M", "*", "-", "*-")
        ]
    together = {letters for layers in stages for letters in layers}
    if "*-" in together and "M" not in together:  # Blocks: where one half seems absent, its tensors are missing.
        stages = [["*-"] * len(layers) for layers in stages]
    problems += _against_arguments(state.arguments, stages)
    if problems:
        listed = "\n    ".join(problems)
        raise CheckpointError(
            f"{state.folder} does not hold a model that can be imported:\n    {listed}",
            remedy="only Mamba-2, attention and MLP layers are imported; fetch it again if it should have no others",
        )
    return stages


def _against_arguments(arguments: Arguments, stages: list[list[str]]) -> list[str]:
    """What the arguments say otherwise about the layers."""
    layers, problems = [letters for stage in stages for letters in stage], []
    if not layers:
        problems.append("there are no tensors named decoder.layers.…")
    told = arguments.whole("num_layers")
    if told is not None and told != len(layers):
        problems.append(f"num_layers is {told}, but there are tensors of {len(layers)} layers")
    for name in ("hybrid_override_pattern", "hybrid_layer_pattern"):
        pattern = (arguments.text(name) or "").replace("|", "")
        if pattern and pattern != "".join(layers):
            problems.append(f"{name} is {pattern!r}, but the tensors are of {''.join(layers)!r}")
    return problems


def _top(archive: Archive) -> dict[str, Any]:
    """The top level of a file. Raises CheckpointError where it is not that of a Megatron-core checkpoint."""
    content = archive.content
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        names = sorted(name for name in content if isinstance(name, str)) if isinstance(content, dict) else []
        held = ", ".join(names[:8]) or f"a {type(content).__name__}"
        raise CheckpointError(
            f"{archive.path} has no `model`; it holds {held}",
            remedy="give a Megatron checkpoint without virtual pipeline stages (`model0`, `model1`, …)",
        )
    if "language_model" in content["model"]:
        raise CheckpointError(
            f"{archive.path} holds a model of Megatron's legacy classes",
            remedy="convert it with Megatron's tools/checkpoint/convert.py to the core classes (--saver mcore)",
        )
    version = content.get("checkpoint_version")
    if not isinstance(version, int | float) or version < OLDEST_VERSION:
        told = version if isinstance(version, int | float) else "unknown"
        raise CheckpointError(
            f"{archive.path} has checkpoint version {told}; from {OLDEST_VERSION} on the order of rows is known",
            remedy="load and save it with a newer Megatron",
        )
    return content


def _rank(archive: Archive) -> Rank:
    content = _top(archive)
    tensors = {
        name: value
        for name, value in content["model"].items()
        if isinstance(value, StoredTensor) and isinstance(name, str) and not name.endswith(IGNORED)
    }
    iteration = content.get("iteration")
    return Rank(archive.path.parent.name, archive, tensors, iteration if isinstance(iteration, int) else None)


def _check_parallel(arguments: Arguments, files: Files) -> None:
    found = {"tensor": len(files.paths[0]), "pipeline": len(files.paths)}
    told = {kind: arguments.whole(f"{kind}_model_parallel_size") for kind in found}
    wrong = [f"{kind}-parallel {told[kind]}" for kind in found if told[kind] not in (None, found[kind])]
    if wrong:
        raise CheckpointError(
            f"{files.folder} was saved with {' and '.join(wrong)}, but has files of {found['tensor']} tensor-parallel "
            f"and {found['pipeline']} pipeline-parallel ranks",
            remedy="fetch the folders of all ranks, mp_rank_00 and so on",
        )
