"""Model cards: they hold what the catalog holds, change with it alone, and are no part of the export's record."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from sidewinder.catalog import build_catalog
from sidewinder.catalog.errors import CatalogError
from sidewinder.cli import app
from sidewinder.config.load import write_study
from sidewinder.export.cards import write_cards
from sidewinder.graph import Graph
from sidewinder.record import RECORD, outputs_of


def _load() -> ModuleType:
    """The helper module of the catalog tests; tests are not a package, so it is loaded by its path."""
    path = Path(__file__).parents[1] / "catalog" / "small_results.py"
    spec = importlib.util.spec_from_file_location("small_results", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["small_results"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small() -> ModuleType:
    return _load()


@pytest.fixture
def finished(small: ModuleType, tmp_path: Path) -> Graph:
    """A small study whose every number is known, with its catalog."""
    english = {"reader": {"kind": "text", "path": "."}, "licence": "CC0-1.0"}
    graph = small.graph_of(small.study_values(tmp_path / "results", sources={"english": english}))
    small.fill(graph)
    write_study(graph.study, graph.resolved)
    assert build_catalog(graph.results, graph.catalog, graph.records) == []
    return graph


def cards(graph: Graph) -> dict[str, str]:
    """Text of each card, by model and context."""
    return {
        f"{stage.model_name}-{stage.training.context_tokens}": graph.card(stage).read_text() for stage in graph.stages
    }


def test_a_card_tells_what_is_known(finished: Graph, small: ModuleType) -> None:
    write_cards(finished)
    written = cards(finished)
    assert [path for path in finished.cards if not path.is_file()] == []
    card, stage = written["mixed-128"], finished.stages[-1]
    assert (stage.model_name, stage.kind) == ("mixed", "extend")
    for line in (
        "# small: mixed-s1 extend-128",
        f"run `{stage.run}`, stage `{stage.name}`",
        "| class | `SomeForCausalLM` |",
        "| layers | `M-` (M Mamba-2",
        "| mamba2 | `chunk: 16, conv_width: 4, expand: 2, groups: 1, head_size: 8, state_size: 8` |",
        f"| parameters | {small.PARAMETERS['mixed'][0]:,} |",
        "| trained context | 128 tokens |",
        "| started from | pretrain-64 |",
        "| tokens of this stage | 256 |",
        "| tokens before it | 512 |",
        "| batch | 1 x 128 tokens |",
        "| learning rate | 0.0005 to 5e-05 |",
        "| loss at the end | 1.875 |",
        "| english | 100.00% | en | CC0-1.0 | 400 | somepackage==1.2 |",
        "| heldout | blend | bits_per_byte | 2.2500 ± 0.1250 | 5 |",
        "| suite | task | metric | 32 tokens | 64 tokens | 128 tokens |",
        "| phonebook | phonebook | standard exact_match | 1.0000 ± 0.0625 (n 16) | 0.7500 ± 0.0625 (n 16) | 0.5000 ±",
        "AutoModelForCausalLM.from_pretrained(folder)",
    ):
        assert line in card, card
    assert "attention |" not in card
    assert stage.parent
    for folder in (stage.folder, stage.parent.folder, finished.tokenizer, finished.blend):
        kept = [entry for entry in outputs_of(folder / RECORD) if entry.role in ("checkpoint", "tokenizer", "blend")]
        for entry in kept:
            assert f"| `{Path(entry.path).relative_to(finished.results)}` | `{entry.sha256}` |" in card
    weights = next(e for e in outputs_of(finished.export(stage) / RECORD) if e.path.endswith("model.safetensors"))
    assert f"| this export | `{Path(weights.path).relative_to(finished.results)}` | `{weights.sha256}` |" in card
    assert str(finished.results) not in card
    assert "What is not in them" not in card
    assert "| started from | nothing |" in written["plain-64"]
    for length, reason in small.LEFT_OUT.items():
        assert "\n\nWhat is not in them:\n\n| suite |" in written["plain-64"]
        assert f"| phonebook | length | {length} | {reason} |" in written["plain-64"]
    assert "| attention | `head_size: 8, heads: 2, kv_heads: 1, rope: null` |" in written["plain-64"]


def test_equal_catalogs_give_equal_bytes(finished: Graph) -> None:
    write_cards(finished)
    before = cards(finished)
    build_catalog(finished.results, finished.catalog, finished.records)
    write_cards(finished)
    assert cards(finished) == before


def test_a_new_score_reaches_its_card_and_no_record(finished: Graph, small: ModuleType) -> None:
    write_cards(finished)
    before, stage = cards(finished), finished.stages[0]
    records = {path: path.read_bytes() for path in finished.records if path.parent.name == "export"}
    for name in (RECORD, f".{RECORD}"):
        (finished.evaluation(stage, "heldout") / name).unlink()
    small.evaluate(finished, stage, "heldout", shift=1.0)
    build_catalog(finished.results, finished.catalog, finished.records)
    write_cards(finished)
    after = cards(finished)
    assert [name for name in before if before[name] != after[name]] == ["plain-64"]
    assert "| heldout | blend | bits_per_byte | 3.5000 ± 0.1250 | 5 |" in after["plain-64"]
    assert {path: path.read_bytes() for path in records} == records
    for path in records:
        assert not any(entry.path.endswith("README.md") for entry in outputs_of(path))


def test_an_unfinished_export_gets_no_card(finished: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    stage = finished.stages[0]
    for name in (RECORD, f".{RECORD}"):
        (finished.export(stage) / name).unlink()
    build_catalog(finished.results, finished.catalog, finished.records)
    write_cards(finished)
    assert not finished.card(stage).exists()
    assert all(finished.card(other).is_file() for other in finished.stages[1:])
    assert f"warning: {finished.export(stage)} is not a finished export" in capsys.readouterr().err


def test_the_command(finished: Graph) -> None:
    done = CliRunner().invoke(app, ["cards", "--config", str(finished.resolved)])
    assert done.exit_code == 0, done.output
    assert all(path.is_file() for path in finished.cards)


def test_without_a_catalog(finished: Graph) -> None:
    finished.catalog.unlink()
    with pytest.raises(CatalogError, match="there is no catalog at"):
        write_cards(finished)


def test_a_study_without_exports_has_no_cards(small: ModuleType, tmp_path: Path) -> None:
    assert small.graph_of(small.study_values(tmp_path / "results", export=False)).cards == []
