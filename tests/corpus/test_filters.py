"""Every block on real text decides as datatrove's own does, run by itself on the same documents."""

import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from datatrove.data import Document
from datatrove.pipeline import filters as datatrove
from datatrove.pipeline.filters import c4_filters
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.lid import FT176LID
from pydantic import TypeAdapter
from tests.corpus.fasttext_model import write_model
from tests.corpus.real_text import document, documents, kept, texts

from sidewinder.config.filters import Filter, Language, Url
from sidewinder.corpus.filters.block import Block
from sidewinder.corpus.filters.steps import decision, load_fasttext
from sidewinder.corpus.filters.url import ARCHIVE, UrlFilter
from sidewinder.corpus.filters.words import words
from sidewinder.graph import Graph

GraphOf = Callable[..., Graph]
WORDS_EN = "the of and to is in that for with this are not be as by"
WORDS_DE = "der die das und nicht ist mit für vor von ein eine Tag Tage Stunden Jahr"
WORDS_RU = "и в не на с по для это что день дня дней час назад"
LANGUAGES = {
    "en": WORDS_EN.split(),
    "de": WORDS_DE.split(),
    "ru": WORDS_RU.split(),
}


def config_of(kind: str, **values: Any) -> Any:
    return TypeAdapter(Filter).validate_python({"kind": kind, **values})


def block(kind: str, language: str = "en", **values: Any) -> Block:
    return Block(kind, decision(config_of(kind, **values), language))


def conserved(found: Block) -> None:
    counts = found.counts
    dropped = counts.dropped.values()
    assert counts.documents_in == counts.documents_out + sum(entry.documents for entry in dropped)
    assert counts.bytes_in == counts.bytes_out + counts.edited_bytes + sum(entry.bytes for entry in dropped)


def same_as(ours: Block, theirs: BaseFilter, given: Callable[[], list[Document]]) -> tuple[int, int]:
    """Compares documents and texts kept, and reasons; how many were kept and dropped."""
    found = kept(ours.run(given()))
    expected, reasons = [], {}
    for entry in given():
        answer = theirs.filter(entry) if entry.text.strip() else (False, "empty")
        stays, reason = answer if isinstance(answer, tuple) else (answer, ours.name)
        if stays:
            expected.append((entry.id, entry.text))
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
    assert found == expected
    assert {reason: entry.documents for reason, entry in ours.counts.dropped.items()} == reasons
    conserved(ours)
    return len(found), sum(reasons.values())


GENTLE = {"max_non_alpha_words_ratio": 0.6, "min_doc_words": 30}


