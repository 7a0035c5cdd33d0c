"""Commands about evaluation beside `evaluate` itself: data sets, comparisons, and lm-eval with our model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sidewinder.config import load_study
from sidewinder.graph import Graph
from sidewinder.options import DEFAULT, Config

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
datasets = typer.Typer(no_args_is_help=True, help="Data sets of evaluation tasks.")


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.add_typer(datasets, name="datasets")
    app.command()(compare)
    app.command("lm_eval", context_settings=PASSED_ON)(lm_eval)


@datasets.command("fetch")
def fetch(
    into: Annotated[Path | None, typer.Option(help="The folder; left out, the study's `data`.")] = None,
    config: Config = DEFAULT,
) -> None:
    """Fetches what the study's suites read, for machines without a network; revisions are pinned in the folder."""
    from sidewinder.errors import ConfigError
    from sidewinder.evaluate.fetch import fetch_all

    study = load_study(config)
    folder = into or (Path(study.data) if study.data else None)
    if folder is None:
        raise ConfigError("the study has no `data` folder", remedy="name one: --into FOLDER")
    fetch_all((study.suites[name] for name in study.evaluate), folder)


@datasets.command("list")
def list_(config: Config = DEFAULT) -> None:
    """Lists the data sets that the study's suites read, and whether the `data` folder has them."""
    from sidewinder.evaluate.needs import needs

    study = load_study(config)
    wanted, unknown = needs(study.suites[name] for name in study.evaluate)
    for need in wanted:
        there = study.data is not None and (Path(study.data) / need.key).exists()
        print(f"{'there' if there else '-':<6}{need.key}")
    for task in unknown:
        print(task, file=sys.stderr)


@datasets.command("tasks")
def tasks() -> None:
    """Prints the folder of our own lm-eval tasks, for its --include_path."""
    from sidewinder.evaluate.presets import FOLDER

    print(FOLDER)


def compare(
    first: Annotated[str, typer.Argument(help="A run (hybrid-s1: its last stage), or one of its stages.")],
    second: Annotated[str, typer.Argument(help="The run or stage to set beside it.")],
    suite: Annotated[str | None, typer.Option(help="Only this suite.")] = None,
    every: Annotated[bool, typer.Option("--all", help="The parts of groups too, such as MMLU's subjects.")] = False,
    config: Config = DEFAULT,
    format: Annotated[str, typer.Option(help="table, csv, json or markdown.")] = "table",
) -> None:
    """Compares two runs on the samples that both answered: differences with intervals (paired bootstrap) and p."""
    from rich.console import Console

    from sidewinder.catalog.compare import compare as paired
    from sidewinder.catalog.query import open_catalog
    from sidewinder.catalog.table import render

    with open_catalog(Graph(load_study(config)).catalog) as connection:
        answer = paired(connection, first, second, suite, every)
    print(render(answer, format, width=Console().width if sys.stdout.isatty() else None))


def lm_eval(context: typer.Context) -> None:
    """Runs lm-eval's own command with the model `sidewinder` and our tasks known to it; all arguments are its own.

    sidewinder lm_eval --model sidewinder --model_args pretrained=FOLDER --tasks piqa
    """
    from sidewinder.evaluate.command_line import run

    run(context.args)
