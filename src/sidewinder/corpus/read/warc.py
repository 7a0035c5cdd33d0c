"""Web archives: pages whose main text is extracted (WARC), or text that was extracted already (WET).

The format: https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/
Records that hold no page (requests, metadata, images, answers other than 200) are no documents and are not counted.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from datatrove.data import Document

from sidewinder.config.readers import WarcReader
from sidewinder.corpus.compressed import decompressed
from sidewinder.corpus.pieces import Piece
from sidewinder.corpus.read.http import Response, TooLarge, parse_fields, parse_response
from sidewinder.corpus.read.lines import BOM
from sidewinder.corpus.read.tally import Tally
from sidewinder.errors import DataError

HTML = ("text/html", "application/xhtml+xml")
LINE_BYTES = 2**16
SKIPPED_BYTES = 2**18


class Record(NamedTuple):
    """A record's number in its file from 1, headers (names in lower case) and block; no block where it is too large."""

    number: int
    headers: dict[str, str]
    block: bytes | None
    size_bytes: int


def read_warc(stored: io.RawIOBase, piece: Piece, config: WarcReader, tally: Tally) -> Iterator[Document]:
    """The archive's texts; a record that cannot be decoded is counted, a broken archive ends where it breaks."""
    kinds = ("response",) if config.text == "html" else ("response", "conversion")
    stream = decompressed(stored, piece.name)
    for number, headers, block, size in records(stream, kinds, config.maximum_bytes):
        if block is None:
            tally.oversized(size)
            continue
        try:
            text = _text(headers, block, config)
        except TooLarge:
            tally.oversized(size)
            continue
        except ValueError as error:
            tally.bad(piece.name, number, "record", str(error), size)
            continue
        if text == "":
            tally.empty()
        elif text is not None:
            metadata: dict[str, Any] = {"file": piece.name, "index": number}
            if "warc-target-uri" in headers:
                metadata["url"] = headers["warc-target-uri"].strip("<>")
            language = headers.get((config.language_key or "").lower())
            if language:
                metadata["language"] = language
            yield Document(text, headers.get("warc-record-id", f"{piece.name}:{number}"), metadata=metadata)


def records(stream: io.BufferedReader, kinds: tuple[str, ...], maximum_bytes: int) -> Iterator[Record]:
    """Records of some types. Raises ValueError or EOFError where the archive is not, or no longer, one."""
    number = 0
    while headers := _headers(stream, number + 1):
        number += 1
        length = headers.get("content-length", "")
        if not length.isdigit():
            raise ValueError(f"record {number} has no Content-Length")
        size = int(length)
        wanted = headers.get("warc-type") in kinds
        block = stream.read(size) if wanted and size <= maximum_bytes else None
        passed = len(block) if block is not None else _skip(stream, size)
        if passed < size:
            raise EOFError(f"record {number} is cut off")
        if wanted:
            yield Record(number, headers, block, size)


def _headers(stream: io.BufferedReader, number: int) -> dict[str, str]:
    """Header fields of the next record; empty at the end of the file."""
    line = b"\n"
    while line and not line.strip():
        line = stream.readline(LINE_BYTES)
    if not line:
        return {}
    if not line.startswith(b"WARC/"):
        raise ValueError(f"record {number} does not begin with WARC/ but with {line[:20]!r}")
    fields = []
    while (line := stream.readline(LINE_BYTES)).strip():
        fields.append(line.decode("utf-8", "replace").rstrip("\r\n"))
    return {"": "", **parse_fields(fields)}


def _skip(stream: io.BufferedReader, size: int) -> int:
    """Passes over bytes in constant memory; returns how many there were."""
    left = size
    while left and (block := stream.read(min(left, SKIPPED_BYTES))):
        left -= len(block)
    return size - left


def _text(headers: dict[str, str], block: bytes, config: WarcReader) -> str | None:
    """A record's text; None where it is no page. Raises ValueError where it cannot be decoded."""
    if headers["warc-type"] == "conversion":
        return block.removeprefix(BOM).decode()
    if not headers.get("content-type", "").lower().startswith("application/http"):
        return None
    response = parse_response(block, config.maximum_bytes)
    if response.status != 200:
        return None
    if response.content_type == "text/plain":
        return _plain(response)
    return _main_text(response) if config.text == "html" and response.content_type in HTML else None


def _plain(response: Response) -> str:
    try:
        return response.payload.removeprefix(BOM).decode(response.charset or "utf-8")
    except LookupError:
        raise ValueError(f"unknown charset {response.charset!r}") from None


def _main_text(response: Response) -> str:
    """Main text of a page. Its bytes are decoded as browsers do: the header's charset, the page's own, a guess."""
    extract, detect = extractor()
    charset = response.charset
    if not _known(charset):
        charset = detect(response.payload, from_html_meta=True) or ""
    text = response.payload.decode(charset if _known(charset) else "utf-8", "replace")
    return extract(text, main_content=True)


def _known(charset: str) -> bool:
    """Whether Python decodes a charset; its codecs that give no text (`hex`, `zlib`) do not count."""
    try:
        return getattr(codecs.lookup(charset), "_is_text_encoding", True)
    except LookupError:
        return False


@cache
def extractor() -> tuple[Any, Any]:
    """resiliparse's extractor and detector of encodings. Raises DataError where it is not installed."""
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import detect_encoding
    except ImportError:
        raise DataError(
            "text of web pages needs the package resiliparse, which is not installed",
            remedy="pip install resiliparse, or read WET files with `text: plain`",
        ) from None
    return extract_plain_text, detect_encoding
