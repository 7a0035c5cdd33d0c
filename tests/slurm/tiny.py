"""A tiny study with made-up tokens, whose training stages are jobs, and what the tests ask of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from processes import PATIENCE, until
from real_slurm import Cluster
from sidewinder.cluster.ledger import Attempt, Ledger
from sidewinder.config.load import parse_study
from sidewinder.graph import Graph, Stage
from sidewinder.record import Job, file_digest
from sidewinder.tokens.indexed import IndexedWriter

SABOTAGE = Path(__file__).parent / "sabotage"
VOCABULARY, EOS = 300, 2
MODEL: dict[str, Any] = {
    "pattern": "M-*-",
    "hidden_size": 16,
    "attention": {"heads": 2, "kv_heads": 1, "head_size": 8},
    "mlp": {"size": 32},
    "mamba2": {"state_size": 8, "head_size": 8, "groups": 1, "chunk": 16},
}
SEQUENCES, TOKENS = 4, 32


class Tiny:
    """One study with one model in a folder of its own, on a cluster."""

    def __init__(self, folder: Path, cluster: Cluster, *, steps: int, seed: int = 1, **settings: Any) -> None:
        self.folder, self.cluster = folder, cluster
        training = {"context_tokens": TOKENS, "batch_sequences": SEQUENCES, "budget_tokens": steps * SEQUENCES * TOKENS}
        training |= {"learning_rate": 1e-2, "minimum_learning_rate": 1e-3, "save_every_tokens": 20 * SEQUENCES * TOKENS}
        values = {
            "study": "tiny",
            "results": str(folder / "results"),
            "sources": {"text": {"reader": {"kind": "text", "path": str(folder)}}},
            "blend": {"text": 1.0},
            "repeat_at_most": 1000,
            "tokenizer": {"vocab_size": VOCABULARY, "sample_bytes": 16 * VOCABULARY},
            "models": {"hybrid": MODEL},
            "seeds": [seed],
            "training": training | {"device": "cpu"} | settings.pop("training", {}),
            "cluster": {"launcher": "slurm", "poll_s": 0.5} | settings.pop("launching", {}),
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "study.yaml"
        self.config.write_text(yaml.safe_dump(values | settings))
        self.graph = Graph(parse_study(values | settings))
        write_blend(self.graph)

    @property
    def stage(self) -> Stage:
        return self.graph.stages[0]

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.stage.folder)

    # Commands

    def launch(self, *ask: str, **environment: str) -> subprocess.Popen[str]:
        """A controller of the stage; `ask` are resources such as runtime=30."""
        asked = ["mem_mb_per_task=500", *ask]
        options = [word for pair in asked for word in ("--ask", pair)]
        return self.command("launch", "--into", str(self.stage.folder), *options, **environment)

    def command(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).with_name("sidewinder")), name, *arguments, "--config", str(self.config)]
        env = self.cluster.environment | {"OMP_NUM_THREADS": "1"} | environment
        return subprocess.Popen(
            command, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *ask: str, **environment: str) -> str:
        """A controller from start to end; returns what it said. Fails where it failed."""
        controller = self.launch(*ask, **environment)
        said, _ = controller.communicate(timeout=PATIENCE * 300)
        assert controller.returncode == 0, said + self.logs()
        return said

    # What came out

    def losses(self) -> dict[int, float]:
        """Loss of every step that counts; a repeated step must have repeated its loss."""
        found: dict[int, float] = {}
        for row in self.rows():
            if row["event"] == "step":
                assert found.setdefault(row["step"], row["loss"]) == row["loss"], f"step {row['step']} differs"
        return found

    def rows(self) -> list[dict[str, Any]]:
        path = self.stage.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def step(self) -> int:
        return max((row["step"] for row in self.rows() if row["event"] == "step"), default=0)

    def job(self) -> str:
        """Its newest job."""
        left = self.ledger.submissions()[-1]
        assert left.job
        return left.job

    def jobs(self) -> list[str]:
        """Every job that Slurm ever had for this stage."""
        name = self.ledger.submissions()[0].name
        return self.cluster.run("sacct", "-X", "-n", "-P", f"--name={name}", "-S", "now-1hours", "-o", "JobID").split()

    def state(self) -> str:
        shown = self.cluster.run("scontrol", "-o", "show", "job", self.job(), check=False)
        found = re.search(r"JobState=(\S+)", shown)
        return found[1] if found else ""

    def attempts(self) -> list[Attempt]:
        return self.ledger.attempts()

    def logs(self) -> str:
        return "\n".join(f"{path}:\n{path.read_text()}" for path in sorted(self.ledger.folder.glob("*.err")))

    # Waiting

    def await_steps(self, count: int, seconds: float = 90) -> None:
        """Until so many more steps are made than now."""
        goal = self.step() + count
        until(seconds, f"step {goal}", lambda: self.step() >= goal)

    def await_start(self, number: int, seconds: float = 120) -> None:
        """Until the stage was started so often and has made a step since."""
        until(seconds, f"start {number}", lambda: len(self.times("started")) >= number)
        until(seconds, "a step", self._made_a_step)

    def await_stop(self, number: int, seconds: float = 120) -> None:
        """Until the stage has stopped to save so often."""
        until(seconds, f"stop {number}", lambda: len(self.times("stopped")) >= number)

    def _made_a_step(self) -> bool:
        begun = self.times("started")[-1]
        return any(row["event"] == "step" and row["time"] > begun for row in self.rows())

    def times(self, event: str) -> list[float]:
        """When something was written into the ledger."""
        return [row["time"] for row in self.ledger.rows() if row["event"] == event]


def write_blend(graph: Graph) -> None:
    """Tokens of a skewed, learnable distribution, and the blend's record."""
    generator = np.random.default_rng(0)
    prefix = graph.tokens("text", "train-00000") / "tokens"
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with IndexedWriter(prefix, np.uint16) as writer:
        for _ in range(40):
            words = np.minimum(3 + generator.geometric(0.05, size=generator.integers(20, 200)), VOCABULARY - 1)
            writer.add(np.append(words, EOS).astype(np.uint16))
    shard = {"prefix": str(prefix), "sha256_bin": file_digest(prefix.with_suffix(".bin"))}
    shard |= {"tokens": os.path.getsize(prefix.with_suffix(".bin")) // 2, "documents": 40}
    with Job(graph.blend, "tokens", "blend", {}, []) as job:
        blend = {"vocab_size": VOCABULARY, "eos": EOS, "dtype": "uint16", "tokenizer": {"path": "", "sha256": ""}}
        blend["sources"] = {"text": {"weight": 1.0, "shards": [shard], "heldout": []}}
        (graph.blend / "blend.json").write_text(json.dumps(blend))
        job.output("blend", graph.blend / "blend.json")


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
