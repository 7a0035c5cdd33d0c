"""The report of a small study: what it says, and that it is one file that needs nothing else."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sidewinder.catalog import CatalogError, build_catalog
from sidewinder.graph import Graph
from sidewinder.report.build import build_report

VOID = {"meta", "input", "br", "hr", "img", "link"}
SPACE = "\u00a0"  # Keeps numbers and units together.


def report_of(graph: Graph) -> str:
    build_catalog(graph.results, graph.catalog, graph.records)
    build_report(graph)
    return graph.report.read_text()


class Page(HTMLParser):
    """Checks that every element is closed in order; collects text, identifiers, and what would be loaded."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._look(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def _look(self, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute is given twice: {names}"
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.words))


@pytest.fixture(scope="session")
def page(built: Graph) -> Page:
    return Page(built.report.read_text())


def test_it_is_well_formed_and_needs_nothing_else(built: Graph, page: Page) -> None:
    html = built.report.read_text()
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids))
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []


def test_every_figure_is_well_formed_svg(built: Graph) -> None:
    from xml.etree import ElementTree

    figures = re.findall(r"<svg.*?</svg>", built.report.read_text(), flags=re.DOTALL)
    assert len(figures) > 8
    for figure in figures:
        root = ElementTree.fromstring(figure)
        assert root.get("aria-label")
        assert "nan" not in re.sub(r'data-tip="[^"]*"|>[^<]*<', "", figure)


def test_every_score_of_every_model_is_there(small: ModuleType, page: Page) -> None:
    for model, bits in small.BITS.items():
        assert f"{model} pretrain-64" in page.text
        assert f"{bits['english']:.4f}" in page.text
    for (model, context), exact in small.EXACT.items():
        stage = "pretrain" if context == 64 else "extend"
        for length, value in exact.items():
            row = f"{model} {stage}-{context} phonebook phonebook standard exact_match {length} {value:.4f} 0.0625 16 1"
            assert row in page.text
    # 16 samples with a standard error of 1/16: more than independence allows, so they count as 16.
    assert f"phonebook standard exact_match mixed pretrain-64 64 0.5000 0.0625 28.0 to 72.0{SPACE}% 16 1" in page.text


def test_the_leaderboard_shows_errors(page: Page) -> None:
    assert f"mixed pretrain-64 64 2.250 ± 0.125 50.0{SPACE}% ± 6.2" in page.text
    assert f"mixed extend-128 128 2.250 ± 0.125 50.0{SPACE}% ± 6.2" in page.text


def test_the_verdict_is_computed(page: Page) -> None:
    for sentence in (
        "Held-out text Bits per byte after 512 tokens (lower is better): mixed 2.250 and plain 2.500. The first two "
        "differ by 0.250, which does not exceed twice the combined standard error over documents (0.177).",
        f"Phonebook, standard Exact match at 64 tokens: mixed 50{SPACE}% and plain 25{SPACE}%. "
        "At least half right up to: mixed 64 and plain 32.",
        f"Mixed to 128 2.250 → 2.250 bits per byte; phonebook exact match 25{SPACE}% → 50{SPACE}% at 128 tokens.",
        "Speed Tokens a second in pretraining: plain 1,000 and mixed 800.",
        f"3 checkpoints were loaded back through transformers; the largest logit difference is 2.5{SPACE}×{SPACE}10⁻⁶.",
        "Seeds One: nothing here measures how much another seed would change the order.",
    ):
        assert sentence in page.text


def test_look_ups_are_shown_by_place(built: Graph, page: Page) -> None:
    assert "Phonebook, standard: exact match by place" in page.text
    # Two of the four books have their last entry right: a standard error of sqrt(1/12), that of three answers.
    row = f"phonebook standard plain pretrain-64 64 75{SPACE}% to 100{SPACE}% 0.5000 12.5 to 87.5{SPACE}% 0.5625 4 1"
    assert row in page.text
    tips = re.findall(r'data-tip="([^"]*)"', built.report.read_text())
    asked = {(tip.split(":")[0], tip.rsplit(", ")[-1]) for tip in tips if f"at 75{SPACE}% to 100{SPACE}%" in tip}
    # Each at the context that it was trained for.
    assert asked == {
        ("plain pretrain-64", "64 tokens"),
        ("mixed pretrain-64", "64 tokens"),
        ("mixed extend-128", "128 tokens"),
    }


