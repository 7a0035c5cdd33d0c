"""config.yaml → Study, with errors that a person can act on, and the JSON schema for editors and Snakemake."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sidewinder.config.study import Study
from sidewinder.errors import ConfigError


def load_study(path: str | Path) -> Study:
    """Parses a study file (YAML or JSON). Raises ConfigError that lists every mistake at once."""
    path = Path(path)
    return parse_study(_read(path), str(path))


def parse_study(values: Any, origin: str = "config") -> Study:
    """Builds a Study from parsed YAML; `origin` is what errors call it."""
    if not isinstance(values, dict):
        raise ConfigError(f"{origin} is not a mapping of keys to values", remedy="see config.yaml for an example")
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        mistakes = [_explain(detail) for detail in error.errors()]
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
        raise ConfigError("\n".join([f"{origin}: {count}", *mistakes])) from None


def write_schema(path: Path) -> None:
    """Writes the JSON schema (draft 2020-12) of a study."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Study.model_json_schema()}
    path.write_text(json.dumps(schema, indent=2) + "\n")


def _read(path: Path) -> Any:
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", remedy="name a study with --config FILE") from None
    if path.suffix == ".json":
        return json.loads(text)
    import yaml

    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}", remedy="mend the line that it names") from None


def _unique_keys_loader() -> Any:
    """A safe YAML loader that refuses a key written twice, which YAML itself would silently accept."""
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
            return super().construct_mapping(node, deep)

    return UniqueKeys


def __getattr__(name: str) -> Any:
    if name == "_UniqueKeys":
        return _unique_keys_loader()
    raise AttributeError(name)


def _explain(detail: ErrorDetails) -> str:
    """One mistake as key, value, what is wrong, and what to do."""
    path = [str(part) for part in detail["loc"]]
    allowed = _keys_at(path[:-1]) if detail["type"] in ("extra_forbidden", "missing") else []
    key = ".".join(_without_tags(path)) or "(whole file)"
    if detail["type"] == "extra_forbidden":
        near = get_close_matches(path[-1], allowed, n=1, cutoff=0.0)
        return (
            f"  {key}: unknown key (value: {detail['input']!r})\n"
            f"    nearest: {near[0] if near else '-'}; allowed: {', '.join(allowed)}\n"
            f"    remedy: rename the key or remove it"
        )
    if detail["type"] == "missing":
        return f"  {key}: missing\n    remedy: add it; known keys here: {', '.join(allowed)}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"  {key}: {message}\n    value: {_short(detail['input'])}\n    remedy: {_remedy(detail)}"


def _remedy(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind.endswith(("_type", "_parsing")) or kind in ("int_from_float",):
        return f"write {kind.removesuffix('_type').removesuffix('_parsing').replace('_', ' ')} instead"
    if kind in ("literal_error", "union_tag_invalid", "enum"):
        return f"use one of {detail.get('ctx', {}).get('expected') or detail.get('ctx', {}).get('expected_tags')}"
    return "change the value"


def _short(value: Any, most: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


_TAGS = {"packages", "jsonl", "parquet", "text", "bits_per_byte", "phonebook", "needle", "harness"}


def _without_tags(path: list[str]) -> list[str]:
    """Drops the union tags that pydantic puts into a location (`reader.jsonl.path` → `reader.path`)."""
    kept: list[str] = []
    for place, part in enumerate(path):
        is_tag = part in _TAGS and place > 0 and (path[place - 1] == "reader" or path[:1] == ["suites"] and place == 2)
        if not is_tag:
            kept.append(part)
    return kept


def _keys_at(path: list[str]) -> list[str]:
    """Field names allowed in the block at a location, found by walking the models."""
    schema = Study.model_json_schema()
    node: dict[str, Any] = schema
    for part in _without_tags(path):
        node = _child(_resolve(node, schema), part, schema)
    options = [_resolve(option, schema) for option in node.get("oneOf", node.get("anyOf", [node]))]
    tag = path[-1] if path and path[-1] in _TAGS else None
    names: list[str] = []
    for option in options:
        properties = _resolve(option, schema).get("properties", {})
        if tag is None or properties.get("kind", {}).get("const") == tag:
            names.extend(name for name in properties if name not in names)
    return names


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def _child(node: dict[str, Any], part: str, schema: dict[str, Any]) -> dict[str, Any]:
    for option in node.get("anyOf", node.get("oneOf", [node])):
        option = _resolve(option, schema)
        if part in option.get("properties", {}):
            return _resolve(option["properties"][part], schema)
        if isinstance(option.get("additionalProperties"), dict):
            return _resolve(option["additionalProperties"], schema)
        if part.isdigit() and "items" in option:
            return _resolve(option["items"], schema)
    return {}


def is_model(kind: type) -> bool:
    """True for configuration blocks."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)
