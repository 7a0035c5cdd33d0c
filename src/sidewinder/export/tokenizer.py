"""A SentencePiece BPE model as the files that AutoTokenizer reads, with exactly the same ids.

SentencePiece joins the neighbours whose joined piece has the best score; `tokenizers` joins the pair of best rank.
Every way to split a piece into two pieces is therefore a merge, ranked by the score of what it makes. Bytes stand for
what has no piece in both. Text that looks like a control piece, say `</s>` in a source file, is text in SentencePiece
and must not become the control token: that is what `split_special_tokens` is for.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from sidewinder.export.target import ExportError
from sidewinder.tokenizer import JSON, MODEL, load, model_file
from sidewinder.tokenizer import Tokenizer as Tokens

SPACE = "\u2581"


def write_tokenizer(path: Path, folder: Path, *, context_tokens: int) -> list[Path]:
    """Writes tokenizer.json, tokenizer_config.json and, of a SentencePiece model, a copy of tokenizer.model.

    `path` is a tokenizer file or the folder of one; a tokenizer.json is copied.
    """
    path = model_file(path)
    source = load(path)
    names = [JSON, "tokenizer_config.json"]
    if path.suffix == ".json":
        shutil.copyfile(path, folder / JSON)
    else:
        convert(source).save(str(folder / JSON))
        shutil.copyfile(path, folder / MODEL)
        names.append(MODEL)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{kind}_token": source.id_to_piece(token) for kind, token in _controls(source).items()},
        "add_bos_token": False,
        "add_eos_token": False,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_tokens,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return [folder / name for name in names]


def convert(source: SentencePieceProcessor) -> Tokenizer:
    """The tokenizer for the `tokenizers` library.

    Raises ExportError where the model is not BPE with byte fallback, or has options that would change its text.
    """
    size = source.get_piece_size()
    pieces = [source.id_to_piece(token) for token in range(size)]
    if not any(source.is_byte(token) for token in range(size)):
        raise ExportError("the tokenizer has no byte pieces", remedy="train it with byte fallback")
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    unknown = pieces[source.unk_id()]
    converted = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges(source), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    converted.normalizer = normalizers.Replace(" ", SPACE)
    converted.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    converted.add_special_tokens(
        [AddedToken(pieces[token], special=True, normalized=False) for token in _controls(source).values()]
    )
    converted.encode_special_tokens = True
    return converted


def merges(source: SentencePieceProcessor) -> list[tuple[str, str]]:
    """Every split of every piece into two pieces, best piece first."""
    ordinary = [token for token in range(source.get_piece_size()) if _is_ordinary(source, token)]
    scores = {source.id_to_piece(token): source.get_score(token) for token in ordinary}
    found = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                found.append((left, right))
    return found


def _is_ordinary(source: SentencePieceProcessor, token: int) -> bool:
    special = source.is_control(token) or source.is_unknown(token) or source.is_unused(token)
    return not (special or source.is_byte(token))


def _controls(source: Tokens) -> dict[str, int]:
    """Ids of the unknown, beginning and end pieces that the tokenizer has."""
    ids = {"unk": source.unk_id(), "bos": source.bos_id(), "eos": source.eos_id()}
    return {kind: token for kind, token in ids.items() if token >= 0}
