"""The blocks of a source in the order that its documents meet them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datatrove.data import Document

from sidewinder.config import filters
from sidewinder.config.corpus import Source
from sidewinder.config.study import Study
from sidewinder.corpus.filters.block import Block, Decision
from sidewinder.corpus.filters.steps import decision

RESERVED = "\u2581"


def blocks(source: Source, study: Study) -> list[Block]:
    """Length, reserved character, the source's filters as configured, length again after edits, decontamination.

    Reads model, list and evaluation files. A block's name is its kind; later ones of the same kind get a number.
    """
    found = [Block("length", _long_enough(source.minimum_characters)), Block("reserved", _free_of_reserved)]
    seen: dict[str, int] = {}
    for config in source.filters:
        seen[config.kind] = seen.get(config.kind, 0) + 1
        name = config.kind if seen[config.kind] == 1 else f"{config.kind}_{seen[config.kind]}"
        found.append(Block(name, decision(config, source.language)))
    if "c4_quality" in seen:
        found.append(Block("length_after_edits", _long_enough(source.minimum_characters)))
    if study.decontaminate:
        from sidewinder.corpus.decontaminate import Contamination  # It is itself made of a Block.

        found.append(Contamination(study.decontaminate).block())
    return found


def files(source: Source, study: Study) -> list[Path]:
    """Every file of the user's that the blocks read: what they drop depends on its content."""
    named: list[str | None] = list(study.decontaminate.files) if study.decontaminate else []
    for config in source.filters:
        named.extend(path for _, path in named_files(config))
    return sorted({Path(path) for path in named if path})


def named_files(config: filters.Filter) -> list[tuple[str, str]]:
    """(key, path) of every file that a filter names."""
    keys = {
        "language": ("model",),
        "c4_bad_words": ("path",),
        "url": ("domains", "urls", "banned_words", "banned_subwords", "soft_banned_words"),
    }.get(config.kind, ())
    return [(key, path) for key in keys if (path := getattr(config, key))]


def _long_enough(minimum_characters: int) -> Callable[[Document], Decision]:
    def decide(document: Document) -> Decision:
        return len(document.text) >= minimum_characters or (False, "short")

    return decide


def _free_of_reserved(document: Document) -> Decision:
    """SentencePiece writes a space as ▁: decoding would not give the character back."""
    return RESERVED not in document.text
