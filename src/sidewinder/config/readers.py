"""How the documents of a source are stored: one block for every kind of reader.

`path` is a folder, a glob (`data/*/en-*.jsonl.gz`) or one file, on this machine or behind any address that fsspec
opens (`s3://`, `gs://`, `https://`, `memory://`). A document's columns may be named; what is larger than
`maximum_bytes` is dropped and counted, so that no document decides how much memory a job needs.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, model_validator

from sidewinder.config.base import Count, Strict

SECRET = re.compile(r"secret|password|passwd|token|credential|(^|_)key$|(^|_)sas($|_)", re.IGNORECASE)
SIGNED = re.compile(r"[?&](X-Amz-Signature|X-Goog-Signature|sig|signature|token|key)=", re.IGNORECASE)
FROM_ENVIRONMENT = "env:"


class PackagesReader(Strict):
    """Text of installed Python packages, so that a study needs no download."""

    kind: Literal["packages"]
    part: Literal["prose", "code", "translations"]
    """`prose`: docstrings, descriptions, documentation; `code`: sources; `translations`: gettext catalogues."""
    packages: Annotated[list[str], Field(min_length=1)]
    """Names of installed distributions, as `pip` knows them."""


class FilesReader(Strict):
    """What all readers of files share."""

    path: str
    """A folder (all files of this kind below it), a glob, or one file; local or any URL that fsspec opens."""
    storage: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of fsspec's file system (`endpoint_url`, `anon` …). A secret is named, not written: `env:NAME`."""
    maximum_bytes: Count = 64 * 2**20
    """Larger documents (as stored, decompressed) are dropped as oversized; reading one takes three times this."""

    @model_validator(mode="after")
    def _no_secrets(self) -> Self:
        secrets = _secrets(self.storage)
        if secrets:
            raise ValueError(
                f"storage holds secrets in the open: {', '.join(secrets)}; the study is recorded, so write "
                f"`{FROM_ENVIRONMENT}NAME` with the name of an environment variable, or leave them to the usual "
                "credentials of the storage"
            )
        if urlsplit(self.path).password or (SIGNED.search(self.path) and "://" in self.path):
            raise ValueError(
                "path holds a password or a signature, and the study is recorded: "
                "leave it to storage (`env:NAME`) or to the usual credentials"
            )
        return self


class Columns(FilesReader):
    """Names of the columns (JSON keys, WARC headers) that a document is made of."""

    text_key: str = "text"
    id_key: str = "id"
    """Where there is no such column, a document is named by its file and place."""
    language_key: str | None = None
    """Column with the document's language; it goes to the document's metadata."""
    licence_key: str | None = None
    """Column with the document's licence; it goes to the document's metadata."""
    url_key: str | None = None
    """Column with the address that a document came from; filters by address need it."""


class JsonlReader(Columns):
    """JSON lines, plain or compressed (.gz, .zst, .xz, .bz2)."""

    kind: Literal["jsonl"]


class ParquetReader(Columns):
    """Parquet files."""

    kind: Literal["parquet"]


class TextReader(FilesReader):
    """Plain text, plain or compressed: one document a file, or one a line."""

    kind: Literal["text"]
    glob: str = "**/*.txt"
    """Which files below a folder; compressed ones (`….txt.gz`) as well."""
    documents: Literal["files", "lines"] = "files"


class WarcReader(FilesReader):
    """Web archives (.warc, .warc.gz; also .wet.gz). A document's address is its `url`."""

    kind: Literal["warc"]
    text: Literal["html", "plain"] = "html"
    """`html`: pages, whose main text is extracted (needs the package `resiliparse`), and plain text; `plain`: text
    that was extracted already (conversion records of WET files) and plain text."""
    language_key: str | None = None
    """Record header with the document's language, as `WARC-Identified-Content-Language`."""


class HuggingFaceReader(Columns):
    """A data set folder: Arrow files as `save_to_disk` leaves them, or Parquet and JSON lines as on the hub."""

    kind: Literal["huggingface"]
    split: str = "train"


FilesKind = JsonlReader | ParquetReader | TextReader | WarcReader | HuggingFaceReader
Reader = Annotated[
    PackagesReader | JsonlReader | ParquetReader | TextReader | WarcReader | HuggingFaceReader,
    Field(discriminator="kind"),
]


def _secrets(storage: dict[str, JsonValue], prefix: str = "") -> list[str]:
    """Keys whose names say that their values are secret, unless the value is `env:NAME`."""
    found: list[str] = []
    for key, value in storage.items():
        if isinstance(value, dict):
            found += _secrets(value, f"{prefix}{key}.")
        elif isinstance(value, str) and SECRET.search(key) and not value.startswith(FROM_ENVIRONMENT):
            found.append(prefix + key)
    return found
