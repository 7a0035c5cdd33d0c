"""`sidewinder tokens`: the stage, and a look into what it made."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from sidewinder.config import load_study
from sidewinder.graph import Graph
from sidewinder.options import DEFAULT, Config, Log

Tokens = Annotated[Path, typer.Argument(help="A shard's folder or prefix, or a blend.json.")]


def register(app: typer.Typer, logged: Callable[[Path | None], AbstractContextManager[None]]) -> None:
    """Adds the commands; `logged` copies messages into a file."""
    tokens = typer.Typer(invoke_without_command=True)
    app.add_typer(tokens, name="tokens")

    @tokens.callback()
    def encode(
        context: typer.Context,
        into: Annotated[Path | None, typer.Option(help="The folder to fill, as `sidewinder plan` lists it.")] = None,
        config: Config = DEFAULT,
        threads: Annotated[int, typer.Option(min=1, help="Threads that encode.")] = 1,
        log: Log = None,
    ) -> None:
        """Tokenizes one shard into .bin/.idx; `inspect` looks into them."""
        if context.invoked_subcommand:
            return
        if into is None:
            raise typer.BadParameter("missing; or did you mean `sidewinder tokens inspect PATH`?", param_hint="--into")
        from sidewinder.tokens.encode import encode_shard

        graph = Graph(load_study(config))
        with logged(log):
            encode_shard(graph, *graph.shard_at(into), threads=threads)

    @tokens.command()
    def inspect(
        path: Tokens,
        at: Annotated[int | None, typer.Option(help="Decode from this position on.")] = None,
        count: Annotated[int, typer.Option(min=1, help="How many tokens, or documents, to show.")] = 64,
        document: Annotated[list[int] | None, typer.Option(help="Decode this document.")] = None,
        documents: Annotated[int | None, typer.Option(help="List documents from this one on.")] = None,
        verify: Annotated[bool, typer.Option(help="Compare the files with the digests that records hold.")] = False,
        shard: Annotated[str, typer.Option(help="Of a blend, the shards that begin so: english/train-00000.")] = "",
        tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer file, where no record names it.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="For programs instead of people.")] = False,
    ) -> None:
        """Decodes positions, lists documents, verifies digests; without options, tells what there is."""
        from sidewinder.tokens.inspect import open_tokens

        files = open_tokens(path, shard, tokenizer)
        found: dict[str, Any] = {}
        if at is not None:
            found["at"] = files.at(at, count)
        if document:
            found["read"] = [files.document(number) for number in document]
        if documents is not None:
            found["documents"] = files.documents(documents, count)
        if verify:
            found["verified"] = files.verify()
        _print(found or {"shards": files.summary()}, as_json)


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    from sidewinder.tokens.show import show

    show(found, Console(width=None if sys.stdout.isatty() else 160))
