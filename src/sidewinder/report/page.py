"""Data → HTML: what each section of the report holds, and the template that it is put into."""

from __future__ import annotations

import math
from importlib import resources
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from sidewinder.report import score_tables, tables
from sidewinder.report.data import Row, StudyData
from sidewinder.report.figures.bytes import byte_figures
from sidewinder.report.figures.common import dash
from sidewinder.report.figures.cost import clock, cost_figures, timeline
from sidewinder.report.figures.lengths import length_figures
from sidewinder.report.figures.lineage import lineage_figure
from sidewinder.report.figures.loss import loss_figures
from sidewinder.report.figures.positions import position_figures
from sidewinder.report.paper_table import paper_table
from sidewinder.report.svg import mark, picture, tag
from sidewinder.report.text import NBSP, count, date, digits, power, seconds, short, size
from sidewinder.report.verdict import verdict


def page(data: StudyData) -> str:
    """The whole report."""
    main, beside, loss_table = loss_figures(data)
    lengths, lengths_table = length_figures(data)
    places, places_table = position_figures(data)
    by_source, bytes_table = byte_figures(data)
    cost, cost_table = cost_figures(data)
    gantt, kinds_table = timeline(data)
    return (
        _environment()
        .get_template("report.html")
        .render(
            name=data.name,
            subtitle=_subtitle(data),
            verdict=verdict(data),
            figures=_key_figures(data),
            legend=_legend(data),
            loss={"main": main, "beside": beside, "table": loss_table},
            lengths={"panels": lengths, "table": lengths_table},
            positions={"panels": places, "table": places_table},
            missing=tables.missing_table(data),
            bytes={"panels": by_source, "table": bytes_table},
            leaderboard=score_tables.leaderboard(data),
            scores=score_tables.all_scores(data),
            paper=paper_table(data),
            cost={"panels": cost, "table": cost_table},
            timeline={"figure": gantt, "table": kinds_table},
            models=tables.models_table(data),
            stages=tables.stages_table(data),
            corpus=tables.corpus_table(data),
            filters=tables.filters_table(data),
            dropped=tables.dropped_table(data),
            documents=tables.lengths_table(data),
            exports=tables.exports_table(data),
            lineage=lineage_figure(data),
            example=next((job["name"] for job in data.jobs if job["suite"]), "JOB"),
            code=tables.code_table(data),
            machines=tables.machines_table(data),
            superseded=tables.superseded_table(data),
            warnings=data.warnings,
            config=yaml.safe_dump(data.config, sort_keys=False, allow_unicode=True, width=100),
        )
    )


def _environment() -> jinja2.Environment:
    folder = resources.files(__package__).joinpath("templates")
    loader = jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text())
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


def _subtitle(data: StudyData) -> str:
    counts = ((data.models, "model"), (data.checkpoints, "checkpoint"), (data.seeds, "seed"))
    parts = [", ".join(_counted(len(things), word) for things, word in counts), date(data.ended_at)]
    if data.code:
        last = data.code[-1]
        parts.append(f"Sidewinder {last['version']}" + _commit(last))
    return " · ".join(parts)


def _commit(code: Row) -> str:
    if not code["commit"]:
        return ""
    return f", commit {digits(code['commit'])}" + (" with changes" if code["dirty"] else "")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _key_figures(data: StudyData) -> list[tuple[str, str, str]]:
    """(number, what it is, detail) of the tiles at the top."""
    tokens = max((stage["tokens"] or 0 for stage in data.stages if stage["kind"] == "pretrain"), default=0)
    parameters = [stage["non_embedding_parameters"] for stage in data.stages if stage["non_embedding_parameters"]]
    jobs = [job for job in data.jobs if job["started_at"] and job["ended_at"]]
    memory = max((job["peak_memory_bytes"] or 0 for job in data.jobs), default=0)
    logits = [row["max_logit_difference"] for row in data.exports if row["max_logit_difference"] is not None]
    text = math.fsum(row["bytes"] or 0 for row in data.corpus)
    tiles = [
        (short(tokens), "tokens of pretraining", "for each model") if tokens else None,
        (_span(parameters), "parameters", "without embeddings") if parameters else None,
        (size(text), "training text", _counted(len(data.corpus), "source")) if text else None,
        (
            count(sum(len(score.values) for score in data.scores)),
            "scores",
            f"of {_counted(len(data.checkpoints), 'checkpoint')}",
        ),
        (seconds(clock(jobs).total), "wall time", f"{len(data.jobs)} jobs") if jobs else None,
        (size(memory), "peak memory", "of any one process") if memory else None,
        (power(max(logits)), "largest logit difference", f"of {_counted(len(logits), 'export')}") if logits else None,
    ]
    return [tile for tile in tiles if tile]


def _span(values: list[int]) -> str:
    low, high = short(min(values)), short(max(values))
    if low == high:
        return low
    return f"{low.split(NBSP)[0]}–{high}" if low.split(NBSP)[1:] == high.split(NBSP)[1:] else f"{low} – {high}"


def _legend(data: StudyData) -> dict[str, list[dict[str, Any]]]:
    """Models with colour and sign, stages with line style: the switches of the page."""
    models = [
        {"name": model, "svg": picture(22, 14, [_sample(place)], model), "place": place}
        for place, model in enumerate(data.models)
        if any(checkpoint.model == model for checkpoint in data.checkpoints)
    ]
    stages: dict[str, Markup] = {}
    for checkpoint in sorted(data.checkpoints, key=lambda checkpoint: (checkpoint.extended, checkpoint.context_tokens)):
        line = tag("line", x1=1, x2=33, y1=7, y2=7, class_="line")
        style = tag("g", line, class_=f"neutral d{min(dash(data, checkpoint), 4)}")
        stages.setdefault(checkpoint.stage, picture(34, 14, [style], checkpoint.stage))
    return {"models": models, "stages": [{"name": name, "svg": svg} for name, svg in stages.items()]}


def _sample(place: int) -> Markup:
    line = tag("line", x1=1, x2=21, y1=7, y2=7, class_="line")
    return tag("g", line, mark(place, 11, 7, 4, "dot"), class_=f"m{place % 8} d0")
