"""Web archives that warcio wrote: which records are documents, how they are decoded, and where an archive breaks."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.corpus.reading import read, source
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from sidewinder.corpus import pieces
from sidewinder.errors import DataError

WORDS = "The lantern was carried over the bridge in the morning, and nobody asked why it was still burning. " * 3
PAGE = f"""<html><head><title>T</title><script>var x = "script text";</script></head>
<body><nav><a href="/">Home</a><a href="/b">About</a></nav><main><article><h1>Über</h1><p>{WORDS}</p></article></main>
<footer>Copyright footer</footer></body></html>"""
HTML = "text/html; charset=utf-8"
CHUNKED = b"".join(b"%x;x=y\r\n%s\r\n" % (len(part), part) for part in (PAGE.encode()[:99], PAGE.encode()[99:], b""))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    pieces.forget()
    yield
    pieces.forget()


class Archive:
    """Writes records one by one."""

    def __init__(self, path: Path) -> None:
        self.stream = path.open("wb")
        self.writer = WARCWriter(self.stream, gzip=path.suffix == ".gz")
        info = self.writer.create_warcinfo_record(path.name, {"software": "a test"})
        self.writer.write_record(info)

    def page(self, payload: bytes, content_type: str = HTML, status: str = "200 OK", **headers: str) -> None:
        fields = [("Content-Type", content_type), *((key.replace("_", "-"), value) for key, value in headers.items())]
        http = StatusAndHeaders(status, fields, protocol="HTTP/1.1")
        url = "http://example.org/page"
        self.writer.write_record(
            self.writer.create_warc_record(url, "response", payload=io.BytesIO(payload), http_headers=http)
        )

    def record(self, kind: str, payload: bytes, **headers: str) -> None:
        self.writer.write_record(
            self.writer.create_warc_record(
                "http://example.org/text",
                kind,
                payload=io.BytesIO(payload),
                warc_content_type="text/plain",
                warc_headers_dict={key.replace("_", "-"): value for key, value in headers.items()},
            )
        )

    def close(self) -> None:
        self.stream.close()


@pytest.fixture(params=["a.warc", "a.warc.gz"])
def archive(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Archive]:
    made = Archive(tmp_path / request.param)
    yield made
    made.close()


def found_in(archive: Archive, **values: Any) -> Any:
    archive.close()
    path = Path(archive.stream.name)
    return read(source(kind="warc", path=str(path.parent), **values))


def test_pages_become_their_main_text(archive: Archive) -> None:
    archive.page(PAGE.encode())
    archive.record("request", b"GET / HTTP/1.1\r\n\r\n")
    archive.page(b"\x89PNG", "image/png")
    archive.page(b"gone", status="404 Not Found")
    archive.page("Ünformatted text\n".encode("latin-1"), "text/plain; charset=ISO-8859-1")
    found = found_in(archive)
    assert len(found.texts) == 2
    assert "Über" in found.texts[0]
    assert WORDS.strip() in " ".join(found.texts[0].split())
    assert "script text" not in found.texts[0]
    assert "Copyright footer" not in found.texts[0]
    assert found.texts[1] == "Ünformatted text\n"
    assert found.documents[0].metadata["url"] == "http://example.org/page"
    assert found.documents[0].id.startswith("<urn:uuid:")
    assert found.counts["bad_documents"] == 0


@pytest.mark.parametrize(
    ("payload", "content_type", "headers"),
    [
        (PAGE.encode("cp1251", "replace"), "text/html; charset=windows-1251", {}),
        (PAGE.replace("<title>", '<meta charset="utf-8"><title>').encode(), "text/html", {}),
        (PAGE.encode(), "text/html; charset=nonsense", {}),
        (gzip.compress(PAGE.encode()), HTML, {"Content_Encoding": "gzip"}),
        (zlib.compress(PAGE.encode()), HTML, {"Content_Encoding": "deflate"}),
        (PAGE.encode(), HTML, {"Content_Encoding": "gzip"}),
        (CHUNKED, HTML, {"Transfer_Encoding": "chunked"}),
        (PAGE.encode(), HTML, {"Transfer_Encoding": "chunked"}),
    ],
)
def test_pages_are_decoded(tmp_path: Path, payload: bytes, content_type: str, headers: dict[str, str]) -> None:
    archive = Archive(tmp_path / "a.warc.gz")
    archive.page(payload, content_type, **headers)
    found = found_in(archive)
    assert "The lantern was carried over the bridge" in found.texts[0]


def test_extracted_text_needs_no_extra_package(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resiliparse.extract.html2text", None)
    archive.record("conversion", "Text, schon extrahiert: 中文\n".encode(), WARC_Identified_Content_Language="deu,zho")
    archive.record("conversion", b"second")
    archive.record("conversion", b"")
    archive.record("conversion", b"caf\xe9")
    archive.page(b"plain", "text/plain")
    archive.page(PAGE.encode())
    values = {"text": "plain", "language_key": "WARC-Identified-Content-Language"}
    found = found_in(archive, **values)
    assert found.texts == ["Text, schon extrahiert: 中文\n", "second", "plain"]
    assert found.documents[0].metadata["language"] == "deu,zho"
    assert "language" not in found.documents[1].metadata
    assert (found.counts["bad_documents"], found.counts["empty_documents"]) == (1, 1)
    assert found.reasons[0].split(": ")[1] == "record 5"


def test_pages_without_the_extractor_are_refused(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    from sidewinder.corpus.read.warc import extractor

    extractor.cache_clear()
    monkeypatch.setitem(sys.modules, "resiliparse.extract.html2text", None)
    archive.page(PAGE.encode())
    with pytest.raises(DataError, match="needs the package resiliparse"):
        found_in(archive)
    extractor.cache_clear()


def test_records_that_cannot_be_decoded_are_counted_and_large_ones_dropped(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "a.warc")
    archive.page(b"\x1f\x8b broken", "text/plain", Content_Encoding="gzip")
    archive.page(b"x", "text/plain", Content_Encoding="zopfli")
    archive.page(b"\xff", "text/plain")
    archive.page(b"x" * 10_000, "text/plain")
    archive.page(gzip.compress(b"x" * 10_000), "text/plain", Content_Encoding="gzip")
    archive.page(b"good", "text/plain")
    found = found_in(archive, maximum_bytes=5_000, text="plain")
    assert found.texts == ["good"]
    assert (found.counts["bad_documents"], found.counts["oversized_documents"]) == (3, 2)
    assert "unknown content coding 'zopfli'" in found.reasons[1]


def test_a_broken_archive_gives_what_comes_before(tmp_path: Path) -> None:
    for name in ("cut.warc.gz", "cut.warc", "lost.warc"):
        archive = Archive(tmp_path / name)
        for number in range(20):
            archive.record("conversion", f"text {number}".encode() * 50)
        archive.close()
        content = (tmp_path / name).read_bytes()
        if name.startswith("cut"):
            (tmp_path / name).write_bytes(content[: len(content) * 3 // 4])
        else:
            (tmp_path / name).write_bytes(content.replace(b"WARC/1", b"XXXX/1").replace(b"XXXX/1", b"WARC/1", 12))
    found = read(source(kind="warc", path=str(tmp_path), text="plain"))
    by_file = {
        name: sum(document.metadata["file"] == name for document in found.documents)
        for name in ("cut.warc.gz", "cut.warc", "lost.warc")
    }
    assert 12 <= by_file["cut.warc.gz"] <= 15
    assert 12 <= by_file["cut.warc"] <= 15
    assert by_file["lost.warc"] == 11
    assert found.counts["bad_documents"] == 3
    assert any("record 13 does not begin with WARC/" in reason for reason in found.reasons)
