"""Translations out of gettext catalogues (.po): real text in some ninety languages that well-kept packages ship.

The format: https://www.gnu.org/software/gettext/manual/html_node/PO-Files.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

DOCUMENT_CHARACTERS = 4_000
ENTRY = re.compile(r'(msgctxt|msgid|msgid_plural|msgstr(?:\[\d+\])?)[ \t]+"')
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def translations(text: str) -> Iterator[str]:
    """Translated strings in a catalogue's order: no header, no fuzzy or obsolete entry, nothing left untranslated."""
    for fields in _entries(text):
        if fields.get("msgid"):
            originals = {fields["msgid"], fields.get("msgid_plural", "")}
            found = dict.fromkeys(value for key, value in fields.items() if key.startswith("msgstr"))
            yield from (value for value in found if value not in originals and any(map(str.isalpha, value)))


def catalogue_documents(text: str) -> Iterator[tuple[str, str]]:
    """(place, text) of pieces of a catalogue, one translated string a line.

    A piece ends with the string that takes it to DOCUMENT_CHARACTERS: whole catalogues are so long that few of them,
    and so few languages, would be held out or reach a short run.
    """
    lines: list[str] = []
    piece = characters = 0
    for line in translations(text):
        lines.append(line)
        characters += len(line) + 1
        if characters >= DOCUMENT_CHARACTERS:
            yield str(piece), "\n".join(lines)
            lines, piece, characters = [], piece + 1, 0
    if lines:
        yield str(piece), "\n".join(lines)


def _entries(text: str) -> Iterator[dict[str, str]]:
    """Keyword → string of every entry that is not fuzzy; strings written over several lines are joined."""
    fields: dict[str, str] = {}
    key, fuzzy = "", False
    for line in text.replace("\r\n", "\n").split("\n"):
        start = ENTRY.match(line)
        begins = line.startswith("#") or (start is not None and start[1] in ("msgctxt", "msgid"))
        if begins and key.startswith("msgstr"):  # The next entry starts: with its comments, or without any.
            if not fuzzy:
                yield fields
            fields, key, fuzzy = {}, "", False
        if line.startswith("#"):
            fuzzy = fuzzy or (line.startswith("#,") and "fuzzy" in line)
            continue
        if start:
            key = start[1]
            fields[key] = ""
        quoted = QUOTED.search(line)
        if key and quoted:
            fields[key] += ESCAPE.sub(_unescape, quoted[1])
    if not fuzzy:
        yield fields


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "01234567":
        return chr(int(code, 8))
    if code[0] == "x" and len(code) == 3:
        return chr(int(code[1:], 16))
    return ESCAPES.get(code, code)
