"""List files: one entry a line."""

from __future__ import annotations

from pathlib import Path


def read_list(path: str | None) -> list[str]:
    """Entries of a UTF-8 list file without blank lines and comments (#), each once, sorted; none for null."""
    if path is None:
        return []
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return sorted({line for line in lines if line and not line.startswith("#")})
