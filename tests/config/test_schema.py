"""The committed JSON schema is the one that the models give, and the studies that are shipped satisfy it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from sidewinder.config.load import load_study, write_schema, write_study

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "schemas" / "study.schema.json"
STUDIES = [ROOT / "config.yaml", ROOT / "tests" / "workflow" / "study.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]


def test_committed_schema_is_current(tmp_path: Path) -> None:
    write_schema(tmp_path / "schema.json")
    assert SCHEMA.read_text() == (tmp_path / "schema.json").read_text(), "run `make schema`"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_shipped_studies_satisfy_schema_and_models(path: Path, tmp_path: Path) -> None:
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(yaml.safe_load(path.read_text()))
    study = load_study(path)
    write_study(study, tmp_path / "study.json")
    assert load_study(tmp_path / "study.json") == study


def test_schema_refuses_unknown_keys() -> None:
    values = yaml.safe_load((ROOT / "config.yaml").read_text()) | {"studdy": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(values)
