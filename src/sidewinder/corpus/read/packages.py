"""Files of installed packages: prose, code and translations."""

from __future__ import annotations

from collections.abc import Iterator

from datatrove.data import Document

from sidewinder.config.readers import PackagesReader
from sidewinder.corpus.catalogues import catalogue_documents
from sidewinder.corpus.packages import package_files, read_verified
from sidewinder.corpus.pieces import Piece
from sidewinder.corpus.prose import code_documents, prose_documents
from sidewinder.corpus.read.tally import Tally


class PackageFormat:
    """Documents of package files; a piece is one file. Raises DataError where a file is not what the wheel brought."""

    def __init__(self, config: PackagesReader, tally: Tally) -> None:
        self.part, self.tally = config.part, tally
        self.files = {file.name: file for file in package_files(config.packages, config.part)}

    def read(self, pieces: list[Piece]) -> Iterator[Document]:
        for piece in pieces:
            file = self.files[piece.path]
            content = read_verified(file)
            try:
                parts = list(self._parts(file.path, content))
            except ValueError as error:
                self.tally.bad(file.name, 0, "", str(error), len(content))
                continue
            for index, (place, text) in enumerate(parts):
                if text:
                    name = f"{file.name}#{place}" if place else file.name
                    yield Document(text=text, id=name, metadata={"file": file.name, "index": index})

    def _parts(self, path: str, content: bytes) -> Iterator[tuple[str, str]]:
        """(place, text) of the documents in a file."""
        if self.part == "prose":
            yield from prose_documents(path, content)
        elif self.part == "code":
            yield from code_documents(content)
        else:
            yield from catalogue_documents(content.decode("utf-8-sig"))
