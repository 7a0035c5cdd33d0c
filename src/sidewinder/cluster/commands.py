"""Commands of the command line that concern jobs: launch, status, logs, cancel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Annotated

import typer

from sidewinder.config import load_study
from sidewinder.graph import Graph
from sidewinder.options import DEFAULT, Config, Log

Run = Annotated[str, typer.Argument(help="A run or a stage: hybrid-s1, hybrid-s1/extend-1024, or the folder's name.")]


def register(app: typer.Typer, logged: Callable[[Path | None], AbstractContextManager[None]]) -> None:
    """Adds the commands; `logged` copies messages into a file."""

    @app.command()
    def launch(
        into: Annotated[Path, typer.Option(help="The folder of the stage, named as `sidewinder plan` lists it.")],
        config: Config = DEFAULT,
        ask: Annotated[list[str] | None, typer.Option(help="A resource, as slurm_partition=gpu.")] = None,
        log: Log = None,
    ) -> None:
        """Trains one stage, as a job where the profile says so; waits for it, and finds it again if it is there."""
        from sidewinder.cluster.ask import parse_ask
        from sidewinder.cluster.control import launch as run

        graph = Graph(load_study(config))
        with logged(log):
            run(graph, graph.stage_at(into), parse_ask(ask or []))

    @app.command()
    def status(
        config: Config = DEFAULT,
        once: Annotated[bool, typer.Option(help="Print the table and end, instead of keeping it up to date.")] = False,
    ) -> None:
        """Tells where every training stage stands: step, loss, speed, time left, job, attempts."""
        from sidewinder.cluster.status import show

        with suppress(KeyboardInterrupt):
            show(Graph(load_study(config)), once=once)

    @app.command()
    def logs(
        run: Run,
        config: Config = DEFAULT,
        lines: Annotated[int, typer.Option("--lines", "-n", help="How many of its last lines.")] = 20,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added.")] = False,
        task: Annotated[int, typer.Option(help="Which process of the job.")] = 0,
    ) -> None:
        """Shows what a run's newest job wrote."""
        from sidewinder.cluster.logs import newest_log, show_log
        from sidewinder.cluster.select import stages_named

        graph = Graph(load_study(config))
        path = newest_log(graph, stages_named(graph, run), task)
        print(f"{path}:", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            show_log(path, lines, follow=follow)

    @app.command()
    def cancel(run: Run, config: Config = DEFAULT) -> None:
        """Ends a run's job, and what waits for it; its saves stay."""
        from sidewinder.cluster.cancel import cancel as end
        from sidewinder.cluster.select import stages_named

        for line in end(stages_named(Graph(load_study(config)), run)):
            print(line)
