"""Speed of reading training data: tokens a second, opening an index of many documents, packing, memory.

    python benchmarks/load.py [--folder F] [--tokens 400_000_000] [--shards 8] [--documents 1_000_000_000] [--json F]

Shards of random uint16 tokens with documents of skewed lengths are written to the folder (removed afterwards), and read
once, so that times are those of the page cache. A batch is read as training reads it: int64 tensors, cut to
micro-batches. The peers, in the same run on the same files: Megatron-core's GPTDataset (its index built beforehand, one
item at a time, stacked to tensors) where it is installed, and a plain reader that copies one document after the other.
The index of `--documents` documents is a sparse file of their real size but for its tokens; 0 leaves it out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sidewinder.config.packing import LongDocuments
from sidewinder.record import file_digest
from sidewinder.tokens.indexed import HEADER, MAGIC, VERSION, IndexedReader, IndexedWriter, bin_path, idx_path
from sidewinder.tokens.loader import BlendLoader

EOS, VOCABULARY, SECONDS = 2, 32_000, 3.0
Reader = Callable[[int, int], object]


def write_shards(folder: Path, tokens: int, shards: int) -> Path:
    """blend.json of one source: log-normal lengths with a median of 600 tokens, as web text has."""
    listed = []
    for number in range(shards):
        random, prefix, total = np.random.default_rng(number), folder / f"shard-{number:05d}", 0
        with IndexedWriter(prefix, np.uint16) as writer:
            while total < tokens // shards:
                sizes = np.minimum(random.lognormal(np.log(600), 1.2, 4096).astype(int) + 2, 500_000)
                flat = random.integers(3, VOCABULARY, sizes.sum(), dtype=np.uint16)
                flat[np.cumsum(sizes) - 1] = EOS
                writer.add_block(flat, sizes)
                total += len(flat)
        listed.append({"prefix": prefix.name, "tokens": total, "documents": writer.documents})
        listed[-1]["sha256_bin"] = file_digest(bin_path(prefix))
    blend = {"vocab_size": VOCABULARY, "eos": EOS, "dtype": "uint16"}
    blend["sources"] = {"text": {"weight": 1.0, "shards": listed, "heldout": []}}
    path = folder / "blend.json"
    path.write_text(json.dumps(blend))
    return path


def speed(read: Reader, context: int) -> float:
    """Tokens a second of reading batches of about half a million tokens, for some seconds, after one."""
    size = max(1, (1 << 19) // context)
    read(0, size)
    start, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < SECONDS:
        done += size
        read(done, size)
    return done * context / elapsed


def ours(blend: Path, context: int, *, trainer: bool = True, **options: Any) -> Reader:
    """The loader, with what the trainer does to its batches."""
    from sidewinder.train.batch import parts_of
    from sidewinder.train.parallel.world import World

    loader = BlendLoader(blend, context, 1, 1_000_000, **options)
    eos = EOS if options.get("packing") == "documents" else None
    if not trainer:
        return loader.sequences
    return lambda first, count: [
        (part.inputs.contiguous(), part.targets.contiguous(), part.resets)
        for part in parts_of(*loader.sequences(first, count), size=count, eos=eos, world=World())
    ]


def megatron(blend: Path, context: int) -> Reader | None:
    """Megatron-core's data set over all shards, each a part of a blend; None where it is not installed."""
    try:
        import torch
        from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
        from megatron.core.datasets.indexed_dataset import IndexedDataset
        from megatron.core.datasets.utils import Split
    except ImportError:
        return None
    tokenizer = SimpleNamespace(eod=EOS, pad=0, vocab_size=VOCABULARY, unique_identifiers={"made": "up"})
    settings = {"reset_position_ids": False, "reset_attention_mask": False, "eod_mask_loss": False}
    config = GPTDatasetConfig(
        random_seed=1, sequence_length=context, split="1,0,0", tokenizer=tokenizer, create_attention_mask=False,
        mid_level_dataset_surplus=0.005, path_to_cache=str(blend.parent / "megatron"), **settings
    )  # fmt: skip
    sets = []
    for shard in json.loads(blend.read_text())["sources"]["text"]["shards"]:
        indexed = IndexedDataset(str(blend.parent / shard["prefix"]), multimodal=False, mmap=True)
        documents = np.arange(len(indexed.document_indices) - 1, dtype=np.int32)
        count = shard["tokens"] // context
        sets.append(GPTDataset(indexed, str(blend.parent / shard["prefix"]), documents, count, Split.train, config))

    def read(first: int, count: int) -> object:
        items = [sets[n % len(sets)][n // len(sets) % len(sets[n % len(sets)])] for n in range(first, first + count)]
        return [torch.stack([item[key] for item in items]) for key in ("tokens", "labels")]

    return read


def plain(blend: Path, context: int) -> Reader:
    """Documents in random order, copied one after the other until a batch is full; nothing can be found again."""
    import torch

    shards = json.loads(blend.read_text())["sources"]["text"]["shards"]
    readers = [IndexedReader(blend.parent / shard["prefix"]) for shard in shards]
    random = np.random.default_rng(1)

    def read(first: int, count: int) -> object:
        tokens, done = np.empty(count * (context + 1), dtype=np.int64), 0
        while done < len(tokens):
            reader = readers[random.integers(len(readers))]
            document = reader[int(random.integers(len(reader)))][: len(tokens) - done]
            tokens[done : done + len(document)] = document
            done += len(document)
        return torch.from_numpy(tokens.reshape(count, context + 1))

    return read


def speeds(blend: Path) -> list[dict[str, Any]]:
    rows = []
    long = LongDocuments(minimum_tokens=4_096, long_share=0.5)
    for context in (4_096, 131_072):
        peer = megatron(blend, context)
        readers: dict[str, Reader] = {
            "sidewinder, arrays": ours(blend, context, trainer=False),
            "sidewinder, as trained": ours(blend, context),
            "sidewinder, documents packed": ours(blend, context, packing="documents"),
            "sidewinder, half long documents": ours(blend, context, documents=long),
            **({"Megatron-core GPTDataset": peer} if peer else {}),
            "plain, document by document": plain(blend, context),
        }
        found = {name: speed(read, context) for name, read in readers.items()}
        base = found["Megatron-core GPTDataset" if peer else "plain, document by document"]
        for name, value in found.items():
            rows.append({"context": context, "reader": name, "tokens_per_s": value, "ratio": value / base})
    return rows


def write_billion(folder: Path, documents: int) -> Path:
    """An index of equal documents, real but for its tokens, which are a hole in the file."""
    prefix, size = folder / "many", 500
    with idx_path(prefix).open("wb") as stream:
        stream.write(HEADER.pack(MAGIC, VERSION, 8, documents, documents + 1))
        for scale, kind, count in ((0, "<i4", documents), (2 * size, "<i8", documents), (1, "<i8", documents + 1)):
            for first in range(0, count, 1 << 22):
                places = np.arange(first, min(count, first + (1 << 22)), dtype=np.int64)
                (places * scale if scale else np.full(len(places), size)).astype(kind).tofile(stream)
    with bin_path(prefix).open("wb") as stream:
        stream.truncate(2 * size * documents)
    shard = {"prefix": prefix.name, "tokens": size * documents, "documents": documents}
    blend = {"vocab_size": VOCABULARY, "eos": EOS, "dtype": "uint16"}
    blend["sources"] = {"many": {"weight": 1.0, "shards": [shard], "heldout": []}}
    path = folder / "many.json"
    path.write_text(json.dumps(blend))
    return path


def open_many(blend: Path) -> dict[str, float]:
    """Opens a blend, reads a batch of its first and one of a later epoch; in a process of its own, without torch."""
    start, before = time.perf_counter(), memory_bytes()
    loader = BlendLoader(blend, 4_096, 1, 1_000_000)
    opened = time.perf_counter() - start
    loader.sequences(0, 64)
    read = time.perf_counter() - start
    loader.sequences(loader.streams[0].sequences * 7, 64)
    return {
        "open_s": opened, "first_batch_s": read, "later_epoch_s": time.perf_counter() - start,
        "imported_bytes": before, "peak_bytes": memory_bytes(),
    }  # fmt: skip


def memory_bytes() -> int:
    """Most memory of this process so far, parts of mapped files that it read included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def index_of_many(folder: Path, documents: int) -> dict[str, Any]:
    start = time.perf_counter()
    blend = write_billion(folder, documents)
    made, index_bytes = time.perf_counter() - start, idx_path(folder / "many").stat().st_size
    told = subprocess.run([sys.executable, __file__, "--open", blend], capture_output=True, text=True, check=True)
    return {"documents": documents, "index_bytes": index_bytes, "made_in_s": made} | json.loads(told.stdout)


def packing(blend: Path) -> list[dict[str, Any]]:
    """Time to make the indexes anew, and what packing leaves unpredicted."""
    rows = []
    for context in (4_096, 131_072):
        for file in (blend.parent / "index").glob("*.*"):
            with suppress(OSError):
                file.unlink()
        start = time.perf_counter()
        loader = BlendLoader(blend, context, 1, 1_000, packing="documents")
        documents = sum(shard["documents"] for shard in json.loads(blend.read_text())["sources"]["text"]["shards"])
        rate = documents / (time.perf_counter() - start)
        rows.append({"context": context, "documents_per_s": rate, "padding": 1 - loader.predicted_share})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tokens", type=lambda text: int(text.replace("_", "")), default=400_000_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--documents", type=lambda text: int(text.replace("_", "")), default=1_000_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.open:
        print(json.dumps(open_many(asked.open)))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        blend = write_shards(Path(name), asked.tokens, asked.shards)
        told: dict[str, Any] = {"speeds": speeds(blend), "packing": packing(blend)}
        if asked.documents:
            told["index"] = index_of_many(Path(name), asked.documents)
    for row in told["speeds"]:
        speed_m, ratio = row["tokens_per_s"] / 1e6, row["ratio"]
        print(f"{row['context']:>8,}  {row['reader']:<32} {speed_m:>8.1f} M tokens/s  {ratio:.2f}")
    for row in told["packing"]:
        print(f"{row['context']:>8,}  packed: {row['documents_per_s']:,.0f} documents/s, padding {row['padding']:.3%}")
    print(*(f"{key}: {value:,.3f}" for key, value in told.get("index", {}).items()), sep="\n")
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
