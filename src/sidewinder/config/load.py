"""config.yaml → Study, with errors that a person can act on, and the JSON schema for editors and Snakemake."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sidewinder.config.base import BLOCK, WORD
from sidewinder.config.study import Study
from sidewinder.errors import ConfigError
from sidewinder.record import write_atomically


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


def write_study(study: Study, path: Path) -> None:
    """Writes the whole study with every default filled in, as JSON that `load_study` reads."""
    write_atomically(path, study.model_dump_json(indent=1) + "\n")


def write_schema(path: Path) -> None:
    """Writes the JSON schema (draft 2020-12) of a study."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Study.model_json_schema()}
    try:
        path.write_text(json.dumps(schema, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", remedy="name another file") from None


def _read(path: Path) -> Any:
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", remedy="name a study with --config FILE") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}", remedy="save it as UTF-8") from None
    try:
        return json.loads(text) if path.suffix == ".json" else _parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"cannot parse {path}: {error}", remedy="mend the line that it names") from None


def _parse_yaml(text: str) -> Any:
    """Safe YAML that refuses a key written twice, which YAML itself would silently accept."""
    import yaml  # Here, so that a GPU node can train from a JSON file without it.

    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.YAMLError(f"key {key!r} is given twice{node.start_mark}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=UniqueKeys)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from None


def _explain(detail: ErrorDetails) -> str:
    """One mistake as key, value, what is wrong, and what to do."""
    path = [str(part) for part in detail["loc"]]
    key = ".".join(_without_tags(path))
    if detail["type"] in ("extra_forbidden", "missing"):
        allowed = _keys_at(path[:-1])
        if detail["type"] == "missing":
            return f"  {key}: missing\n    remedy: add it; known keys here: {', '.join(allowed)}"
        near = get_close_matches(path[-1], allowed, n=1, cutoff=0.0)
        rename = f"rename it to {near[0]!r} (nearest) or remove it" if near else "remove it"
        return (
            f"  {key}: unknown key\n    value: {_short(detail['input'])}\n"
            f"    remedy: {rename}; known keys here: {', '.join(allowed)}"
        )
    if detail["type"] == "union_tag_not_found":
        told = f"  {key}: does not say its kind\n    value: {_short(detail['input'])}"
        return f"{told}\n    remedy: add `kind`, one of {', '.join(_kinds_at(path))}"
    message, value = detail["msg"].removeprefix("Value error, "), detail["input"]
    if found := _CROSS_KEY.match(message):  # A check across keys names the one it blames.
        key, message = ".".join(filter(None, [key, found[1]])), found[2]
        value = _value_at(value, found[1])
    message, _, use = message.partition("; use ")  # A check that knows what would be right says so.
    return f"  {key}: {message}\n    value: {_short(value)}\n    remedy: {f'use {use}' if use else _remedy(detail)}"


_CROSS_KEY = re.compile(r"([a-z][a-z0-9_.]*): (.*)", re.DOTALL)


def _value_at(value: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(value, list):
            value = value[int(part)]
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            return value
    return value


_TYPES = {"int": "a whole number", "float": "a number", "string": "a text", "bool": "true or false", "list": "a list"}
_TYPES |= dict.fromkeys(("dict", "model", "model_attributes"), "keys with values, as {key: value}")


def _remedy(detail: ErrorDetails) -> str:
    kind, _, suffix = detail["type"].rpartition("_")
    if suffix in ("type", "parsing"):
        return f"write {_TYPES.get(kind, kind.replace('_', ' '))}"
    if detail["type"] in ("literal_error", "union_tag_invalid"):
        context = detail.get("ctx", {})
        return f"use one of {context.get('expected') or context.get('expected_tags')}"
    return "change the value so that this holds"


def _short(value: Any, most: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _keys_at(path: list[str]) -> list[str]:
    """Field names allowed in the block at a location, found by walking the models."""
    schema = Study.model_json_schema()
    _, node = _walk(path, schema)
    options = [_resolve(option, schema) for option in node.get("oneOf", node.get("anyOf", [node]))]
    return list(dict.fromkeys(name for option in options for name in option.get("properties", {})))


def _kinds_at(path: list[str]) -> list[str]:
    """The kinds of blocks that there can be at a location."""
    schema = Study.model_json_schema()
    node = _walk(path, schema)[1]
    options = [_resolve(option, schema) for option in node.get("oneOf", node.get("anyOf", []))]
    return [option["properties"]["kind"]["const"] for option in options]


def _without_tags(path: list[str]) -> list[str]:
    """Drops the union tags that pydantic puts into a location (`reader.jsonl.path` → `reader.path`)."""
    return _walk(path, Study.model_json_schema())[0]


def _walk(path: list[str], schema: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """A location without union tags, and the schema there."""
    kept: list[str] = []
    node = schema
    for part in path:
        node = _resolve(node, schema)
        options = [_resolve(option, schema) for option in node.get("oneOf", node.get("anyOf", []))]
        tagged = [option for option in options if option.get("properties", {}).get("kind", {}).get("const") == part]
        if tagged:
            node = tagged[0]
        elif options and part == WORD:
            node = {}
        elif options and part == BLOCK:
            node = next(option for option in options if "properties" in option)
        else:
            kept.append(part)
            node = _child(node, part, schema)
    return kept, _resolve(node, schema)


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def _child(node: dict[str, Any], part: str, schema: dict[str, Any]) -> dict[str, Any]:
    for option in node.get("anyOf", node.get("oneOf", [node])):
        option = _resolve(option, schema)
        if part in option.get("properties", {}):
            return _resolve(option["properties"][part], schema)
        named = [*option.get("patternProperties", {}).values(), option.get("additionalProperties")]
        if named[0] is not None and isinstance(named[0], dict):
            return _resolve(named[0], schema)
        if part.isdigit() and "items" in option:
            return _resolve(option["items"], schema)
    return {}