def test_without_its_samples_it_says_so(graph: Graph) -> None:
    build_catalog(graph.results, graph.catalog, graph.records)
    for file in graph.results.rglob("samples.parquet"):
        file.unlink()
    build_report(graph)
    text = Page(graph.report.read_text()).text
    assert "samples.parquet cannot be read" in text
    assert "exact match by place" not in text
    assert "Phonebook, standard: exact match" in text


def test_what_was_not_evaluated_is_told_once(page: Page) -> None:
    reason = "beyond 2 x the context of 64 tokens"
    assert f"Not evaluated, and why suite what why checkpoints phonebook length 256, 512 {reason}" in page.text
    assert f"{reason} mixed pretrain-64, plain pretrain-64" in page.text
    assert page.text.count(reason) == 1


def test_parts_of_a_group_stand_behind_it(small: ModuleType, graph: Graph) -> None:
    for stage in graph.stages:
        folder = graph.evaluation(stage, "heldout")
        with small.Job(folder, "evaluate", "again", {"suite": "other"}, []) as job:
            scores = [{"task": task, "metric": "acc", "value": 0.25, "n": 4} for task in ("quiz", "art", "law")]
            versions = {f"{task} group": "quiz" for task in ("art", "law")}
            content = {"suite": "heldout", "kind": "harness", "scores": scores, "versions": versions}
            job.output("scores", small.write(folder / "scores.json", json.dumps(content)))
    text = Page(report_of(graph)).text
    assert "checkpoint trained context quiz acc phonebook standard exact match plain" in text
    assert "plain pretrain-64 heldout art acc 0.2500 4 1" in text  # Among all scores.


def test_memory_is_that_of_the_device(page: Page) -> None:
    # 1,000,000 bytes at every step; what the process of this test takes is far more.
    assert re.search(rf"plain pretrain-64 1 4 512 1,000 .{{5,30}} 977{SPACE}KiB [\d.]+{SPACE}[MG]iB 1", page.text)


def test_loss_curves_have_their_numbers(small: ModuleType, page: Page) -> None:
    for model, losses in small.LOSSES.items():
        for step, loss in enumerate(losses, start=1):
            assert f"{model} pretrain-64 {step} {128 * step} {128 * step} {loss:.4f}" in page.text
    assert "mixed extend-128 2 256 768 1.8750" in page.text


def test_what_was_run_is_there(built: Graph, page: Page) -> None:
    assert "learning_rate: 0.001" in page.text
    assert "english en 100.0" in page.text
    assert "SomeForCausalLM" in page.text
    assert "length 11 9 2 short 2 1,250 1,150 575" in page.text
    assert "english length short a Hm." in page.text
    assert f"pretrain-64 25.0{SPACE}% 75.0{SPACE}%" in page.text
    weights = small_digest(built)
    assert weights in page.text


def small_digest(graph: Graph) -> str:
    """First digits of the first run's checkpoint, as the lineage graph shows them."""
    from sidewinder.record import file_digest

    return file_digest(graph.stages[0].folder / "checkpoint" / "model.safetensors")[:12]


def test_lineage_draws_only_what_does_not_follow(built: Graph) -> None:
    edges = re.findall(r'data-from="([^"]*)" data-to="([^"]*)"', built.report.read_text())
    pretrain, extend = (f"runs/{stage.run}/{stage.name}" for stage in built.stages[1:])
    assert (pretrain, extend) in edges
    blend = built.blend.relative_to(built.results).as_posix()
    assert (blend, pretrain) in edges
    assert (blend, extend) not in edges
    assert len(edges) == len(set(edges))


def test_equal_catalogs_give_equal_bytes(built: Graph) -> None:
    before = built.report.read_bytes()
    build_report(built)
    assert built.report.read_bytes() == before


