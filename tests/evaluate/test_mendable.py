"""Which errors of a loader tell of the machine or the network, and which of the task."""

from __future__ import annotations

import jinja2
import pytest
import requests
import torch
from huggingface_hub.errors import OfflineModeIsEnabled

from sidewinder.evaluate.mendable import can_be_mended, ran_out_of_memory


def caused(error: Exception, cause: Exception) -> Exception:
    """The error as it is when it is raised while another one is handled."""
    try:
        try:
            raise cause
        except Exception:
            raise error  # noqa: B904 With the other one as its context.
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    "error",
    [
        requests.ReadTimeout("read timed out"),
        OfflineModeIsEnabled("offline"),
        caused(RuntimeError("cannot build the data set"), TimeoutError("read timed out")),
        FileNotFoundError("data.jsonl"),
        ImportError("no module named 'wonderwords'"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        ValueError("Couldn't find cache for piqa"),
    ],
)
def test_of_the_machine(error: Exception) -> None:
    assert can_be_mended(error)


@pytest.mark.parametrize(
    "error",
    [KeyError("choices"), jinja2.UndefinedError("no column"), caused(KeyError("label"), ValueError("x")), TypeError()],
)
def test_of_the_task(error: Exception) -> None:
    assert not can_be_mended(error)


def test_memory_that_is_not_there() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**55)
    assert ran_out_of_memory(raised.value)
    assert not ran_out_of_memory(RuntimeError("shapes do not match"))
