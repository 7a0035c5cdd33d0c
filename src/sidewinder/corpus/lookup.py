"""Synthetic look-up documents: small phone books whose entries are asked for again, half of them question first.

Every document is drawn from its own seed, so that one is the same whatever came before it. Training, held-out
documents and evaluation draw from different seeds.
"""

from __future__ import annotations

import random
from importlib import metadata

import orjson

from sidewinder.config.corpus import Lookup
from sidewinder.config.study import LOOKUP
from sidewinder.corpus import phonebook_text
from sidewinder.corpus.shards import HELDOUT_TEXT, TEXT, TextWriter
from sidewinder.graph import Graph
from sidewinder.record import Artifact, Job, digest

HELDOUT_SHARE = 0.01
HELDOUT_LEAST = 32


def document(config: Lookup, part: str, number: int) -> str:
    """Look-up document `number` of `part` (train or heldout): a pure function of these and the seed."""
    rng = random.Random(f"sidewinder lookup {config.seed} {part} {number}")
    book = phonebook_text.entries(rng, _draw_size(rng, *config.entries), config.digits)
    asked = rng.sample(book, len(book))
    if rng.random() < config.reversed_share:
        return phonebook_text.reversed_document(book, asked[0])
    return phonebook_text.standard_document(book, asked)


def build_lookup(graph: Graph) -> None:
    """Writes the one shard of look-up documents."""
    (shard,) = graph.corpus_shards(LOOKUP)
    folder, config = graph.corpus(LOOKUP) / shard, graph.study.lookup
    sizes = {"train": config.documents, "heldout": max(HELDOUT_LEAST, round(config.documents * HELDOUT_SHARE))}
    with Job(folder, "corpus", f"{LOOKUP}/{shard}", graph.source_configs[LOOKUP], [_names_artifact()]) as job:
        if job.finished:
            return
        job.facts["steps"] = []
        for part, name in (("train", TEXT), ("heldout", HELDOUT_TEXT)):
            texts = [document(config, part, number) for number in range(sizes[part])]
            with TextWriter(folder / name) as writer:
                for number, text in enumerate(texts):
                    writer.write(orjson.dumps({"id": f"{LOOKUP}/{part}/{number}", "text": text}))
            job.output(name.partition(".")[0], folder / name)
            # The text is ASCII: characters are bytes.
            job.facts |= {f"{part}_documents": len(texts), f"{part}_bytes": sum(map(len, texts))}
        job.facts["unreadable"] = []


def _draw_size(rng: random.Random, fewest: int, most: int) -> int:
    """A book's size, log-uniform: as many books between 2 and 4 entries as between 8 and 16."""
    return min(most, int(fewest * ((most + 1) / fewest) ** rng.random()))


def _names_artifact() -> Artifact:
    """The names that entries are drawn from, as an input of the job."""
    first, last = phonebook_text.names()
    return Artifact("package", f"Faker=={metadata.version('faker')}", digest([first, last]), len("".join(first + last)))
