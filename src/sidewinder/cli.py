"""The command line: one command a stage. Every rule of the workflow calls one of these, and so can a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated

import typer

from sidewinder.cluster.commands import register
from sidewinder.config import load_study, write_schema
from sidewinder.errors import ConfigError, SidewinderError
from sidewinder.evaluate.commands import register as register_evaluation
from sidewinder.graph import Graph
from sidewinder.options import DEFAULT, Config, Into, Log
from sidewinder.tokens.commands import register as register_tokens

HELP = "Controlled studies of language-model architectures: one command a stage, and `study` for all of them."
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Tells the version, and nothing else.")] = False,
) -> None:
    if version:
        print(f"sidewinder {metadata.version('sidewinder-lm')}")
        raise typer.Exit


def main() -> None:
    """Runs a command; errors that are the user's to mend are printed without a traceback, with exit status 1."""
    try:
        app()
    except SidewinderError as error:
        if not error.everywhere or os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def study(
    config: Config = DEFAULT,
    cores: Annotated[str, typer.Option(help="CPU cores to use at once, or `all`.")] = "all",
) -> None:
    """Runs the whole study, or what is left of it, with a live view of all jobs."""
    from sidewinder.launch import run_study

    sys.exit(run_study(config, cores))


@app.command()
def check(config: Config = DEFAULT) -> None:
    """Checks a study without doing any work: keys, values, files, folders, tasks and their data."""
    from sidewinder.evaluate.check import check_data
    from sidewinder.launch import check_study

    graph = Graph(load_study(config))
    check_study(graph)
    check_data(graph.study)
    print(f"{config}: {len(graph.stages)} training stages, {len(graph.records)} jobs; nothing wrong was found")


@app.command()
def plan(config: Config = DEFAULT) -> None:
    """Lists every folder that the study will fill, and whether it is done."""
    for record in Graph(load_study(config)).records:
        print(f"{'done' if record.is_file() else '-':<5}{record.parent}")


@app.command()
def models(
    config: Config = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="For programs instead of people.")] = False,
) -> None:
    """Tells what each model is and costs: pattern, parameters, training FLOPs, cache bytes."""
    from rich.console import Console

    from sidewinder.plan.models import describe_models, models_table

    described = describe_models(load_study(config))
    if as_json:
        print(json.dumps(described, indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(models_table(described))


@app.command()
def corpus(into: Into, config: Config = DEFAULT, log: Log = None) -> None:
    """Reads, cleans and splits one shard of a source."""
    from sidewinder.corpus.shard import build_shard

    graph = Graph(load_study(config))
    with _logged(log):
        build_shard(graph, *graph.corpus_at(into))


@app.command()
def deduplicate(into: Into, config: Config = DEFAULT, log: Log = None) -> None:
    """Finds duplicates among all shards of a source, gathers what is held out, and adds up the counts."""
    from sidewinder.corpus.deduplicate import deduplicate_source

    graph = Graph(load_study(config))
    with _logged(log):
        deduplicate_source(graph, graph.source_at(into))


@app.command()
def tokenizer(config: Config = DEFAULT, log: Log = None) -> None:
    """Trains the SentencePiece tokenizer on a sample of the blend."""
    from sidewinder.tokenizer.train import train_tokenizer

    with _logged(log):
        train_tokenizer(Graph(load_study(config)))


@app.command()
def blend(into: Into, config: Config = DEFAULT, log: Log = None) -> None:
    """Writes a list of shards and weights that training reads."""
    from sidewinder.tokens.blend import write_blend

    with _logged(log):
        write_blend(Graph(load_study(config)), into)


@app.command()
def pretrain(into: Into, config: Config = DEFAULT, log: Log = None) -> None:
    """Trains one model from scratch, or goes on from its last save."""
    _train("pretrain", into, config, log)


@app.command()
def extend(into: Into, config: Config = DEFAULT, log: Log = None) -> None:
    """Trains a pretrained model further at a longer context."""
    _train("extend", into, config, log)


@app.command()
def evaluate(into: Into, config: Config = DEFAULT, log: Log = None) -> None:
    """Runs one suite on one checkpoint."""
    from sidewinder.evaluate.processes import start

    with _logged(log):
        start(Graph(load_study(config)), into, config)


@app.command()
def export(into: Into, config: Config = DEFAULT, log: Log = None) -> None:
    """Writes one checkpoint in Hugging Face format and compares its logits with ours."""
    from sidewinder.export.huggingface import export_checkpoint

    graph = Graph(load_study(config))
    with _logged(log):
        export_checkpoint(graph, graph.export_at(into))


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="The folder to read: one of transformers, or one of Megatron-LM.")],
    destination: Annotated[Path, typer.Argument(help="The checkpoint folder to make.")],
    form: Annotated[str | None, typer.Option("--from", help="huggingface or megatron; left out, it is seen.")] = None,
    context_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest trained context, where the source does not say.")
    ] = None,
) -> None:
    """Turns a checkpoint of another system into one of ours: model.safetensors and model.json."""
    from sidewinder.imports import as_format, import_checkpoint
    from sidewinder.imports.summary import summary

    info = import_checkpoint(source, destination, as_format(form), context_tokens)
    print(f"{destination}\n{summary(info)}")


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder: model.safetensors and model.json.")],
    destination: Annotated[Path, typer.Argument(help="The folder to make.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="A SentencePiece model; left out, the tokenizer beside the checkpoint.")
    ] = None,
    compare: Annotated[bool, typer.Option(help="Compare logits; takes both models in float32.")] = True,
) -> None:
    """Writes any checkpoint folder in Hugging Face format, outside of a study."""
    from sidewinder.export.convert import convert_checkpoint

    target, difference = convert_checkpoint(checkpoint, destination, tokenizer=tokenizer, compare=compare)
    seen = "not compared" if difference is None else f"logits differ by {difference:.1e} at most"
    print(f"{destination}: {target.model_class}, {seen}")


