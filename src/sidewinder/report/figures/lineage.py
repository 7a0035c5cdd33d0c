"""The lineage graph: which job read what which other job wrote, from the records' digests.

All jobs of a source's text are one box, so are its tokenized shards, and so are all suites of a checkpoint. An edge
that follows from others (training reads the blend, so its evaluation does too) is not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from markupsafe import Markup

from sidewinder.report.data import Row, StudyData
from sidewinder.report.figures.common import Figure
from sidewinder.report.svg import CHARACTER, fixed, picture, tag, text
from sidewinder.report.text import count, digits, short

COLUMNS = {"corpus": 0, "tokenizer": 1, "tokens": 2, "blend": 3, "pretrain": 4, "extend": 5, "evaluate": 6, "export": 6}
HEADS = ("sources", "tokenizer", "tokens", "blend", "pretraining", "extensions", "scores and exports")
WIDTH, BOX, TALL, PITCH, HEAD = 1120, 134, 40, 54, 30
MAIN_ROLES = ("checkpoint", "tokenizer", "blend", "scores")  # Whose digest a box shows.


@dataclass
class Node:
    """One box."""

    key: str
    kind: str
    title: str
    jobs: list[Row] = field(default_factory=list)
    stage: str | None = None
    model: str | None = None
    x: float = 0.0
    y: float = 0.0
    tall: float = TALL


def lineage_figure(data: StudyData) -> Figure | None:
    """Jobs as boxes, and as lines what each was made from, unless other lines tell; None without jobs."""
    nodes = _nodes(data)
    if not nodes:
        return None
    edges = _reduced(_edges(data, nodes))
    height = _lay_out(data, nodes)
    items = [text(_left(column), 14, head, "title") for column, head in enumerate(HEADS)]
    items += [_edge(nodes[source], nodes[target]) for source, target in edges]
    items += [_box(data, node) for node in nodes.values()]
    caption = (
        "From source text to scores and exports. Boxes show the first digits of the SHA-256 of what the job wrote; "
        "hover over one to see its inputs and what depends on it. Edges that follow from others are not drawn."
    )
    return Figure(
        "Lineage", picture(WIDTH, height, items, "Lineage graph of the study", "lineage"), caption, scroll=True
    )


def _key(job: Row) -> str:
    """Box that a job belongs to: a shard's to its source's, which is also the folder of the job on the whole source."""
    if job["kind"] in ("corpus", "tokens"):
        return str(job["job"]).rsplit("/", 1)[0]
    return f"{job['stage']} scores" if job["kind"] == "evaluate" else str(job["job"])


def _nodes(data: StudyData) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for job in data.jobs:
        kind = "corpus" if job["kind"] == "deduplicate" else job["kind"]
        if kind in COLUMNS:
            node = nodes.setdefault(_key(job), Node(_key(job), kind, _title(job), stage=job["stage"]))
            node.jobs.append(job)
            node.model = str(job["run"]).rsplit("-s", 1)[0] if job["run"] else None
    return nodes


def _title(job: Row) -> str:
    if job["kind"] in ("corpus", "deduplicate", "tokens"):
        return str(job["name"]).split("/")[0]
    if job["kind"] in ("pretrain", "extend"):
        run, stage = str(job["name"]).split("/")[:2]
        return run if job["kind"] == "pretrain" else f"to {int(stage.rsplit('-', 1)[1]):,} tokens"
    return "scores" if job["kind"] == "evaluate" else str(job["kind"])


def _edges(data: StudyData, nodes: dict[str, Node]) -> set[tuple[str, str]]:
    """(box, box) wherever a job of the second read what a job of the first wrote."""
    box = {job["job"]: key for key, node in nodes.items() for job in node.jobs}
    maker = {edge["dst"]: edge["src"] for edge in data.edges if edge["relation"] == "produced"}
    found = set()
    for edge in data.edges:
        if edge["relation"] == "used" and edge["dst"] in box and maker.get(edge["src"]) in box:
            found.add((box[maker[edge["src"]]], box[edge["dst"]]))
    return {(source, target) for source, target in found if source != target}


def _reduced(edges: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Transitive reduction of an acyclic graph: edges with no longer way between their ends."""
    after: dict[str, set[str]] = {}
    for source, target in edges:
        after.setdefault(source, set()).add(target)
    reach: dict[str, set[str]] = {}

    def reached(start: str) -> set[str]:
        if start not in reach:
            reach[start] = set()  # Ends a walk should the records ever form a circle.
            nexts = after.get(start, set())
            reach[start] = nexts.union(*(reached(node) for node in nexts)) if nexts else set()
        return reach[start]

    return sorted(
        (source, target)
        for source, target in edges
        if not any(target in reached(other) for other in after[source] if other != target)
    )


def _left(column: int) -> float:
    return 2 + column * (WIDTH - BOX - 4) / (len(HEADS) - 1)


