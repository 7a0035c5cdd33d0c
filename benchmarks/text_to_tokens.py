"""Text to tokens, end to end, against datatrove's pipeline, SentencePiece and gigatoken: megabytes of text a second.

    python benchmarks/text_to_tokens.py [--folder F] [--megabytes 300] [--workers 1 2] [--json F]

Source files, documentation and translations of what is installed here become gzipped JSON lines; a BPE tokenizer of
32,000 pieces is trained on some of them. Then, one after the other:

- ours: compressed JSON lines in, .bin and .idx out, through the jobs of the `corpus` and `tokens` stages;
- datatrove: its JsonlReader and DocumentTokenizer (one pass that encodes, one that shuffles), with SentencePiece and
  with the same tokenizer for `tokenizers`;
- SentencePiece and gigatoken alone: texts in memory to ids in memory.

Workers are processes that have imported what they need before the clock starts; threads are threads of one process.
Processor seconds are told as well, for machines on which other work runs beside. Files come from the page cache.
Memory is the largest resident set of a worker.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from real_text import FILES, PIECES, collect, texts, train_model
from sidewinder.config.load import load_study, parse_study, write_study
from sidewinder.corpus.deduplicate import deduplicate_source
from sidewinder.corpus.shard import build_shard
from sidewinder.graph import Graph
from sidewinder.record import read_record
from sidewinder.tokenizer import load
from sidewinder.tokenizer.fast import Gigatoken
from sidewinder.tokenizer.train import train_tokenizer
from sidewinder.tokens.encode import batches, encode_shard

SHARDS = 2  # Of 100 MB and more, as in use: a shard is what a job begins with nothing remembered.
Row = dict[str, Any]


def study_of(folder: Path, model: Path, results: str) -> Path:
    """study.json of one source over the collected files."""
    values = {
        "study": "benchmark",
        "results": str(folder / results),
        "sources": {
            "text": {"reader": {"kind": "jsonl", "path": str(folder / "text-*.jsonl.gz")}, "shards": SHARDS},
        },
        "blend": {"text": 1.0},
        "heldout_share": 0.001,
        "lookup": {"share": 0.0},
        "tokenizer": str(model),
        "models": {"toy": {"pattern": "*-", "hidden_size": 64}},
        "training": {
            "context_tokens": 64,
            "batch_sequences": 4,
            "budget_tokens": 10_000,
            "learning_rate": 1e-3,
            "minimum_learning_rate": 1e-4,
        },
    }
    write_study(parse_study(values), folder / f"{results}.json")
    return folder / f"{results}.json"


# Jobs of a worker process


def ready(module: str) -> None:
    """Imports what the jobs need, so that it is not timed."""
    import_module(module)
    time.sleep(1)  # So that the other workers take one of these as well.


def corpus_job(study: str, shard: str) -> None:
    build_shard(Graph(load_study(study)), "text", shard)


def deduplicate_job(study: str) -> None:
    deduplicate_source(Graph(load_study(study)), "text")


def tokens_job(study: str, shard: str) -> None:
    encode_shard(Graph(load_study(study)), "text", shard)


def datatrove_job(folder: str, output: str, kind: str, rank: int) -> None:
    """One file through datatrove's own steps."""
    from datatrove.pipeline.readers import JsonlReader

    step = datatrove_step(Path(folder), output, kind)
    reader = JsonlReader(folder, glob_pattern="text-*.jsonl.gz", compression="gzip", doc_progress=False)
    step.run(reader.run(rank=rank, world_size=FILES), rank=rank, world_size=FILES)


def datatrove_step(folder: Path, output: str, kind: str) -> Any:
    """Its DocumentTokenizer, or that with SentencePiece in the place of `tokenizers`."""
    from datatrove.pipeline.tokens import DocumentTokenizer

    class Encoding:
        def __init__(self, ids: list[int]) -> None:
            self.ids = ids

    class SentencePiece:
        def __init__(self) -> None:
            self.inner = load(folder / "bpe.model")

        def encode_batch(self, batch: list[str]) -> list[Encoding]:
            return [Encoding(ids) for ids in self.inner.encode(batch, add_eos=True, num_threads=1)]

        def get_vocab_size(self) -> int:
            return PIECES

    class WithSentencePiece(DocumentTokenizer):
        tokenizer = SentencePiece()

    maker = WithSentencePiece if kind == "sentencepiece" else DocumentTokenizer
    eos = None if kind == "sentencepiece" else "</s>"
    return maker(output, str(folder / "bpe.json"), eos_token=eos, seed=1, batch_size=500, save_final_metadata=False)


@dataclass
class Cost:
    """Seconds, seconds of all processors, and the largest memory of a process."""

    seconds: float
    cpu_s: float
    peak_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        peak_bytes = max(self.peak_bytes, other.peak_bytes)
        return Cost(self.seconds + other.seconds, self.cpu_s + other.cpu_s, peak_bytes)


def measured(job: Callable[..., None], *arguments: Any) -> tuple[float, int]:
    """(processor seconds, peak memory of this process so far) of one job."""
    start = time.process_time()
    job(*arguments)
    return time.process_time() - start, peak_bytes()