@app.command()
def catalog(config: Config = DEFAULT, log: Log = None) -> None:
    """Builds the DuckDB catalog from all records below the results folder."""
    from sidewinder.catalog.build import build_catalog

    graph = Graph(load_study(config))
    with _logged(log):
        build_catalog(graph.results, graph.catalog, graph.records)


@app.command()
def cards(config: Config = DEFAULT, log: Log = None) -> None:
    """Writes the model card of every export from the catalog."""
    from sidewinder.export.cards import write_cards

    with _logged(log):
        write_cards(Graph(load_study(config)))


@app.command()
def report(config: Config = DEFAULT, log: Log = None) -> None:
    """Builds the HTML report from the catalog."""
    from sidewinder.report.build import build_report

    with _logged(log):
        build_report(Graph(load_study(config)))


@app.command()
def query(
    text: Annotated[str, typer.Argument(help="SQL, or the name of a query; leave out to list the names.")] = "",
    config: Config = DEFAULT,
    param: Annotated[list[str] | None, typer.Option(help="A parameter of a named query, as name=value.")] = None,
    format: Annotated[str, typer.Option(help="table, csv, json or markdown.")] = "table",
    live: Annotated[bool, typer.Option(help="Read the files as they are now, while jobs run.")] = False,
) -> None:
    """Asks the catalog."""
    from rich.console import Console

    from sidewinder.catalog.query import named_queries
    from sidewinder.catalog.query import query as ask
    from sidewinder.catalog.table import render

    if not text:
        for name, known in named_queries().items():
            print(f"{name:<14}{known.title}")
            for entry in known.parameters:
                told = f"{entry.name}={'…' if entry.required else entry.default or ''}"
                print(f"{'':<14}--param {told:<24}{entry.meaning}")
        return
    graph = Graph(load_study(config))
    values = dict(_assignment(pair) for pair in param or [])
    answer = ask(graph.results, text, values, live, graph.records)
    print(render(answer, format, width=Console().width if sys.stdout.isatty() else None))


@app.command()
def schema(path: Annotated[Path, typer.Argument(help="Where to write it.")]) -> None:
    """Writes the JSON schema of config.yaml, for editors and for Snakemake."""
    write_schema(path)


def _train(kind: str, into: Path, config: Path, log: Path | None) -> None:
    """Trains a stage in this process, or starts the processes of its mesh where nobody has."""
    graph = Graph(load_study(config))
    stage = graph.stage_at(into)
    with _logged(log):
        processes = stage.training.mesh.processes
        if processes > 1 and "RANK" not in os.environ:
            from sidewinder.train.gpu import check_gpus
            from sidewinder.train.parallel.spawn import SAVING_S, spawn

            check_gpus(processes, stage.training.device)
            spawn(processes, [kind, "--into", str(into), "--config", str(config)], stop_s=SAVING_S)
        else:
            import_module(f"sidewinder.train.{kind}").__dict__[kind](graph, stage)


def _assignment(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals:
        raise ConfigError(f"--param {pair}: not of the form name=value", remedy="write, for example, --param of=hybrid")
    return name, value


@contextmanager
def _logged(log: Path | None) -> Iterator[None]:
    """Copies everything that this process and its libraries write to stderr into a file as well."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    screen = os.dup(2)
    # In a session of its own, so that Ctrl-C does not take the last words away; -p: outlives a closed screen.
    tee = subprocess.Popen(["tee", "-p", log], stdin=subprocess.PIPE, stdout=screen, start_new_session=True)
    assert tee.stdin
    os.dup2(tee.stdin.fileno(), 2)
    try:
        yield
    except SidewinderError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        traceback.print_exc()
        sys.exit(2)
    finally:
        sys.stderr.flush()
        os.dup2(screen, 2)
        tee.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # A helper process of a library may hold the pipe until we end.
            tee.wait(timeout=1)


register(app, _logged)
register_evaluation(app)
register_tokens(app, _logged)
