"""Options of the command line that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Option(help="The study.", envvar="SIDEWINDER_CONFIG")]
DEFAULT = Path("config.yaml")
Into = Annotated[Path, typer.Option(help="The folder to fill, named as `sidewinder plan` lists it.")]
Log = Annotated[Path | None, typer.Option(help="Also write messages to this file.")]
