"""lm-eval's own command with our model and tasks in its registries.

lm-eval 0.4.13 looks for models in a table of its own package alone: neither an installed package's entry points nor
--include_path can add one. So its command is called from here, after `sidewinder` has been registered.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def run(arguments: Sequence[str]) -> None:
    """As `lm_eval ARGUMENTS`; our tasks are included unless --include_path names other ones."""
    from lm_eval.__main__ import cli_evaluate

    import sidewinder.evaluate.adapter  # noqa: F401 Registers the model.
    from sidewinder.evaluate.presets import FOLDER

    given = list(arguments)
    named = any(argument.split("=")[0] == "--include_path" for argument in given)
    own = (
        [] if named or not given or given[0] in ("ls", "validate", "-h", "--help") else ["--include_path", str(FOLDER)]
    )
    before = sys.argv
    sys.argv = ["lm_eval", *given, *own]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