THEIRS: dict[str, Callable[..., BaseFilter]] = {
    "gopher_quality": partial(datatrove.GopherQualityFilter, language=words()),
    "gopher_repetition": partial(datatrove.GopherRepetitionFilter, language=words()),
    "c4_quality": partial(datatrove.C4QualityFilter, language=words()),
    "c4_paragraphs": c4_filters.C4ParagraphFilter,
    "fineweb_quality": partial(datatrove.FineWebQualityFilter, language=words()),
    "regex": datatrove.RegexFilter,
}


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("gopher_quality", {}, {}),
        ("gopher_quality", GENTLE, GENTLE),
        ("gopher_quality", {"min_stop_words": None}, {"min_stop_words": None}),
        ("gopher_repetition", {}, {}),
        ("gopher_repetition", {"dup_n_grams": [(5, 0.5)]}, {"dup_n_grams": ((5, 0.5),)}),
        ("c4_quality", {}, {}),
        ("c4_quality", {"split_paragraph": False}, {"split_paragraph": False}),
        ("c4_quality", {"min_num_sentences": None}, {"min_num_sentences": -1}),
        ("c4_paragraphs", {}, {}),
        ("fineweb_quality", {}, {}),
        ("fineweb_quality", {"stop_chars": [".", ":"]}, {"stop_chars": (".", ":")}),
        ("regex", {"pattern": r"\bgraph\b.*nodes"}, {"regex_exp": r"\bgraph\b.*nodes"}),
    ],
)  # fmt: skip
def test_a_block_keeps_what_datatroves_keeps(kind: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    stayed, dropped = same_as(block(kind, **ours), THEIRS[kind](**theirs), documents)
    assert stayed
    assert dropped


def test_defaults_are_datatroves() -> None:
    """Keys and values: a published recipe means the same here."""
    pairs = {
        "gopher_quality": datatrove.GopherQualityFilter(language=words()),
        "gopher_repetition": datatrove.GopherRepetitionFilter(language=words()),
        "c4_quality": datatrove.C4QualityFilter(language=words()),
        "fineweb_quality": datatrove.FineWebQualityFilter(language=words()),
    }
    renamed = {"short_line_thr": "short_line_threshold"}
    ours_alone = {"stop_words", "stop_chars"}  # Null stands for datatrove's own list.
    for kind, theirs in pairs.items():
        for key, value in config_of(kind).model_dump(exclude={"kind"}).items():
            other = getattr(theirs, renamed.get(key, key))
            if key not in ours_alone:
                assert value == ([*other] if isinstance(other, tuple) else other), (kind, key)


def test_bad_words_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# comment\nself loops\ngraph\n\nnetwork\n")
    bare = tmp_path / "bare.txt"
    bare.write_text("self loops\ngraph\nnetwork\n")
    monkeypatch.setattr(c4_filters, "cached_asset_path_or_download", lambda *_, **__: str(bare))
    same_as_theirs = same_as(
        Block("document_removed_with_badwords", block("c4_bad_words", path=str(path)).decide),
        datatrove.C4BadWordsFilter(),
        lambda: documents("prose", "code"),
    )
    assert min(same_as_theirs) > 10


def test_bad_words_without_spaces(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("漢字\n")
    text = "これは漢字です。"
    assert not kept(block("c4_bad_words", "ja", path=str(path)).run([document(text)]))
    assert kept(block("c4_bad_words", "ru", path=str(path)).run([document(text)]))


def test_the_share_of_bad_documents_that_stays_goes_by_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("graph\n")
    given = documents("prose")
    with_word = [entry for entry in given if re.search(r"(\W|^)graph(\W|$)", entry.text.lower())]
    forwards = kept(block("c4_bad_words", path=str(path), keep_fraction=0.5).run(with_word))
    backwards = kept(block("c4_bad_words", path=str(path), keep_fraction=0.5).run(with_word[::-1]))
    assert forwards == backwards[::-1]
    assert 0.4 < len(forwards) / len(with_word) < 0.6
    assert forwards != kept(block("c4_bad_words", path=str(path), keep_fraction=0.5, seed=2).run(with_word))


def test_addresses_by_lists_of_the_users(tmp_path: Path) -> None:
    lists = {
        "domains": "example.co.uk\nbad.example.org\n",
        "urls": "https://example.net/click-8.5.1/x\n",
        "banned_subwords": "_compat\n",
    }
    lists |= {"banned_words": "conftest\n", "soft_banned_words": "py\nnetworkx\nexample\n"}
    for name, content in lists.items():
        (tmp_path / name).write_text(content)
    entries = {name: content.split() for name, content in lists.items()}
    theirs = datatrove.URLFilter(
        extra_domains=entries["domains"],
        extra_urls=entries["urls"],
        banned_words=entries["banned_words"],
        banned_subwords=entries["banned_subwords"],
        soft_banned_words=entries["soft_banned_words"],
        soft_word_threshold=3,
        use_integrated_lists=False,
    )
    theirs.tldextractor = UrlFilter(Url(kind="url", use_integrated_lists=False)).tldextractor  # Without the network.
    paths = {name: str(tmp_path / name) for name in lists}
    ours = block("url", **paths, soft_word_threshold=3, use_integrated_lists=False)
    stayed, _ = same_as(ours, theirs, documents)
    assert stayed
    assert {"domain", "subdomain", "soft_blacklisted"} <= set(ours.counts.dropped)


def test_addresses_by_the_lists_of_datatrove() -> None:
    decide = decision(config_of("url"), "en")
    import tarfile

    from datatrove.utils._import_utils import ASSETS_PATH

    with tarfile.open(Path(ASSETS_PATH, ARCHIVE), "r:gz") as archive:
        blocked = archive.extractfile("domains").readline().decode().strip()  # type: ignore[union-attr]
    entry = document("text")
    assert decide(entry) is True
    entry.metadata["url"] = f"http://{blocked}/a"
    assert decide(entry) in ((False, "domain"), (False, "subdomain"))
    entry.metadata["url"] = "http://example.com/porn"
    assert not decide(entry)[0]  # type: ignore[index]


def test_documents_without_an_address() -> None:
    plain = Document(text="text", id="1")
    dropping = block("url", use_integrated_lists=False)
    assert not kept(dropping.run([plain]))
    assert list(dropping.counts.dropped) == ["no_url"]
    assert kept(block("url", use_integrated_lists=False, without_url="keep").run([plain]))


class TheirModel:
    """The model with scores as numpy numbers, as the package that datatrove asks for gives them."""

    def __init__(self, path: Path) -> None:
        self.model = load_fasttext(str(path))

    def predict(self, text: str, k: int) -> tuple[tuple[str, ...], np.ndarray]:
        labels, scores = self.model.predict(text, k=k)
        return labels or ("__label__none",), np.array(scores or [0.0])  # datatrove stops where there is no label.


def test_language_by_a_local_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.bin", LANGUAGES)
    theirs = object.__new__(datatrove.LanguageFilter)
    theirs.__init__(languages=["de", "ru"])
    theirs.model = FT176LID(["de", "ru"])
    theirs.model._model = TheirModel(model)
    ours = block("language", model=str(model), languages=["de", "ru"])
    stayed, dropped = same_as(ours, theirs, lambda: documents("prose", "translations"))
    assert stayed >= 1
    assert dropped > len(documents("prose")) * 0.9
    german = kept(block("language", model=str(model), languages=["de"]).run(documents("translations")))
    assert [entry for entry, _ in german if "/de_DE/" in entry]
    assert not [entry for entry, _ in german if "/ru_RU/" in entry]


def test_the_score_must_be_above_the_threshold(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.bin", LANGUAGES)
    mixed = [document("the of and und\nder")]  # Three words of five.
    config = Language(kind="language", model=str(model), languages=["de"], language_threshold=0.05)
    labels, scores = load_fasttext(str(model)).predict("the of and und der", k=-1)
    score = dict(zip(labels, scores, strict=True))["__label__de"]
    assert 0.05 < score < 0.5
    assert kept(Block("language", decision(config, "de")).run(mixed))
    assert not kept(
        Block("language", decision(config.model_copy(update={"language_threshold": score}), "de")).run(mixed)
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # datatrove takes the mean of no words.
@pytest.mark.parametrize(
    "text", ["", " \n\t ", "\u3000\n", "...", "\u200b", "\0" * 300, "x" * 5000, "-\n" * 500, "\ud800 a"]
)
def test_odd_documents_are_decided_not_fatal(text: str) -> None:
    for kind in ("gopher_quality", "gopher_repetition", "c4_quality", "c4_paragraphs", "fineweb_quality"):
        loose = {"min_doc_words": None, "min_stop_words": None} if kind == "gopher_quality" else {}
        found = block(kind, **loose)
        list(found.run([document(text)]))
        conserved(found)


def test_a_long_document_is_refused_as_datatrove_would(monkeypatch: pytest.MonkeyPatch) -> None:
    long = document((" ".join(text for _, text in texts("prose")) * 4)[:1_500_000])
    values = {"max_doc_words": 100_000, "max_non_alpha_words_ratio": None}
    assert len(long.text) > 1_000_000
    theirs = datatrove.GopherQualityFilter(language=words(), **values)
    assert theirs.filter(long) == (False, "gopher_long_doc")

    def refuse(_: object, __: str) -> list[str]:
        raise AssertionError("all its words were listed")

    monkeypatch.setattr(type(words()), "word_tokenize", refuse)
    assert decision(config_of("gopher_quality", **values), "en")(long) == (False, "gopher_long_doc")


def test_blocks_of_a_source_in_order(tmp_path: Path, graph_of: GraphOf) -> None:
    from sidewinder.corpus.filters import blocks, files

    listed = tmp_path / "words.txt"
    listed.write_text("graph\n")
    evaluation = tmp_path / "evaluation.txt"
    evaluation.write_text("one two three four five six seven eight nine ten eleven twelve thirteen fourteen")
    filters = [
        {"kind": "regex", "pattern": "a"},
        {"kind": "c4_quality"},
        {"kind": "regex", "pattern": "b"},
        {"kind": "c4_bad_words", "path": str(listed)},
    ]
    reader = {"kind": "jsonl", "path": str(tmp_path)}
    study = graph_of(reader, filters=filters, decontaminate={"files": [str(evaluation)]}).study
    names = [entry.name for entry in blocks(study.sources["text"], study)]
    assert names == [
        "length", "reserved", "regex", "c4_quality", "regex_2", "c4_bad_words", "length_after_edits", "decontaminate",
    ]  # fmt: skip
    assert files(study.sources["text"], study) == sorted([listed, evaluation])


def test_a_chain_conserves_documents_and_bytes(tmp_path: Path, graph_of: GraphOf) -> None:
    from sidewinder.corpus.filters import blocks

    kinds = ["gopher_repetition", "c4_quality", "fineweb_quality"]
    study = graph_of({"kind": "jsonl", "path": str(tmp_path)}, filters=[{"kind": kind} for kind in kinds]).study
    chain = blocks(study.sources["text"], study)
    stream = iter([*documents(), document("\u2581 reserved " * 20), document("short")])
    for entry in chain:
        stream = entry.run(stream)
    out = list(stream)
    for before, after in pairwise(chain):
        assert (before.counts.documents_out, before.counts.bytes_out) == (
            after.counts.documents_in,
            after.counts.bytes_in,
        )
    for entry in chain:
        conserved(entry)
    assert chain[-1].counts.documents_out == len(out) > 0
    assert chain[-1].counts.bytes_out == sum(len(entry.text.encode()) for entry in out)
    assert chain[3].counts.edited_bytes > 0
    assert chain[1].counts.dropped["reserved"].documents == 1


def test_hashes_of_lists_are_of_the_whole_entry() -> None:
    from sidewinder.corpus.filters.url import Hashes

    entries = [f"host{place}.example".encode() for place in range(1000)]
    found = Hashes(entries)
    assert all(entry.decode() in found for entry in entries)
    assert "host1000.example" not in found
    assert "host1.exampl" not in found
    assert xxhash.xxh3_64_intdigest(entries[0]) in found.hashes