def peak_bytes() -> int:
    """Largest resident set of this process. getrusage would count that of the process which started it as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


class Workers:
    """Processes, started and ready, that run jobs."""

    def __init__(self, count: int, module: str) -> None:
        self.pool = multiprocessing.get_context("spawn").Pool(count)
        self.pool.map(ready, [module] * count, chunksize=1)

    def run(self, job: Callable[..., None], arguments: list[tuple[Any, ...]]) -> Cost:
        """What all took."""
        start = time.perf_counter()
        found = self.pool.starmap(measured, [(job, *given) for given in arguments], chunksize=1)
        seconds = time.perf_counter() - start
        return Cost(seconds, sum(cpu_s for cpu_s, _ in found), max(peak for _, peak in found))


# What is measured


def measure_ours(folder: Path, model: Path, size_bytes: int, count: int) -> list[Row]:
    """Both stages, and each of them."""
    study = study_of(folder, model, f"ours-{count}")
    graph, workers = Graph(load_study(study)), Workers(count, "awkward")
    corpus = workers.run(corpus_job, [(str(study), shard) for shard in graph.corpus_shards("text")])
    corpus += workers.run(deduplicate_job, [(str(study),)])
    train_tokenizer(graph)  # Copies the file, and measures it on held-out text: not part of the way to tokens.
    tokens = workers.run(tokens_job, [(str(study), shard) for shard in graph.shards("text")])
    facts = [read_record(graph.tokens("text", shard) / "record.json")["facts"] for shard in graph.shards("text")]
    rows = [
        row(name, f"{count} workers", size_bytes, cost)
        for name, cost in (("ours", corpus + tokens), ("- corpus", corpus), ("- tokens", tokens))
    ]
    rows[0] |= {
        "tokens": sum(fact["tokens"] for fact in facts),
        "encoders": sorted({fact["encoder"] for fact in facts}),
    }
    return rows


def measure_datatrove(folder: Path, size_bytes: int, count: int, kind: str) -> list[Row]:
    output, workers = folder / f"datatrove-{kind}-{count}", Workers(count, "datatrove.pipeline.tokens")
    cost = workers.run(datatrove_job, [(str(folder), str(output), kind, rank) for rank in range(FILES)])
    shutil.rmtree(output)
    return [row(f"datatrove, {kind}", f"{count} workers", size_bytes, cost)]


def measure_alone(folder: Path, model: Path) -> list[Row]:
    """Libraries alone, on texts in memory, a few megabytes a call."""
    groups = list(batches(text.encode() for text in texts(folder)))
    size_bytes = sum(map(len, (text for group in groups for text in group)))
    tokenizer, rows = load(model), []
    for threads in (1, 2):
        encode: Any = partial(tokenizer.encode, return_type="numpy", num_threads=1)
        rows.append(row("SentencePiece", f"{threads} threads", size_bytes, cost_of(encode, groups, threads)))
    for threads in (1, 2):
        encode = Gigatoken(model, tokenizer)  # A new one each time: it remembers words.
        rows.append(row("gigatoken", f"{threads} threads", size_bytes, cost_of(encode, groups, threads)))
    return rows


def cost_of(encode: Callable[[list[bytes]], Any], groups: list[list[bytes]], threads: int) -> Cost:
    """Encodes everything and keeps nothing."""
    with ThreadPoolExecutor(threads) as pool:
        start, cpu = time.perf_counter(), time.process_time()
        deque(pool.map(encode, groups), maxlen=0)
        return Cost(time.perf_counter() - start, time.process_time() - cpu)


def row(name: str, how: str, size_bytes: int, cost: Cost) -> Row:
    speeds = {"mb_s": size_bytes / 1e6 / cost.seconds, "mb_cpu_s": size_bytes / 1e6 / cost.cpu_s}
    return {"name": name, "how": how, **asdict(cost), **speeds}


def ratios(rows: list[Row]) -> Iterator[str]:
    """What the figures come to."""
    speed = {(row["name"], row["how"][0]): row["mb_s"] for row in rows}
    cpu_speed = {(row["name"], row["how"][0]): row["mb_cpu_s"] for row in rows}
    for count in sorted({how for name, how in speed if name == "ours"}):
        for name in ("datatrove, sentencepiece", "datatrove, tokenizers", "SentencePiece"):
            if (name, count) in speed:
                yield f"ours / {name}, {count}: {speed['ours', count] / speed[name, count]:.1f}"
        if ("gigatoken", count) in speed:
            by_cpu = cpu_speed["ours", count] / cpu_speed["gigatoken", count]
            share = speed["ours", count] / speed["gigatoken", count]
            yield f"ours / gigatoken alone, {count}: {share:.0%} ({by_cpu:.0%} by processor time)"
    if ("ours", "1") in speed and ("ours", "2") in speed:
        yield f"ours, 2 workers / 1: {speed['ours', '2'] / speed['ours', '1']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one, left out")
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        size_bytes = collect(folder, given.megabytes)
        model = train_model(folder)
        print(f"{size_bytes / 1e6:.0f} MB of text, {PIECES:,} pieces", flush=True)
        rows: list[Row] = []
        measures = [partial(measure_ours, folder, model, size_bytes, count) for count in given.workers]
        for kind in ("sentencepiece", "tokenizers"):
            for count in given.workers:
                measures.append(partial(measure_datatrove, folder, size_bytes, count, kind))
        measures.append(partial(measure_alone, folder, model))
        print(f"{'':<28}{'':<12}{'s':>8}{'cpu s':>8}{'MB/s':>8}{'MB/cpu s':>10}{'peak MB':>9}")
        for measure in measures:
            for found in measure():
                rows.append(found)
                peak = f"{found['peak_bytes'] / 1e6:9.0f}" if found["peak_bytes"] else ""
                figures = (
                    f"{found['seconds']:8.1f}{found['cpu_s']:8.1f}{found['mb_s']:8.1f}{found['mb_cpu_s']:10.1f}{peak}"
                )
                print(f"{found['name']:<28}{found['how']:<12}{figures}", flush=True)
        print("\n".join(ratios(rows)))
    if given.json:
        given.json.write_text(json.dumps({"bytes": size_bytes, "rows": rows}, indent=1) + "\n")
