"""gigatoken as a second way to the ids of SentencePiece and of `tokenizers`, some eight times as fast.

It reads a tokenizer.json, which is made of a SentencePiece model here, without what would change ids: in a text, a
control piece is text, and nothing is joined into one. Nobody takes its ids on trust: `encoder.Encoder` compares.
"""

from __future__ import annotations

import json
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from sidewinder.record import file_digest, write_atomically

Ids = tuple[np.ndarray, np.ndarray]
"""Ids of all texts one after the other, and how many each text has (int64)."""


class Gigatoken:
    """Raises ImportError where the library is missing, ValueError where it cannot take the tokenizer."""

    def __init__(self, path: Path, tokenizer: Any) -> None:
        import gigatoken

        self.name = f"gigatoken {metadata.version('gigatoken')}"
        try:
            if path.suffix == ".json":
                self.inner = gigatoken.Tokenizer.from_json(_without_controls(json.loads(tokenizer.content)))
            else:
                self.inner = self._of_model(path, tokenizer)
        except Exception as error:  # Its Rust part raises what it likes.
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def __call__(self, texts: list[bytes]) -> Ids:
        """Ids of several texts on the calling thread, without the interpreter's lock; several threads may call."""
        encoded: Any = self.inner.encode_batch(texts, parallel=False).layout
        offsets = np.asarray(encoded.offsets.data)
        return np.asarray(encoded.content.data)[offsets[0] : offsets[-1]], np.diff(offsets)

    def _of_model(self, path: Path, tokenizer: Any) -> Any:
        """Made of a SentencePiece model. That takes seconds for a large one, so it is kept beside the model."""
        from gigatoken import Tokenizer

        kept = path.with_name(f".{self.name.replace(' ', '-')}-{file_digest(path)[:16]}.json")
        with suppress(OSError, ValueError):
            return Tokenizer.from_json(kept.read_bytes())
        made = _of_sentencepiece(Tokenizer.from_sentencepiece(path.read_bytes()), tokenizer)
        with suppress(OSError):  # The folder may be somebody else's.
            write_atomically(kept, made)
        return Tokenizer.from_json(made)


def prepare(path: Path, tokenizer: Any) -> None:
    """Makes what is kept beside a tokenizer, so that no encoding job has to; does nothing where it cannot be made."""
    with suppress(ImportError, ValueError):
        Gigatoken(path, tokenizer)


def _of_sentencepiece(converted: Any, tokenizer: Any) -> str:
    """gigatoken's own tokenizer.json of a model, but for its control pieces, and what is joined into one."""
    content = json.loads(converted._hf_json)
    ordinary = {tokenizer.id_to_piece(token) for token in range(tokenizer.get_piece_size()) if _text(tokenizer, token)}
    merges = content["model"]["merges"]
    content["model"]["merges"] = [
        pair for pair in merges if pair[0] in ordinary and pair[1] in ordinary and pair[0] + pair[1] in ordinary
    ]
    return _without_controls(content)


def _text(tokenizer: Any, token: int) -> bool:
    """Whether a piece stands for text that it spells."""
    return not (
        tokenizer.is_control(token)
        or tokenizer.is_unknown(token)
        or tokenizer.is_unused(token)
        or tokenizer.is_byte(token)
    )


def _without_controls(content: dict[str, Any]) -> str:
    """A tokenizer.json that finds no control token in a text, and adds none."""
    content["added_tokens"] = [added for added in content.get("added_tokens") or [] if not added["special"]]
    content["post_processor"] = content["truncation"] = content["padding"] = None
    return json.dumps(content, ensure_ascii=False)
