"""Each mistake in a study file: what the user reads, and that the command ends with status 1 before any work."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidewinder.config.load import load_study, parse_study, write_schema
from sidewinder.errors import ConfigError

ROOT = Path(__file__).parents[2]
LAPTOP = yaml.safe_load((ROOT / "config.yaml").read_text())


def changed(*path: str | int, to: Any) -> Callable[[dict], None]:
    def change(values: dict) -> None:
        block: Any = values
        for part in path[:-1]:
            block = block[part]
        block[path[-1]] = to

    return change


MISTAKES = {
    "unknown key": (changed("models", "hybrid", "hiden_size", to=64), ["models.hybrid.hiden_size", "'hidden_size'"]),
    "unknown key of a union": (
        changed("sources", "code", "reader", "package", to=["x"]),
        ["sources.code.reader.package", "'packages'"],
    ),
    "unknown key of a task": (
        changed("suites", "cloze", "tasks", to=[{"task": "piqa", "shot": [0]}]),
        ["  suites.cloze.tasks.0.shot: unknown key", "rename it to 'shots'"],
    ),
    "task that is no task": (
        changed("suites", "cloze", "tasks", to=[3]),
        ["  suites.cloze.tasks.0: ", "1 mistake\n", "write a text"],
    ),
    "no kind": (
        changed("suites", "cloze", to={"tasks": ["piqa"]}),
        ["  suites.cloze: does not say its kind", "add `kind`, one of bits_per_byte, phonebook, needle, harness"],
    ),
    "word for a block": (
        changed("models", "hybrid", "mlp", to="large"),
        ["  models.hybrid.mlp: ", "write keys with values"],
    ),
    "same extension twice": (
        lambda values: values["extensions"].append(values["extensions"][0]),
        ["  extensions.3: is the same as an earlier one", "remedy: use each once"],
    ),
    "extension to less": (
        changed("extensions", 0, "context_tokens", to=256),
        ["  extensions.0.context_tokens: does not exceed the 256 tokens", "value: 256"],
    ),
    "batch of an extension on too many processes": (
        changed("extensions", 2, "mesh", to={"data": 2}),
        ["  extensions.2.mesh: mesh.data (2) must divide batch_sequences (1) (models: hybrid, transformer)\n"],
    ),
    "mesh that fits neither all models nor all stages": (
        changed("training", "mesh", to={"data": 4, "tensor": 2}),
        [
            "  training.mesh: mesh.tensor (2) must divide mamba2.groups (1) (models: hybrid, mamba2)\n",
            "  extensions.1: mesh.data (4) must divide batch_sequences (2) (models: hybrid, transformer)\n",
        ],
    ),
    "rates of one model": (
        changed("models", "hybrid", "training", to={"minimum_learning_rate": 1.0}),
        ["  models.hybrid.training: minimum_learning_rate (1) exceeds learning_rate (0.003)", "value: {'minimum_"],
    ),
    "budget of an extension": (
        changed("extensions", 0, "context_tokens", to=131_072),
        ["  extensions.0: budget_tokens (131,072) is less than one step", "(models: hybrid, transformer)"],
    ),
    "more names than there are": (
        changed("lookup", "entries", to=[2, 800_000]),
        ["  lookup.entries: a book of 800,000", "remedy: use 500,000"],
    ),
    "absent tokenizer": (
        changed("tokenizer", to="/no/such/tokenizr.model"),
        ["  tokenizer: cannot read the tokenizer /no/such/tokenizr.model", "remedy: use the path of"],
    ),
    "wrong type": (
        changed("training", "learning_rate", to="fast"),
        ["training.learning_rate", "'fast'", "write a number"],
    ),
    "wrong type in a list": (changed("seeds", to=["one"]), ["seeds.0", "'one'", "write a whole number"]),
    "blend does not sum to 1": (changed("blend", "english", to=0.6), ["blend:", "sum to 1", "0.9"]),
    "unknown source": (changed("blend", "germn", to=0.0), ["blend.germn", "unknown source", "nearest:"]),
    "unknown suite": (changed("evaluate", to=["phonebok"]), ["unknown suite 'phonebok'", "nearest: phonebook"]),
    "unknown model": (
        changed("extensions", 0, "models", to=["hybird"]),
        ["extensions.0.models", "unknown model 'hybird'", "nearest: hybrid"],
    ),
    "bad letter": (
        changed("models", "mamba2", "pattern", to="MMXM"),
        ["models.mamba2", "bad letter 'X' at place 2", "allowed: 'M' mamba2"],
    ),
    "ramp that misses the full batch": (
        changed(
            *("training", "batch_ramp"),
            to={"start_sequences": 1, "increment_sequences": 2, "over_sequences": 64},
        ),
        ["training.batch_ramp", "whole increments of 2", "start_sequences (1)", "batch_sequences (4)"],
    ),
    "first batch of a ramp on too many processes": (
        lambda values: values["training"].update(
            mesh={"data": 8},
            batch_sequences=16,
            batch_ramp={"start_sequences": 4, "increment_sequences": 4, "over_sequences": 64},
        ),
        ["  training.mesh: mesh.data (8)", "mesh.data (8) must divide batch_sequences (4)"],
    ),
    "context not a multiple of the chunk": (
        changed("training", "context_tokens", to=250),
        ["training.context_tokens", "250 is not a multiple of models", "chunk (32)", "remedy: use 224 or 256"],
    ),
    "vocabulary too large": (
        changed("tokenizer", "vocab_size", to=1_000_000),
        ["tokenizer:", "vocab_size (1,000,000) is too large", "use at least 16,000,000 bytes"],
    ),
    "heads do not divide": (
        changed("models", "hybrid", "attention", "kv_heads", to=3),
        ["models.hybrid.attention.kv_heads", "heads (2) must be a multiple of kv_heads (3)", "remedy: use 2"],
    ),
    "budget below a step": (changed("training", "budget_tokens", to=100), ["training", "less than one step"]),
    "writer that is not installed": (
        changed("training", "writers", to=["wandb"]),
        ["training.writers: not installed: wandb", "remedy: pip install wandb"],
    ),
    "missing key": (lambda values: values.pop("models"), ["models: missing"]),
    "absent folder": (
        changed("sources", "english", "reader", to={"kind": "jsonl", "path": "/no/such/folder"}),
        ["sources.english.reader.path", "/no/such/folder"],
    ),
    "absent package": (
        changed("sources", "english", "reader", "packages", to=["scipi"]),
        ["sources.english.reader.packages", "scipi", "scipy"],
    ),
    "empty source": (
        changed("sources", "english", "reader", to={"kind": "jsonl", "path": "envs"}),
        ["sources.english.reader.path", "envs"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_command_names_key_value_and_remedy(name: str, tmp_path: Path) -> None:
    change, wanted = MISTAKES[name]
    values = copy.deepcopy(LAPTOP)
    change(values)
    values["results"] = str(tmp_path / "results")
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values))
    done = subprocess.run(
        [sys.executable, "-m", "sidewinder", "check", "--config", str(file)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    for part in [*wanted, "remedy:"]:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


SHAPES = {  # Key, value, what it must divide, remedy.
    "models.hybrid.attention.kv_heads": (3, "heads (2) must be a multiple of kv_heads (3)", "use 2"),
    "models.hybrid.mamba2.head_size": (24, "must divide hidden_size x expand (128)", "use 16 or 32"),
    "models.mamba2.mamba2.groups": (3, "groups (3) must divide the 2 heads", "use 2"),
    "models.transformer.attention.rope.fraction": (0.45, "an even number of channels above 0, not 14.4", "use a frac"),
    "models.hybrid.mamba2.chunk": (48, "256 is not a multiple of models.hybrid.mamba2.chunk (48)", "use 240 or 288"),
    "extensions.0.context_tokens": (1000, "1000 is not a multiple of models", "use 992 or 1024"),
}


@pytest.mark.parametrize("key", SHAPES)
def test_what_must_divide(key: str) -> None:
    value, wanted, remedy = SHAPES[key]
    values = copy.deepcopy(LAPTOP)
    changed(*(int(part) if part.isdigit() else part for part in key.split(".")), to=value)(values)
    with pytest.raises(ConfigError) as caught:
        parse_study(values)
    told = str(caught.value)
    named = "training.context_tokens" if key.endswith("chunk") else key
    shown = 256 if key.endswith("chunk") else value
    assert f"  {named}: " in told
    assert wanted in told
    assert f"    value: {shown}\n    remedy: {remedy}" in told


def test_unwritable_results(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(LAPTOP | {"results": str(tmp_path / "file" / "results")}))
    done = subprocess.run(
        [sys.executable, "-m", "sidewinder", "check", "--config", str(file)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    assert "results: cannot write to" in done.stderr
    assert "remedy:" in done.stderr


def test_snakemake_shows_the_same_message(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(LAPTOP | {"studdy": "x", "results": str(tmp_path / "results")}))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--configfile", str(file)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    told = done.stdout + done.stderr  # In a dry run Snakemake prints everything, errors too, to stdout.
    assert "studdy: unknown key" in told
    assert "'study' (nearest)" in told


def test_all_mistakes_are_listed_at_once() -> None:
    values = copy.deepcopy(LAPTOP)
    values["studdy"] = "x"
    values["training"]["batch_sequences"] = -1
    with pytest.raises(ConfigError, match=r"2 mistakes(.|\n)*studdy(.|\n)*batch_sequences|2 mistakes(.|\n)*batch_seq"):
        parse_study(values)


def test_key_given_twice(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("study: a\nstudy: b\n")
    with pytest.raises(ConfigError, match="key 'study' is given twice"):
        load_study(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_study(tmp_path / "absent.yaml")


def test_file_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes("study: café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"study.yaml is not UTF-8(.|\n)*remedy: save it as UTF-8"):
        load_study(file)


def test_schema_into_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*schema.json: No such file"):
        write_schema(tmp_path / "absent" / "schema.json")
