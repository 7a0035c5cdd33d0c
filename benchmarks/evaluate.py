"""Evaluation speed: our lm-eval adapter beside lm-eval's own `hf` model, on the same exported model, in one run.

    python benchmarks/evaluate.py [--only transformer hybrid] [--tasks letters texts …] [--samples 48] [--json out.json]
    python benchmarks/evaluate.py --float32           # and how exact is either?
    python benchmarks/evaluate.py --tiny              # to try it on a CPU

A model of more than 10^9 random weights is exported, and the folder is read by both sides: by `hf` as its
transformers class, by ours as `--model sidewinder` would. Both answer the same tasks (evaluation_tasks.py) through
lm-eval's own evaluator, in bfloat16 on a GPU, with as many inputs a batch as `--batch-tokens` has room for at the
task's longest input. The sides take turns; a time is the median of the rounds; loading and a first round, in which
kernels are made for every shape, are left out. Beside the samples a second stand the largest difference of two
log-likelihoods and the share of equal texts, which tell that both did the same work (in bfloat16, `hf` rounds sums to
that: docs/evaluation.md). `ratio` is our samples a second over the peer's. With `--float32` both also answer in
float32, untimed: `in_float32` tells how far they are from each other then, `from_float32` how far each is from itself.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # Bars of lm-eval; tqdm reads this when imported.

import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from transformers.utils import logging as transformers_logging

from evaluation_tasks import KINDS, longest_tokens, make, words
from sidewinder.config.model import Attention, Mamba2, Mlp, ModelConfig, Rope
from sidewinder.evaluate.adapter import SidewinderLM
from sidewinder.evaluate.journal import Journal
from sidewinder.evaluate.made_tasks import Counter
from sidewinder.export.tokenizer import write_tokenizer
from sidewinder.export.write import write_model
from sidewinder.model import LanguageModel, init_weights
from sidewinder.model.checkpoint import ModelInfo
from sidewinder.tokenizer import load
from sidewinder.tokenizer.train import train_pieces
from timing import machine

TOKENIZER_BYTES = 6_000_000
SHARPER = 4.0
"""Random weights predict all tokens nearly alike; made so much steeper, near ties are rare."""
CONTROLS_AND_BYTES = 3 + 256
HYBRID = "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-"
MODELS = {
    "transformer": ModelConfig(
        pattern="*-" * 16,
        hidden_size=2048,
        attention=Attention(heads=16, kv_heads=16, head_size=128, rope=Rope(fraction=1.0)),
        mlp=Mlp(size=8192, activation="swiglu"),
    ),
    "hybrid": ModelConfig(
        pattern=HYBRID,
        hidden_size=2048,
        attention=Attention(heads=16, kv_heads=8, head_size=128),
        mlp=Mlp(size=8192),
        mamba2=Mamba2(chunk=256),
    ),
}
TINY = {
    "transformer": ModelConfig(
        pattern="*-*-",
        hidden_size=64,
        attention=Attention(heads=4, kv_heads=4, head_size=16, rope=Rope(fraction=1.0)),
        mlp=Mlp(size=128, activation="swiglu"),
    ),
    "hybrid": ModelConfig(
        pattern="M-M*-M-",
        hidden_size=64,
        attention=Attention(heads=4, kv_heads=2, head_size=16),
        mlp=Mlp(size=128),
        mamba2=Mamba2(state_size=16, head_size=16, groups=2, chunk=32),
    ),
}


def train_tokenizer(path: Path, pieces: int) -> None:
    """A tokenizer of that size at most, with the options of a study's, trained on Python's own sources."""
    lines = " ".join(words()).replace(". ", ".\n").split("\n")
    size = 0
    for source in sorted(Path(json.__file__).parents[1].rglob("*.py")):
        text = source.read_text(errors="replace")
        lines += text.split("\n")
        size += len(text)
        if size > TOKENIZER_BYTES:
            break
    path.write_bytes(train_pieces(lines, pieces, 0.999, exactly=False))


@torch.no_grad()
def export(config: ModelConfig, tokenizer: Path, folder: Path, options: argparse.Namespace) -> int:
    """The folder of a random model and its tokenizer; returns the number of its parameters."""
    vocabulary = load(tokenizer).get_piece_size()
    with torch.device("meta"):
        model = LanguageModel(config, vocabulary)
    model = model.to_empty(device=options.device)
    init_weights(model, 1)
    model.head.weight.mul_(SHARPER)
    model.head.weight[:CONTROLS_AND_BYTES] = 0  # Never chosen: random bytes are no UTF-8, and decoders differ in it.
    model.to(options.dtype).cpu()
    write_model(model, ModelInfo(config, vocabulary, options.context_tokens, {}, {}), folder, bos=1, eos=2)
    write_tokenizer(tokenizer, folder, context_tokens=options.context_tokens)
    return sum(parameter.numel() for parameter in model.parameters())


def sides_of(folder: Path, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Any]:
    """Both lm-eval models, the peer first. Documents begin with the end-of-document token, as ours do."""
    name = str(dtype).removeprefix("torch.")
    common = {"pretrained": str(folder), "dtype": name, "max_length": options.context_tokens}
    peer = HFLM(**common, device=options.device, prefix_token_id=2)
    return {"lm-eval hf": peer, "Sidewinder": SidewinderLM(**common, batch_tokens=options.batch_tokens)}


def answer(lm: Any, task: dict[str, Any], rows: int) -> tuple[float, dict[str, Any]]:
    """Seconds of one evaluation, and its results."""
    if isinstance(lm, SidewinderLM):
        lm.journal = Journal()  # It would know the answers of an earlier round.
    else:
        lm.batch_size_per_gpu = rows
    started = time.perf_counter()
    results = evaluator.evaluate(lm=lm, task_dict=task, bootstrap_iters=0, log_samples=True)
    return time.perf_counter() - started, results


def measure(
    name: str, task_name: str, sides: dict[str, Any], exact: dict[str, Any], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each side; a side that fails tells why instead of a speed. `exact`: the sides in float32, or none."""
    counter = Counter(sides["Sidewinder"].tok_encode)
    task = make(task_name, counter, options.context_tokens, options.samples)
    batch_rows = max(1, options.batch_tokens // longest_tokens(task, counter))
    rows = {side: {"model": name, "task": task_name, "side": side, "batch": batch_rows} for side in sides}
    found: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for round_ in range(options.rounds + 1):
        for side, lm in sides.items():
            if "error" in rows[side]:
                continue
            try:
                spent, results = answer(lm, task, batch_rows)
            except Exception as error:  # A side without room or kernels must not take the others' figures with it.
                rows[side]["error"] = f"{type(error).__name__}: {str(error)[:300]}"
                continue
            if round_:
                seconds[side].append(spent)
                found[side] = results
    for side, row in rows.items():
        if "error" not in row:
            row["samples_per_s"] = round(options.samples / statistics.median(seconds[side]), 3)
            row["spread"] = round(max(seconds[side]) / min(seconds[side]), 3)
            row["scores"] = scores(found[side], task_name)
    samples = {side: results["samples"][task_name] for side, results in found.items()}
    peer, ours = rows.values()
    if "error" not in peer and "error" not in ours:
        ours |= agreement(*samples.values())
        ours["ratio"] = round(ours["samples_per_s"] / peer["samples_per_s"], 3)
    references = {side: answer(lm, task, batch_rows)[1]["samples"][task_name] for side, lm in exact.items()}
    for side in samples.keys() & references.keys():
        rows[side]["from_float32"] = agreement(references[side], samples[side])
    if references:
        ours["in_float32"] = agreement(*references.values())
    return [peer, ours]


def scores(results: dict[str, Any], task: str) -> dict[str, float]:
    values = results["results"][task]
    return {
        key.split(",")[0]: round(value, 4)
        for key, value in values.items()
        if "," in key and "stderr" not in key and isinstance(value, float | int)
    }


def agreement(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, float]:
    """Mean and largest difference of two log-likelihoods in nats, or the share of generated texts that are equal."""
    pairs = [
        (a, b)
        for one, other in zip(theirs, ours, strict=True)
        for a, b in zip(one["filtered_resps"], other["filtered_resps"], strict=True)
    ]
    if isinstance(pairs[0][0], str):
        return {"equal_texts": round(sum(a == b for a, b in pairs) / len(pairs), 3)}
    numbers = [[side[0] if isinstance(side, tuple | list) else side for side in pair] for pair in pairs]
    apart = [abs(a - b) for a, b in numbers]
    return {"mean_difference": round(statistics.mean(apart), 4), "largest_difference": round(max(apart), 4)}


def main() -> None:
    options = parse()
    for name in ("transformers", "lm_eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Path(scratch) / "sentences.model"
        if options.tokenizer:
            tokenizer.write_bytes(options.tokenizer.read_bytes())
        else:
            train_tokenizer(tokenizer, options.pieces)
        for name in options.only:
            folder = Path(scratch) / name
            folder.mkdir()
            parameters = export((TINY if options.tiny else MODELS)[name], tokenizer, folder, options)
            print(json.dumps({"model": name, "parameters": parameters}), flush=True)
            sides = sides_of(folder, options.dtype, options)
            exact = sides_of(folder, torch.float32, options) if options.float32 else {}
            for task in options.tasks:
                for row in measure(name, task, sides, exact, options):
                    rows.append(row | {"parameters": parameters})
                    print(json.dumps(row), flush=True)
                if options.json:
                    options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tasks", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--context-tokens", type=int, help="4096, or 512 with --tiny, unless given")
    parser.add_argument("--batch-tokens", type=int, default=32_768, help="of one pass, for both sides")
    parser.add_argument("--pieces", type=int, default=32_000, help="of the tokenizer that is trained here")
    parser.add_argument("--tokenizer", type=Path, help="a SentencePiece model instead")
    parser.add_argument("--float32", action="store_true", help="also tell how far each side is from its float32")
    parser.add_argument("--tiny", action="store_true", help="models of a few million weights at most, short texts")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    options.context_tokens = options.context_tokens or (512 if options.tiny else 4096)
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    if options.device == "cpu" and not options.tiny:
        sys.exit("evaluate: no GPU here; the figures would say nothing (--tiny tries it all the same)")
    if options.samples < 1 or options.rounds < 1:
        sys.exit("evaluate: --samples and --rounds are 1 at least")
    return options


if __name__ == "__main__":
    main()
