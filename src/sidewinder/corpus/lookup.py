"""Synthetic look-up documents: small phone books whose entries are asked for again, half of them question first.

Every document is drawn from its own seed, so that one is the same whatever came before it. Training, held-out
documents and evaluation draw from different seeds.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from functools import cache
from importlib import metadata
from itertools import accumulate
from operator import mul

import orjson

from sidewinder.config.corpus import Lookup
from sidewinder.config.study import LOOKUP
from sidewinder.corpus import phonebook_text
from sidewinder.corpus.shards import HELDOUT_TEXT, TEXT, TextWriter
from sidewinder.graph import Graph
from sidewinder.progress import Progress
from sidewinder.record import Artifact, Job, digest

HELDOUT_SHARE = 0.01
HELDOUT_LEAST = 32


def document(config: Lookup, part: str, number: int, source: str = LOOKUP) -> str:
    """Look-up document `number` of `part` (train or heldout): a pure function of these and the seed."""
    rng = random.Random(f"sidewinder {source} {config.seed} {part} {number}")
    fewest, most = config.entries
    if part == "train" and config.grow_share:
        most = most_entries(config, number)
    book = phonebook_text.entries(rng, _draw_size(rng, fewest, most), config.digits)
    questions = config.questions or len(book)
    asked = [entry for _ in range(0, questions, len(book)) for entry in rng.sample(book, len(book))]
    if rng.random() < config.reversed_share:
        return phonebook_text.reversed_document(book, asked[0])
    return phonebook_text.standard_document(book, asked[:questions])


def most_entries(config: Lookup, number: int) -> int:
    """The most entries that document `number` of a curriculum may have."""
    sizes, ends = _levels(config)
    return sizes[bisect_right(ends, number)]


@cache
def _levels(config: Lookup) -> tuple[list[int], list[int]]:
    """Sizes that the largest book grows through, and the number of the document that each but the last ends before.

    Each doubling takes an equal part of the text, and long books fill that with fewer documents than short ones.
    """
    fewest, most = config.entries
    if fewest == most:
        return [most], []
    growing = [fewest << level for level in range(math.ceil(math.log2(most / fewest)))]
    last_text = (1 / config.grow_share - 1) * len(growing)  # In parts of the text as each doubling has.
    documents = [1 / _mean_lines(config, size) for size in growing]
    share = config.documents / (math.fsum(documents) + last_text / _mean_lines(config, most))
    return [*growing, most], [round(share * end) for end in accumulate(documents)]


def _mean_lines(config: Lookup, most: int) -> float:
    """Lines of a document on average where sizes are drawn log-uniformly up to `most`."""
    reverse, sizes = config.reversed_share, range(config.entries[0], most + 1)
    chances = [math.log1p(1 / size) for size in sizes]
    lines = [size + 2 * reverse + (config.questions or size) * (1 - reverse) for size in sizes]
    return math.fsum(map(mul, chances, lines)) / math.fsum(chances)


def build_lookup(graph: Graph, source: str, shard: str) -> None:
    """Writes one shard of a source of look-up documents."""
    folder, config = graph.corpus(source) / shard, graph.study.lookups[source]
    sizes = {"train": config.documents, "heldout": max(HELDOUT_LEAST, round(config.documents * HELDOUT_SHARE))}
    with Job(folder, "corpus", f"{source}/{shard}", graph.source_configs[source], [_names_artifact()]) as job:
        if job.finished:
            return
        job.facts["steps"] = []
        for part, name in (("train", TEXT), ("heldout", HELDOUT_TEXT)):
            numbers, size_bytes = _numbers(config, shard, sizes[part]), 0
            with (
                TextWriter(folder / name) as writer,
                Progress(f"{source}/{shard} {part}", total=len(numbers), unit="documents") as progress,
            ):
                for number in progress.over(numbers):
                    text = document(config, part, number, source)
                    size_bytes += len(text)  # The text is ASCII: characters are bytes.
                    writer.write(orjson.dumps({"id": f"{source}/{part}/{number}", "text": text}))
            job.output(name.partition(".")[0], folder / name)
            job.facts |= {f"{part}_documents": len(numbers), f"{part}_bytes": size_bytes}
        job.facts["unreadable"] = []


def _numbers(config: Lookup, shard: str, documents: int) -> range:
    """Those of a shard's documents."""
    place = int(shard.removeprefix("train-"))
    return range(documents * place // config.shards, documents * (place + 1) // config.shards)


def _draw_size(rng: random.Random, fewest: int, most: int) -> int:
    """A book's size, log-uniform: as many books between 2 and 4 entries as between 8 and 16."""
    return min(most, int(fewest * ((most + 1) / fewest) ** rng.random()))


def _names_artifact() -> Artifact:
    """The names that entries are drawn from, as an input of the job."""
    first, last = phonebook_text.names()
    return Artifact("package", f"Faker=={metadata.version('faker')}", digest([first, last]), len("".join(first + last)))
