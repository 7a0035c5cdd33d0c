"""Megatron's arguments, which a checkpoint keeps as a namespace: typed look-ups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sidewinder.errors import CheckpointError
from sidewinder.imports.megatron.pickled import Inert

NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace")


class Arguments:
    """Look-ups give None for what is missing or None, and raise CheckpointError for values of another kind."""

    def __init__(self, namespace: Any, where: Path) -> None:
        self.where = where
        if isinstance(namespace, Inert) and namespace.name in NAMESPACES:
            namespace = namespace.state
        if not isinstance(namespace, dict):
            raise CheckpointError(
                f"{where} has no `args`, without which heads, norms and activations are not known",
                remedy="give a checkpoint that Megatron saved, with its arguments",
            )
        self._values: dict[str, Any] = namespace

    def whole(self, name: str) -> int | None:
        return self._get(name, int, "a whole number")

    def number(self, name: str) -> float | None:
        found: float | None = self._get(name, (int, float), "a number")
        return None if found is None else float(found)

    def text(self, name: str) -> str | None:
        return self._get(name, str, "text")

    def flag(self, name: str) -> bool | None:
        return self._get(name, bool, "true or false")

    def is_set(self, name: str) -> bool:
        """True for any value but None, False, zero and nothing."""
        return bool(self._values.get(name))

    def shown(self, name: str) -> str:
        """An argument as `name = value`, for messages."""
        value = self._values.get(name)
        plain = value is None or isinstance(value, str | int | float)
        return f"{name} = {value!r:.60}" if plain else f"{name} = a {type(value).__name__}"

    def _get(self, name: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        value = self._values.get(name)
        if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
            return value
        raise CheckpointError(
            f"{self.where}: argument {self.shown(name)} should be {wanted}", remedy="the checkpoint is damaged"
        )