def _lay_out(data: StudyData, nodes: dict[str, Node]) -> float:
    """Gives every box its place; returns the height. A row for each checkpoint; the columns before are centred."""
    rows = {stage["stage"]: place for place, stage in enumerate(data.stages)}
    early = [[node for node in nodes.values() if COLUMNS[node.kind] == column] for column in range(4)]
    most = max([len(rows), *map(len, early)])
    order = {row["source"]: place for place, row in enumerate(data.corpus)}
    for column, members in enumerate(early):
        members.sort(key=lambda node: (order.get(node.title, 99), node.title))
        pitch = min(PITCH * 1.35, PITCH * most / max(len(members), 1))
        start = HEAD + (PITCH * most - pitch * len(members)) / 2 + (pitch - TALL) / 2
        for place, node in enumerate(members):
            node.x, node.y = _left(column), start + pitch * place
    offset = HEAD + PITCH * (most - len(rows)) / 2 + (PITCH - TALL) / 2
    for node in nodes.values():
        if node.stage in rows and COLUMNS[node.kind] >= 4:
            node.x, node.y = _left(COLUMNS[node.kind]), offset + PITCH * rows[node.stage]
            if node.kind in ("evaluate", "export"):
                node.tall = TALL / 2 - 1.5
                node.y += 0 if node.kind == "evaluate" else TALL / 2 + 1.5
    return HEAD + PITCH * most + 6


def _edge(source: Node, target: Node) -> Markup:
    x0, y0 = source.x + BOX, source.y + source.tall / 2
    x1, y1 = target.x, target.y + target.tall / 2
    bend = min(20.0, (x1 - x0) / 2)
    # Past another column: level until the last gap.
    level = x1 - 2 * bend
    line = f"M{fixed(x0)} {fixed(y0)} L{fixed(level)} {fixed(y0)} C{fixed(level + bend)} {fixed(y0)}"
    line += f" {fixed(x1 - bend)} {fixed(y1)} {fixed(x1)} {fixed(y1)}"
    model = {"data-model": target.model} if target.model else {}
    return tag("path", d=line, class_="edge", data_from=source.key, data_to=target.key, **model)


def _box(data: StudyData, node: Node) -> Markup:
    style = f"m{data.models.index(node.model) % 8}" if node.model in data.models else "plain"
    parts = [
        tag("rect", x=node.x, y=node.y, width=BOX, height=node.tall, rx=5, class_="box"),
        tag("rect", x=node.x, y=node.y, width=4, height=node.tall, rx=2, class_="stripe"),
    ]
    detail = _detail(data, node)
    if node.tall < TALL:
        parts.append(text(node.x + 11, node.y + 13, node.title, "name"))
        parts.append(text(node.x + BOX - 7, node.y + 13, detail, "sub end"))
    else:
        name = node.title if len(node.title) * CHARACTER < BOX - 14 else f"{node.title[: int(BOX / CHARACTER) - 3]}…"
        parts.append(text(node.x + 11, node.y + 17, name, "name"))
        parts.append(text(node.x + 11, node.y + 32, detail, "sub"))
    attributes = {"data-node": node.key, "data-tip": _tip(data, node)}
    if node.model:
        attributes["data-model"] = node.model
    return tag("g", *parts, class_=f"node {style}", **attributes)


def _outputs(data: StudyData, node: Node) -> list[Row]:
    jobs = {job["job"] for job in node.jobs}
    return [row for _, row in sorted(data.artifacts.items()) if row["job"] in jobs]


def _outside(data: StudyData, node: Node) -> list[Row]:
    """What a box read that no job made: packages or source files."""
    jobs = {job["job"] for job in node.jobs}
    used = sorted({edge["src"] for edge in data.edges if edge["relation"] == "used" and edge["dst"] in jobs})
    return [data.artifacts[name] for name in used if data.artifacts[name]["job"] is None]


def _detail(data: StudyData, node: Node) -> str:
    """The second line of a box."""
    if node.kind == "corpus":
        outside = _outside(data, node)
        if not outside:
            return "generated"
        kind = "package" if outside[0]["role"] == "package" else "file"
        return f"{len(outside):,} {kind}{'' if len(outside) == 1 else 's'}"
    if node.kind == "tokens":
        tokens = sum(row["tokens"] or 0 for row in data.corpus if row["source"] == node.title)
        return f"{len(node.jobs)} shards, {short(tokens)}" if tokens else f"{len(node.jobs)} shards"
    if node.kind == "evaluate":
        return f"{len(node.jobs)} suite{'' if len(node.jobs) == 1 else 's'}"
    length = 12 if node.tall == TALL else 8
    return next((digits(row["sha256"], length) for row in _by_role(_outputs(data, node))), "")


def _by_role(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["role"] not in MAIN_ROLES)


def _tip(data: StudyData, node: Node) -> str:
    lines = [f"{job['kind']} {job['name']}" for job in node.jobs[:6]]
    for row in (_outside(data, node) + _by_role(_outputs(data, node)))[:12]:
        lines.append(
            f"{row['role']}  {row['path'].rsplit('/', 1)[-1]}  {digits(row['sha256'], 12)}  {count(row['bytes'])} B"
        )
    return "\n".join(lines)
