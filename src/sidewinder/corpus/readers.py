"""datatrove readers that count what they cannot read, name it, and go on with the rest of the file.

datatrove's own JSONL reader ends a file at the first Unicode error and counts nothing; these keep its file handling
(any fsspec path and compression, files shared among tasks) and replace what happens to a line. Every document carries
where it came from, so that its place in the source does not depend on how many tasks read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson
from datatrove.data import Document
from datatrove.pipeline.readers.base import BaseDiskReader

import sidewinder.corpus.quiet  # noqa: F401
from sidewinder.corpus.catalogues import catalogue_documents
from sidewinder.corpus.packages import PackageFile, read_verified
from sidewinder.corpus.prose import code_documents, prose_documents
from sidewinder.errors import DataError, SidewinderError

NAMED_BAD_LINES = 10  # How many unreadable lines a source names; all are counted.


class Reader(BaseDiskReader):
    """Base: yields documents whose metadata say `file` and `index`, and writes down what could not be read.

    `files` is a text file with one path a line, relative to `folder`; `notes` the folder for the list of bad lines.
    """

    name = "sidewinder"

    def __init__(self, folder: str, files: str, notes: str, text_key: str = "text", id_key: str = "id") -> None:
        super().__init__(folder, paths_file=files, text_key=text_key, id_key=id_key, add_file_path=False)
        self.keys = (text_key, id_key)
        self.notes = notes
        self.named: list[tuple[str, int, str]] = []

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in super().run(data, rank, world_size):
            self.stat_update("read_documents")
            self.stat_update("read_bytes", value=len(document.text.encode()))
            yield document
        Path(self.notes, f"{rank:05d}.json").write_text(json.dumps(self.named))

    def document(self, file: str, index: int, text: str, identifier: object = None) -> Document:
        name = f"{file}:{index}" if identifier is None else str(identifier)
        return Document(text=text, id=name, metadata={"file": file, "index": index})

    def bad(self, file: str, index: int, reason: str, size_bytes: int) -> None:
        """Counts one unreadable line or file, and remembers the first few."""
        self.stat_update("bad_documents")
        self.stat_update("bad_bytes", value=size_bytes)
        if len(self.named) < NAMED_BAD_LINES:
            self.named.append((file, index, reason))

    @contextmanager
    def opened(self, file: str, compression: str | None = "infer") -> Iterator[IO[bytes]]:
        """Opens a file for reading. Raises DataError, naming it, for whatever goes wrong in it as a whole."""
        try:
            with self.data_folder.open(file, "rb", compression=compression) as stream:
                yield stream
        except SidewinderError:
            raise
        except Exception as error:  # Every compression library has an error class of its own.
            path = self.data_folder.resolve_paths(file)
            raise DataError(
                f"cannot read {path}: {error}", remedy="mend or remove the file, then run the study again"
            ) from error


class JsonlReader(Reader):
    """JSON lines, plain or compressed. A line that is cut off, not UTF-8, or without text is counted and skipped."""

    def read_file(self, filepath: str) -> Iterator[Document]:
        with self.opened(filepath) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield from self._parse(filepath, number, line)

    def _parse(self, file: str, number: int, line: bytes) -> Iterator[Document]:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            self.bad(file, number, str(error), len(line))
            return
        text = record.get(self.text_key) if isinstance(record, dict) else None
        if isinstance(text, str) and text:
            yield self.document(file, number, text, record.get(self.id_key))
        else:
            found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            self.bad(file, number, f"no text under {self.text_key!r}; found: {found}", len(line))


class ParquetReader(Reader):
    """Parquet files; a value that is null or not UTF-8 is counted and skipped."""

    def read_file(self, filepath: str) -> Iterator[Document]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self.opened(filepath, compression=None) as stream:
            table = pq.ParquetFile(stream)
            names = table.schema_arrow.names
            if self.text_key not in names:
                raise ValueError(f"no column {self.text_key!r}; columns: {', '.join(names)}")
            row = 0
            for batch in table.iter_batches(1000, columns=[name for name in names if name in self.keys]):
                texts = batch.column(self.text_key).cast(pa.large_binary()).to_pylist()
                ids = batch.column(self.id_key).to_pylist() if self.id_key in names else [None] * len(texts)
                for text, identifier in zip(texts, ids, strict=True):
                    yield from self._decode(filepath, row, text, identifier)
                    row += 1

    def _decode(self, file: str, row: int, text: bytes | None, identifier: object) -> Iterator[Document]:
        try:
            if text:
                yield self.document(file, row, text.decode(), identifier)
            else:
                self.bad(file, row, f"no text under {self.text_key!r}", 0)
        except UnicodeDecodeError as error:
            self.bad(file, row, str(error), len(text or b""))


class TextReader(Reader):
    """Plain text, one document a file; a file that is not UTF-8 is counted and skipped."""

    def read_file(self, filepath: str) -> Iterator[Document]:
        with self.opened(filepath) as stream:
            content = stream.read()
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            self.bad(filepath, 0, str(error), len(content))
            return
        if text:
            yield self.document(filepath, 0, text, filepath)


class PackagesReader(Reader):
    """Files of installed packages; each line of `files` is a PackageFile as JSON."""

    def __init__(self, part: str, files: str, notes: str) -> None:
        super().__init__("/", files, notes)
        self.part = part

    def read_file(self, filepath: str) -> Iterator[Document]:
        file = PackageFile(**orjson.loads(filepath))
        content = read_verified(file)
        try:
            parts = list(self._parts(file.path, content))
        except ValueError as error:
            self.bad(file.name, 0, str(error), len(content))
            return
        for index, (place, text) in enumerate(parts):
            if text:
                yield self.document(file.name, index, text, f"{file.name}#{place}" if place else file.name)

    def _parts(self, path: str, content: bytes) -> Iterator[tuple[str, str]]:
        if self.part == "prose":
            yield from prose_documents(path, content)
        elif self.part == "code":
            yield from code_documents(content)
        else:
            yield from catalogue_documents(content.decode("utf-8-sig"))