def test_superseded_stages_say_what_changed(small: ModuleType, graph: Graph) -> None:
    values = small.study_values(graph.results)
    values["models"]["plain"]["training"] = {"learning_rate": 2e-3}
    changed = small.graph_of(values)
    small.fill(changed)
    page = Page(report_of(changed))
    assert f"{graph.stages[0].run}/pretrain-64 512 2.250 training.learning_rate: 0.001 → 0.002" in page.text


def test_several_seeds_give_mean_and_spread(small: ModuleType, tmp_path: Path) -> None:
    graph = small.graph_of(small.study_values(tmp_path / "results", seeds=[1, 2], extensions=[], export=False))
    small.fill_text(graph)
    for stage in graph.stages:
        shift = 0.25 if stage.seed == 2 else 0.0
        small.train(graph, stage, shift=shift)
        for suite in graph.study.evaluate:
            small.evaluate(graph, stage, suite, shift=shift)
    text = Page(report_of(graph)).text
    # Means of v and v + 1/4, whose standard deviation is 1/4 / sqrt(2).
    assert f"mixed pretrain-64 64 2.375 ± 0.177 62.5{SPACE}% ± 17.7" in text
    assert "All scores are means over 2 seeds; ± is the standard deviation over seeds." in text
    assert "2 models, 2 checkpoints, 2 seeds" in text
    assert "mean over 2 seeds" in text


@pytest.mark.parametrize(
    ("changes", "present", "absent"),
    [
        (
            {"evaluate": [], "export": False},
            "At the last step, in nats per token: mixed 2.000 and plain 2.250.",
            "Scores",
        ),
        ({"evaluate": ["phonebook"]}, "Phonebook, standard", "Bits per byte of held-out text"),
        ({"extensions": []}, "Score against context length", "In the extensions"),
        ({"evaluate": ["heldout"]}, "Bits per byte of held-out text", "Not evaluated, and why"),
        ({"evaluate": ["heldout"]}, "Bits per byte of held-out text", "Look-ups by place"),
        ({"evaluate": ["heldout"], "export": False}, "Bits per byte of held-out text", "logit difference"),
    ],
)
def test_parts_that_a_study_lacks_are_left_out(
    small: ModuleType, tmp_path: Path, changes: dict[str, Any], present: str, absent: str
) -> None:
    graph = small.graph_of(small.study_values(tmp_path / "results", **changes))
    small.fill(graph)
    text = Page(report_of(graph)).text
    assert present in text
    assert absent not in text


def test_one_model(small: ModuleType, tmp_path: Path) -> None:
    values = small.study_values(tmp_path / "results", extensions=[])
    del values["models"]["mixed"]
    graph = small.graph_of(values)
    small.fill(graph)
    text = Page(report_of(graph)).text
    assert "1 model, 1 checkpoint, 1 seed" in text
    assert "Bits per byte after 512 tokens (lower is better): plain 2.500." in text


def test_a_study_that_has_only_begun(small: ModuleType, tmp_path: Path) -> None:
    graph = small.graph_of(small.study_values(tmp_path / "results"))
    assert "No stage of this study is finished yet." in Page(report_of(graph)).text
    small.fill_text(graph)
    small.train(graph, graph.stages[0])
    (graph.stages[0].folder / "record.json").unlink()  # Its metrics are there, but it is not finished.
    text = Page(report_of(graph)).text
    assert "plain pretrain-64 4 512 512 2.2500" in text
    assert "unfinished" in text


def test_names_of_foreign_files_are_escaped(graph: Graph) -> None:
    (graph.results / "<script>alert(1)<").mkdir()
    (graph.results / "<script>alert(1)<" / "x.json").write_text("{}")
    html = report_of(graph)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/x.json" in html


def test_without_a_catalog_it_says_what_makes_one(small: ModuleType, tmp_path: Path) -> None:
    graph = small.graph_of(small.study_values(tmp_path / "results"))
    with pytest.raises(CatalogError, match="run the study first"):
        build_report(graph)
