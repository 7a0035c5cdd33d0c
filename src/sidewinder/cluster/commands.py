"""Commands of the command line that concern jobs: launch, status, logs, cancel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from sidewinder.config import load_study
from sidewinder.graph import Graph

Config = Annotated[Path, typer.Option(help="The study.", envvar="SIDEWINDER_CONFIG")]
Run = Annotated[str, typer.Argument(help="A run or a stage: hybrid-s1, hybrid-s1/extend-1024, or the folder's name.")]
DEFAULT = Path("config.yaml")


def register(app: typer.Typer, logged: Callable[[Path | None], AbstractContextManager[None]]) -> None:
    """Adds the commands; `logged` copies messages into a file."""

    @app.command()
    def launch(
        into: Annotated[Path, typer.Option(help="The folder of the stage, named as `sidewinder plan` lists it.")],
        config: Config = DEFAULT,
        ask: Annotated[list[str] | None, typer.Option(help="A resource, as slurm_partition=gpu.")] = None,
        log: Annotated[Path | None, typer.Option(help="Also write messages to this file.")] = None,
    ) -> None:
        """Trains one stage, as a job where the profile says so; waits for it, and finds it again if it is there."""
        from sidewinder.cluster.ask import parse_ask
        from sidewinder.cluster.control import launch as run

        graph = Graph(load_study(config))
        with logged(log):
            run(graph, graph.stage_at(into), parse_ask(ask or []))
