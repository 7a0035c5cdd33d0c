"""Readers in the study: secrets never get into it."""

from typing import Any

import pytest
from pydantic import ValidationError

from sidewinder.config.readers import JsonlReader


@pytest.mark.parametrize(
    "values",
    [
        {"storage": {"secret": "hunter2"}},
        {"storage": {"key": "AKIA"}},
        {"storage": {"client_kwargs": {"aws_secret_access_key": "x"}}},
        {"storage": {"sas_token": "x"}},
        {"path": "https://user:word@example.org/a.jsonl"},
        {"path": "https://example.org/a.jsonl?X-Amz-Signature=12ab"},
    ],
)
def test_secrets_in_the_open_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="the study is recorded"):
        JsonlReader.model_validate({"kind": "jsonl", "path": "s3://bucket/data"} | values)


def test_secrets_are_named_by_environment_variables() -> None:
    storage = {"key": "env:KEY", "client_kwargs": {"secret": "env:SECRET"}, "anon": False, "endpoint_url": "http://x"}
    assert JsonlReader(kind="jsonl", path="s3://bucket/data", storage=storage).storage == storage
