"""HTTP responses as web archives keep them: status, headers, and the payload with its transfer codings undone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass


class TooLarge(ValueError):
    """A payload decodes to more than the maximum."""


@dataclass(frozen=True)
class Response:
    """A response; header names in lower case. `charset` is what Content-Type says, "" where it says nothing."""

    status: int
    headers: dict[str, str]
    payload: bytes

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str:
        for parameter in self.headers.get("content-type", "").split(";")[1:]:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "charset":
                return value.strip().strip("\"'").lower()
        return ""


def parse_response(block: bytes, maximum_bytes: int) -> Response:
    """A response out of a record's block.

    Raises ValueError where it is none, or its coding is unknown or broken; TooLarge where it decodes to too much.
    """
    head, _, payload = block.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    words = status.split(None, 2)
    if not status.startswith("HTTP/") or len(words) < 2 or not words[1].isdigit():
        raise ValueError(f"not an HTTP response: {status[:60]!r}")
    headers = parse_fields(fields)
    if headers.get("transfer-encoding", "").lower().endswith("chunked"):
        payload = _unchunked(payload)
    return Response(int(words[1]), headers, _decoded(payload, headers.get("content-encoding", ""), maximum_bytes))


def parse_fields(lines: list[str]) -> dict[str, str]:
    """Header fields, names in lower case; a line that begins with a space goes on with the one before."""
    fields: dict[str, str] = {}
    key = ""
    for line in lines:
        if line[:1] in (" ", "\t") and key:
            fields[key] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        if colon:
            key = name.strip().lower()
            fields[key] = value.strip()
    return fields


def _unchunked(payload: bytes) -> bytes:
    """The payload without its chunk sizes; archives often keep the header after undoing the coding."""
    parts: list[bytes] = []
    place = 0
    while True:
        line, found, _ = payload[place : place + 64].partition(b"\r\n")
        size = line.partition(b";")[0].strip()
        if not found or not size or size.strip(b"0123456789abcdefABCDEF"):
            if place == 0:
                return payload
            raise ValueError("broken chunk in an HTTP response")
        length, begin = int(size, 16), place + len(line) + 2
        if length == 0:
            return b"".join(parts)
        parts.append(payload[begin : begin + length])
        place = begin + length + 2


def _decoded(payload: bytes, coding: str, maximum_bytes: int) -> bytes:
    coding = coding.strip().lower()
    if coding in ("", "identity", "none", "utf-8"):
        return payload
    if coding in ("gzip", "x-gzip", "deflate"):
        if coding != "deflate" and not payload.startswith(b"\x1f\x8b"):
            return payload  # Undone by the archive, the header kept.
        wbits = 31 if coding != "deflate" else (15 if payload[:1] == b"\x78" else -15)
        decompressor = zlib.decompressobj(wbits)
        try:
            content = decompressor.decompress(payload, maximum_bytes + 1)
        except zlib.error as error:
            raise ValueError(f"broken {coding} in an HTTP response: {error}") from None
        if len(content) > maximum_bytes:
            raise TooLarge
        return content
    raise ValueError(f"unknown content coding {coding!r} in an HTTP response")
