"""What training cost: speed, time and memory of every checkpoint, and when each job ran."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

from markupsafe import Markup

from sidewinder.report.chart import Bar, bar_chart
from sidewinder.report.data import Checkpoint, Row, StudyData
from sidewinder.report.figures.common import Figure, FigureTable, dash, switches
from sidewinder.report.svg import CHARACTER, Scale, picture, tag, text
from sidewinder.report.text import count, duration, seconds, short, size

WIDTH, LANE = 1040, 17
BREAK_SHARE, BREAK_S = 0.06, 30.0  # A pause longer than both, share of the work and seconds, is cut out.


def cost_figures(data: StudyData) -> tuple[list[Figure], FigureTable]:
    """Bars of speed, memory and time, and the table behind them."""
    panels = (
        ("Training speed", "tokens_per_s", lambda value: f"{short(value)} tok/s", "Tokens a second, over all steps."),
        (
            "Peak memory",
            "device_memory_bytes",
            size,
            "Of the GPU's allocator; on a CPU, resident memory of the process.",
        ),
        ("Training time", "train_s", seconds, "Time in training steps."),
    )
    figures = []
    for title, column, shown, caption in panels:
        bars = [bar for checkpoint in data.checkpoints if (bar := _bar(data, checkpoint, column, shown))]
        if bars:
            figures.append(Figure(title, bar_chart(f"{title} of every checkpoint", bars, 340), caption))
    return figures, _cost_table(data)


def _bar(data: StudyData, checkpoint: Checkpoint, column: str, shown: object) -> Bar | None:
    values = [row[column] for row in data.of(checkpoint) if row[column] is not None]
    if not values or not callable(shown):
        return None
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)) if values[1:] else None
    label = checkpoint.model if not checkpoint.extended else f"{checkpoint.model} {checkpoint.context_tokens:,}"
    return Bar(
        label, mean, shown(mean), checkpoint.place, dash(data, checkpoint), spread, attributes=switches(checkpoint)
    )


def _cost_table(data: StudyData) -> FigureTable:
    table = FigureTable(
        words=frozenset({"checkpoint"}),
        columns=[
            "checkpoint",
            "seed",
            "steps",
            "tokens",
            "tokens/s",
            "GFLOP/s",
            "train time",
            "CPU time",
            "device memory",
            "process memory",
            "starts",
        ],
    )
    for stage in data.stages:
        if stage["status"] == "finished":
            rate = (
                stage["tokens_per_s"] and stage["flops_per_token"] and stage["tokens_per_s"] * stage["flops_per_token"]
            )
            table.rows.append(
                [
                    f"{stage['model']} {stage['kind']}-{stage['context_tokens']}",
                    str(stage["seed"]),
                    count(stage["steps"]),
                    count(stage["tokens"]),
                    count(stage["tokens_per_s"]),
                    "–" if not rate else f"{rate / 1e9:.1f}",
                    seconds(stage["train_s"]),
                    seconds(stage["cpu_s"]),
                    size(stage["device_memory_bytes"]),
                    size(stage["peak_memory_bytes"]),
                    count(stage["attempts"]),
                ]
            )
    return table


@dataclass
class Clock:
    """Time of day → seconds of work, with long pauses cut out."""

    spans: list[tuple[float, float]]  # busy, in seconds since 1970
    breaks: list[float]  # seconds of work at which a pause was cut

    def __call__(self, moment: float) -> float:
        done = 0.0
        for start, end in self.spans:
            if moment <= end:
                return done + max(0.0, moment - start)
            done += end - start
        return done

    @property
    def total(self) -> float:
        """Seconds of work."""
        return sum(end - start for start, end in self.spans)


def clock(jobs: list[Row]) -> Clock:
    """Joins overlapping jobs and short pauses into spans."""
    times = sorted((_epoch(job["started_at"]), _epoch(job["ended_at"])) for job in jobs)
    busy = _join(times, 0.0)
    working = sum(end - start for start, end in busy)
    spans = _join(busy, max(BREAK_S, BREAK_SHARE * working))
    breaks, done = [], 0.0
    for start, end in spans[:-1]:
        done += end - start
        breaks.append(done)
    return Clock(spans, breaks)


def _join(times: list[tuple[float, float]], pause: float) -> list[tuple[float, float]]:
    spans: list[tuple[float, float]] = []
    for start, end in times:
        if spans and start - spans[-1][1] <= pause:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return spans


def _epoch(moment: datetime.datetime) -> float:
    return moment.replace(tzinfo=datetime.UTC).timestamp()


KINDS = ("corpus", "deduplicate", "tokenizer", "tokens", "blend", "pretrain", "extend", "evaluate", "export")


def timeline(data: StudyData) -> tuple[Figure | None, FigureTable]:
    """When each job ran: a row for each stage of data work and for each run."""
    jobs = [job for job in data.jobs if job["started_at"] and job["ended_at"]]
    table = _kind_table(data.jobs)
    if not jobs:
        return None, table
    time = clock(jobs)
    rows: dict[str, list[Row]] = {}
    order = {kind: place for place, kind in enumerate(KINDS)}
    for job in sorted(jobs, key=lambda job: (bool(job["run"]), order.get(job["kind"], 99) if not job["run"] else 0)):
        rows.setdefault(job["run"].rsplit("-", 1)[0] if job["run"] else job["kind"], []).append(job)
    labels = sorted(rows, key=lambda label: _row_order(label, data, order))
    left = 14 + CHARACTER * max(map(len, labels))
    scale = Scale(0, time.total or 1, left, WIDTH - 14)
    items: list[Markup] = []
    y = 8.0
    for label in labels:
        lanes = _lanes(rows[label])
        items.append(text(left - 8, y + LANE / 2 + 5, label, "tick end"))
        items.extend(_block(job, lane, y, time, scale, data) for job, lane in lanes)
        y += LANE * (1 + max(lane for _, lane in lanes)) + 7
        items.append(tag("line", x1=left, x2=WIDTH - 14.0, y1=y - 3, y2=y - 3, class_="rule"))
    for moment in time.breaks:
        items.append(tag("line", x1=scale(moment), x2=scale(moment), y1=4.0, y2=y, class_="pause"))
    for value in time_ticks(time.total, 10):
        items.append(text(scale(value), y + 16, duration(value), "tick mid"))
    svg = picture(WIDTH, y + 26, items, "When each job ran")
    pause = " Dotted lines mark pauses that are cut out." if time.breaks else ""
    caption = (
        f"{len(jobs)} jobs, {seconds(time.total)} of wall time; colours are models, shades are kinds of work.{pause}"
    )
    return Figure("When each job ran", svg, caption, scroll=True), table


def time_ticks(total: float, most: int) -> list[float]:
    """Round seconds, minutes or hours from 0 to `total`."""
    steps = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 4 * 3600, 12 * 3600, 24 * 3600)
    step = next((step for step in steps if total / step <= most), 24 * 3600 * math.ceil(total / most / 24 / 3600))
    return [float(place * step) for place in range(int(total // step) + 1)]


def _row_order(label: str, data: StudyData, order: dict[str, int]) -> tuple[int, int, str]:
    model = label.rsplit("-s", 1)[0]
    return (1, data.models.index(model), label) if model in data.models else (0, order.get(label, 99), label)


def _lanes(jobs: list[Row]) -> list[tuple[Row, int]]:
    """Puts jobs that overlap into lanes below each other."""
    ends: list[datetime.datetime] = []
    placed = []
    for job in sorted(jobs, key=lambda job: (job["started_at"], job["job"])):
        free = next((lane for lane, end in enumerate(ends) if end <= job["started_at"]), len(ends))
        ends[free:] = [job["ended_at"], *ends[free + 1 :]]
        placed.append((job, free))
    return placed


def _block(job: Row, lane: int, y: float, time: Clock, scale: Scale, data: StudyData) -> Markup:
    start, end = scale(time(_epoch(job["started_at"]))), scale(time(_epoch(job["ended_at"])))
    model = job["run"].rsplit("-s", 1)[0] if job["run"] else None
    colour = f"m{data.models.index(model) % 8}" if model in data.models else "plain"
    tip = f"{job['kind']} {job['name']}: {seconds(job['wall_s'])}, {size(job['peak_memory_bytes'])}"
    return tag(
        "rect",
        x=start,
        y=y + lane * LANE + 1.5,
        width=max(end - start - 0.8, 1.2),
        height=LANE - 3.0,
        rx=2,
        class_=f"block k-{job['kind']} {colour}",
        data_tip=tip,
        **({"data-model": model} if model else {}),
    )


def _kind_table(jobs: list[Row]) -> FigureTable:
    table = FigureTable(["kind", "jobs", "wall time", "CPU time", "longest", "largest process memory"])
    kinds = sorted({job["kind"] for job in jobs}, key=lambda kind: (KINDS.index(kind) if kind in KINDS else 99, kind))
    for kind in kinds:
        own = [job for job in jobs if job["kind"] == kind]
        table.rows.append(
            [
                kind,
                str(len(own)),
                seconds(math.fsum(job["wall_s"] or 0 for job in own)),
                seconds(math.fsum(job["cpu_s"] or 0 for job in own)),
                seconds(max(job["wall_s"] or 0 for job in own)),
                size(max(job["peak_memory_bytes"] or 0 for job in own)),
            ]
        )
    return table
