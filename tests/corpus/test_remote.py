"""Sources behind addresses: an S3 server on this machine, a web server, and fsspec's memory."""

import functools
import gzip
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from tests.corpus.conftest import sentence, write_jsonl
from tests.corpus.reading import read, source

from sidewinder.corpus import pieces
from sidewinder.corpus.pieces import artifacts, divide
from sidewinder.errors import DataError

TEXTS = [sentence(number) + " 中文" for number in range(200)]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    pieces.forget()
    yield
    pieces.forget()


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/data", recursive=True)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_S3_KEY", "testing")
        patch.setenv("TEST_S3_SECRET", "testing")
        yield {"endpoint_url": f"http://{host}:{port}", "key": "env:TEST_S3_KEY", "secret": "env:TEST_S3_SECRET"}
    server.stop()


def put(storage: dict[str, Any], bucket: str, files: dict[str, Path]) -> Any:
    fs = fsspec.filesystem("s3", endpoint_url=storage["endpoint_url"], key="testing", secret="testing")
    fs.mkdir(bucket)
    for name, path in files.items():
        fs.put(str(path), f"{bucket}/{name}")
    return fs


def test_all_formats_from_s3_like_from_disk(tmp_path: Path, s3: dict[str, Any]) -> None:
    rows = [{"text": text} for text in TEXTS]
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl.gz", rows)
    write_jsonl(tmp_path / ".c.jsonl", rows)
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "d.parquet", row_group_size=20)
    put(s3, "formats", {f"deep/{path.name}": path for path in tmp_path.iterdir()})
    for kind in ("jsonl", "parquet"):
        here = read(source(kind=kind, path=str(tmp_path)))
        config = source(kind=kind, path="s3://formats/deep", storage=s3)
        for shards in (1, 2):
            assert read(config, shards).documents == here.documents
        assert read(source(kind=kind, path=f"s3://formats/*/?.{kind}*", storage=s3)).texts == here.texts
    one = divide(source(kind="jsonl", path="s3://formats/deep/b.jsonl.gz", storage=s3).reader, 1)
    assert [(piece.path, piece.name) for piece in one[0]] == [("s3://formats/deep/b.jsonl.gz", "b.jsonl.gz")]


def test_an_object_that_is_replaced_is_refused_and_has_another_artifact(tmp_path: Path, s3: dict[str, Any]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    fs = put(s3, "replaced", {"a.jsonl": path})
    config = source(kind="jsonl", path="s3://replaced", storage=s3)
    shards = divide(config.reader, 1)
    before = artifacts("x", config.reader, shards[0])
    assert before == artifacts("x", config.reader, shards[0])
    assert (before[0].path, before[0].bytes) == ("s3://replaced/a.jsonl", path.stat().st_size)
    fs.pipe("replaced/a.jsonl", path.read_bytes().replace(b"one", b"two"))
    assert artifacts("x", config.reader, shards[0])[0].sha256 != before[0].sha256
    with pytest.raises(DataError, match=r"s3://replaced/a\.jsonl has changed since it was counted"):
        read(config, shards)
    pieces.forget()
    assert read(config).texts == ["two"]


def test_a_missing_bucket_is_a_clear_error(s3: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"s3://nowhere.*(holds no file|cannot reach)"):
        read(source(kind="jsonl", path="s3://nowhere/data", storage=s3))


def test_a_server_that_is_not_there_is_a_clear_error() -> None:
    storage = {"endpoint_url": "http://127.0.0.1:1", "anon": True, "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(DataError, match=r"cannot reach s3://bucket.*\n  remedy: check the address, the network"):
        read(source(kind="jsonl", path="s3://bucket/data", storage=storage))


def test_unknown_addresses_and_variables_are_clear_errors() -> None:
    with pytest.raises(DataError, match=r"cannot open nosuch://x.*\n  remedy: mend the address"):
        read(source(kind="jsonl", path="nosuch://x/y.jsonl"))
    with pytest.raises(DataError, match="the environment variable NO_SUCH_VARIABLE is not set"):
        read(source(kind="jsonl", path="memory://data", storage={"token": "env:NO_SUCH_VARIABLE"}))


def test_memory_cut_at_bytes(memory: Any) -> None:
    lines = b"".join(b'{"text": "%04d"}\n' % number for number in range(1000))
    memory.pipe("/data/a.jsonl", lines)
    memory.pipe("/data/b.jsonl.gz", gzip.compress(lines))
    config = source(kind="jsonl", path="memory://data")
    whole = read(config)
    assert len(whole.texts) == 2000
    for shards in range(2, 8):
        assert read(config, shards).documents == whole.documents


def test_a_damaged_remote_file_is_counted(memory: Any) -> None:
    content = gzip.compress(b"".join(b'{"text": "%04d"}\n' % number for number in range(10_000)))
    memory.pipe("/data/a.jsonl.gz", content[:-9])
    memory.pipe("/data/b.jsonl", b'{"text": "after"}\n')
    found = read(source(kind="jsonl", path="memory://data"))
    assert found.texts[-1] == "after"
    assert len(found.texts) > 9_900
    assert found.counts["bad_documents"] == 1


class Failing(http.server.SimpleHTTPRequestHandler):
    """A web server of files, without ranges, that breaks the connection in the middle of `breaks.jsonl`."""

    def do_GET(self) -> None:
        if not self.path.endswith("breaks.jsonl"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b'{"text": "x"}\n' * 100)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(Failing, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_of_a_web_server(tmp_path: Path, web: str) -> None:
    write_jsonl(tmp_path / "a.jsonl.gz", [{"text": text} for text in TEXTS])
    found = read(source(kind="jsonl", path=f"{web}/a.jsonl.gz"))
    assert found.texts == TEXTS
    assert found.documents[0].metadata["file"] == "a.jsonl.gz"


def test_a_lost_connection_is_an_error_and_not_the_end_of_a_file(tmp_path: Path, web: str) -> None:
    (tmp_path / "breaks.jsonl").write_bytes(b"x" * 1_000_000)
    with pytest.raises(DataError, match=r"cannot reach http.*breaks\.jsonl"):
        read(source(kind="jsonl", path=f"{web}/breaks.jsonl"))
