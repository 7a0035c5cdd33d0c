"""Encoding much text: SentencePiece's ids on thousands of documents, however they are encoded, or SentencePiece."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tokenizer.conftest import ODD
from tests.tokenizer.real_text import code, odd, train, translations
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sidewinder.tokenizer.encoder import Encoder
from sidewinder.tokenizer.nasty import NASTY
from sidewinder.tokenizer.plain import Cutter, is_plain

SAMPLE = 900  # Documents of each kind that a tokenizer is trained on.


def sample() -> list[str]:
    return code(SAMPLE) + translations(SAMPLE) + ODD


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    path.write_bytes(train(sample()))
    return path


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    encoder = Encoder(model)
    assert encoder.check(text.encode() for text in sample())["differing"] == 0
    return encoder


def split(encoded: tuple[np.ndarray, np.ndarray]) -> list[list[int]]:
    ids, sizes = encoded
    return [part.tolist() for part in np.split(ids, np.cumsum(sizes)[:-1])]


def test_ten_thousand_documents_have_the_ids_of_sentencepiece(encoder: Encoder) -> None:
    documents = code(4000) + translations(4000) + odd(3000) + ODD
    assert len(documents) >= 10_000
    assert encoder.name.startswith("gigatoken")
    expected = encoder.tokenizer.encode(documents, num_threads=2)
    assert split(encoder.encode([text.encode() for text in documents])) == [list(ids) for ids in expected]


def test_the_check_tells_what_was_compared(model: Path) -> None:
    encoder, documents = Encoder(model), [text.encode() for text in code(300)]
    facts = encoder.check(documents)
    assert facts["documents"] == facts["equal"] == 300 + len(NASTY)
    assert facts["bytes"] == sum(map(len, documents + NASTY))
    assert (facts["differing"], facts["first_difference"]) == (0, None)
    assert Encoder(model).check(documents, most_documents=10)["documents"] == 10 + len(NASTY)
    some = Encoder(model).check(documents, most_bytes=2000)
    assert 2000 <= some["bytes"] - sum(map(len, NASTY)) < 4000


def test_unchecked_it_is_sentencepiece(model: Path) -> None:
    encoder = Encoder(model)
    assert encoder.name.startswith("sentencepiece")
    assert split(encoder.encode([b"unchecked"])) == [encoder.tokenizer.encode("unchecked")]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"model_type": "unigram"}, "only BPE"),
        ({"byte_fallback": False}, "byte_fallback"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
    ],
)
def test_what_gigatoken_cannot_take_is_left_to_sentencepiece(
    settings: dict[str, Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(code(200), vocab_size=1000, **settings))
    encoder = Encoder(path)
    assert why in encoder.check([b"some text"])["unavailable"]
    assert re.search(rf"sentencepiece .* encodes: gigatoken cannot be used: .*{why}", capsys.readouterr().err)
    documents = code(50) + odd(50)
    assert split(encoder.encode([text.encode() for text in documents])) == encoder.tokenizer.encode(documents)


@pytest.mark.parametrize(
    "settings",
    [
        {"user_defined_symbols": ["\n", "   ", "self"]},
        {"normalization_rule_name": "nmt_nfkc", "add_dummy_prefix": True},
    ],
)
def test_a_difference_is_told_and_sentencepiece_encodes(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are known to differ in gigatoken 0.10.0: spaces in a piece of the user's, combining marks normalised."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(sample(), **settings))
    encoder = Encoder(path)
    facts = encoder.check(text.encode() for text in code(100))
    assert facts["differing"] > 0
    assert facts["equal"] + facts["differing"] == facts["documents"]
    assert re.match(r"first at token \d+: '.*' instead of '", facts["first_difference"])
    said = capsys.readouterr().err
    assert f"{facts['differing']} of {facts['documents']} documents differ" in said
    assert encoder.name.startswith("sentencepiece")
    documents = code(100) + translations(100) + odd(100)
    assert split(encoder.encode([text.encode() for text in documents])) == encoder.tokenizer.encode(documents)


def test_a_control_piece_in_a_text_is_text(tmp_path: Path) -> None:
    """Even where the vocabulary holds parts that spell one."""
    path = tmp_path / "tokenizer.model"
    text = "<s> </s> <unk> <0x0A> <s>ss</s>s>"
    lines = [text, "<s s> s>", "</s /s>", "<u <un unk>", "<0 0x0A>"] * 50
    path.write_bytes(
        train(lines, vocab_size=340, hard_vocab_limit=False, split_by_unicode_script=False, split_digits=False)
    )
    encoder = Encoder(path)
    assert encoder.check([text.encode()])["differing"] == 0
    ((*ids,),) = split(encoder.encode([text.encode()]))
    assert ids == encoder.tokenizer.encode(text)
    assert not {0, 1, 2} & set(ids)


def test_threads_share_an_encoder(encoder: Encoder) -> None:
    batches = [[text.encode() for text in translations(4000)[start : start + 250]] for start in range(0, 4000, 250)]
    expected = [split(encoder.encode(batch)) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert [split(encoded) for encoded in pool.map(encoder.encode, batches)] == expected


@pytest.mark.parametrize("text", ["\n".join(code(300)), " ".join(translations(300)), "".join(odd(300)), "a" * 90_000])
def test_a_document_cut_where_nothing_joins_keeps_its_ids(encoder: Encoder, text: str) -> None:
    cutter = Cutter(encoder.tokenizer, part_bytes=1000)
    parts = cutter.parts(text.encode())
    assert b"".join(parts) == text.encode()
    assert len(parts) > 10 or text.startswith("aaa")
    assert [token for part in parts for token in encoder.tokenizer.encode(part)] == encoder.tokenizer.encode(text)


def test_long_and_empty_documents_among_others(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder._cutter, "part_bytes", 500)
    documents = ["", "\n".join(code(40)), "", "short", " ".join(translations(40)), ""]
    assert split(encoder.encode([text.encode() for text in documents])) == encoder.tokenizer.encode(documents)


def test_only_models_that_change_no_text_allow_cuts(model: Path) -> None:
    assert is_plain(model.read_bytes())
    for settings in ({"add_dummy_prefix": True}, {"remove_extra_whitespaces": True}, {"model_type": "unigram"}):
        assert not is_plain(train(code(200), vocab_size=1000, **settings))


MEMORY = """
import sys
from pathlib import Path
from sidewinder.tokenizer.encoder import Encoder
encoder = Encoder(Path(sys.argv[1]))
text = Path(sys.argv[2]).read_bytes()
encoder.check([text[:100_000]])
assert encoder.name.startswith("gigatoken")
text *= (64 << 20) // len(text)
ids, sizes = encoder.encode([text])
status = Path("/proc/self/status").read_text()  # getrusage counts the process that started this one as well.
print(len(text), len(ids), 1024 * int(status.split("VmHWM:")[1].split()[0]))
"""


def test_a_document_of_64_mib_takes_less_than_a_gibibyte(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n".join(code(2000)))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(model), str(tmp_path / "text")], capture_output=True, text=True, check=True
    )
    size_bytes, tokens, peak_bytes = map(int, done.stdout.split())
    assert size_bytes > 60e6
    assert tokens > 10e6
    assert peak_bytes < 1 << 30


def hugging_face(folder: Path) -> Path:
    """Byte-level BPE, as most tokenizers of Hugging Face are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_tokenizers_of_hugging_face(tmp_path: Path) -> None:
    encoder = Encoder(hugging_face(tmp_path))
    documents = code(700) + translations(700) + odd(700) + ODD
    given = [text.encode() for text in documents]
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    expected = [theirs.encode(text, add_special_tokens=False).ids for text in documents]
    assert encoder.name.startswith("tokenizers")
    assert split(encoder.encode(given)) == expected
    assert encoder.check(given)["differing"] == 0
    assert encoder.name.startswith("gigatoken")
    assert split(encoder.encode(given)) == expected
    assert encoder.eos == 0
    assert 0 not in encoder.encode([b"<|endoftext|>"])[0]
