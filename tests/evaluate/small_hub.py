"""A data set hub on this machine: the few addresses of Hugging Face's that fetching uses, over a folder of files.

FOLDER/<owner>/<name>/<file>     is served as that file of the data set at its one revision
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlparse

REVISION = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"/api/datasets/(?P<set>[^/]+/[^/]+)(/(?P<what>revision|tree|paths-info)/[^/]+)?(/.*)?")
FILE = re.compile(r"/datasets/(?P<set>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """The address of a hub that serves the folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def log_message(self, *given: object) -> None:
            """Says nothing."""

        def answer(self, body: bool = True) -> None:
            path = unquote(urlparse(self.path).path)
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            if (found := FILE.fullmatch(path)) and (folder / found["set"] / found["file"]).is_file():
                content = (folder / found["set"] / found["file"]).read_bytes()
            elif (found := API.fullmatch(path)) and (folder / found["set"]).is_dir():
                content = json.dumps(self.about(found["set"], found["what"], sent)).encode()
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if FILE.fullmatch(path) else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def about(self, name: str, what: str | None, sent: str) -> object:
            files = sorted(path for path in (folder / name).rglob("*") if path.is_file())
            names = [path.relative_to(folder / name).as_posix() for path in files]
            if what in ("tree", "paths-info"):
                asked = json.loads(sent)["paths"] if sent.startswith("{") else parse_qs(sent).get("paths", names)
                return [
                    {"type": "file", "path": one, "size": path.stat().st_size, "oid": "0" * 40}
                    for one, path in zip(names, files, strict=True)
                    if what == "tree" or one in asked
                ]
            return {"id": name, "sha": REVISION, "siblings": [{"rfilename": one} for one in names], "tags": []}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
