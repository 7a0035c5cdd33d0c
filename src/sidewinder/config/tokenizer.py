"""The tokenizer of a study: one to train, or a file that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from sidewinder.config.base import Count, Strict
from sidewinder.errors import SidewinderError

OF_TRAINING = ("sample_bytes", "character_coverage", "seed")


class Tokenizer(Strict):
    """SentencePiece BPE with byte fallback, trained on a sample of the blend; or, with `path`, one that exists.

    `tokenizer: path/to/file.model` is short for `tokenizer: {path: path/to/file.model}`.
    """

    path: str | None = None
    """A SentencePiece model, a tokenizer.json of Hugging Face, or a folder that holds one. Nothing is trained then."""
    eos: str | None = None
    """Piece that ends a document, where a tokenizer.json does not say."""
    sha256: str | None = None
    """Digest of the file at `path`; left out, it is read from the file."""
    vocab_size: Annotated[int, Field(ge=300)] = 256_000
    """Pieces, the 256 bytes and three control pieces included; with `path`, it is read from the file."""
    sample_bytes: Count = 2_000_000_000
    """Text to train on, drawn from the sources by their weights."""
    character_coverage: Annotated[float, Field(ge=0.98, le=1)] = 0.9995
    """Share of characters that get a piece; the rest are spelled in bytes."""
    seed: int = 1

    @model_validator(mode="before")
    @classmethod
    def _file_is_read(cls, values: Any) -> Any:
        """A plain string is a path; what a file says of itself is filled in, once."""
        if isinstance(values, str):
            values = {"path": values}
        if not isinstance(values, dict) or not isinstance(values.get("path"), str) or values.get("sha256"):
            return values
        return values | _described(values)

    @model_validator(mode="after")
    def _sample_can_fill_the_vocabulary(self) -> Self:
        least = 16 * self.vocab_size
        if self.path is None and self.sample_bytes < least:
            raise ValueError(
                f"vocab_size ({self.vocab_size:,}) is too large for sample_bytes ({self.sample_bytes:,}): "
                f"use at least {least:,} bytes (16 a piece), or fewer pieces"
            )
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What shapes its pieces: the settings of training, or the digest of a file, wherever that lies."""
        if self.path is None:
            return self.model_dump(exclude={"path", "eos", "sha256"})
        return self.model_dump(include={"sha256", "eos", "vocab_size"})

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A mapping, or a path as a plain string."""
        mapping = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [mapping, {"type": "string", "description": "path of a tokenizer"}]}


def _described(values: dict[str, Any]) -> dict[str, Any]:
    """Digest and vocabulary of the file. Raises ValueError, as validators do."""
    from sidewinder.tokenizer import describe

    if unused := [name for name in OF_TRAINING if name in values]:
        raise ValueError(f"{' and '.join(unused)} say how to train a tokenizer; with a path, none is trained")
    try:
        sha256, vocab_size = describe(Path(values["path"]))
    except SidewinderError as error:
        raise ValueError(f"{error.message}; use the path of a tokenizer.model or a tokenizer.json") from None
    if values.get("vocab_size", vocab_size) != vocab_size:
        raise ValueError(f"{values['path']} has {vocab_size:,} pieces, not {values['vocab_size']:,}")
    return {"sha256": sha256, "vocab_size": vocab_size}
