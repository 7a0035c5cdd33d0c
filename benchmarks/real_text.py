"""Real text for benchmarks: what is installed on this machine, as gzipped JSON lines, and a tokenizer trained on it."""

from __future__ import annotations

import gzip
import random
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from gettext import GNUTranslations
from pathlib import Path
from typing import Any

import orjson

from sidewinder.config.tokenizer import Tokenizer
from sidewinder.export.tokenizer import convert
from sidewinder.tokenizer import load
from sidewinder.tokenizer.train import train

ENDINGS = {
    ".py",
    ".pyi",
    ".txt",
    ".md",
    ".rst",
    ".html",
    ".js",
    ".css",
    ".po",
    ".mo",
    ".c",
    ".h",
    ".cpp",
    ".hpp",
    ".gz",
}
ENDINGS |= {".pl", ".pm", ".xml", ".yaml", ".json", ".sh", ".pyx", ".vim", ".cmake", ""}
ROOTS = [Path(sysconfig.get_path(name)) for name in ("purelib", "stdlib")]
ROOTS += [Path("/usr/lib/python3"), Path("/usr/share/doc"), Path("/usr/share/locale"), Path("/usr/share/man")]
FEWEST_CHARACTERS, MOST_BYTES = 200, 1_000_000  # Of a document.
FILES = 8
PIECES, TRAINED_BYTES = 32_000, 30_000_000


def collect(folder: Path, megabytes: int) -> int:
    """Writes text-0.jsonl.gz … and returns the bytes of text."""
    paths = sorted({path for root in ROOTS for path in root.rglob("*") if path.suffix in ENDINGS and path.is_file()})
    random.Random(1).shuffle(paths)
    total, seen = 0, set()
    with ExitStack() as stack:
        files = [folder / f"text-{number}.jsonl.gz" for number in range(FILES)]
        streams = [stack.enter_context(gzip.open(file, "wb", compresslevel=6)) for file in files]
        for path in paths:
            text = read_text(path)
            if text is None or hash(text) in seen:
                continue
            seen.add(hash(text))
            streams[len(seen) % FILES].write(orjson.dumps({"id": str(path), "text": text}) + b"\n")
            total += len(text.encode())
            if total >= megabytes * 1e6:
                break
    return total


def read_text(path: Path) -> str | None:
    """Text of a file: translations as their messages, compressed documentation decompressed; None where it is none."""
    try:
        if path.suffix == ".mo":
            with path.open("rb") as stream:
                catalogue: Any = GNUTranslations(stream)
            text = "\n".join(map(str, catalogue._catalog.values()))
        else:
            content = path.read_bytes()
            text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, ValueError, EOFError, UnicodeError):
        return None
    return text if FEWEST_CHARACTERS <= len(text) <= MOST_BYTES and "\0" not in text else None


def texts(folder: Path) -> Iterator[str]:
    """All documents, in the order of their files."""
    for path in sorted(folder.glob("text-*.jsonl.gz")):
        with gzip.open(path, "rb") as stream:
            yield from (orjson.loads(line)["text"] for line in stream)


@dataclass
class Lines:
    """The first TRAINED_BYTES of text, by lines."""

    folder: Path
    taken_bytes: dict[str, int] = field(default_factory=dict)
    failure: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        taken = 0
        for text in texts(self.folder):
            taken += len(text)
            if taken > TRAINED_BYTES:
                return
            yield from (line[:4096] for line in text.split("\n"))


def train_model(folder: Path) -> Path:
    """bpe.model of PIECES pieces, and the same as bpe.json."""
    sample: Any = Lines(folder)
    path = folder / "bpe.model"
    path.write_bytes(train(sample, Tokenizer(vocab_size=PIECES, sample_bytes=TRAINED_BYTES)))
    convert(load(path)).save(str(folder / "bpe.json"))
    return path
