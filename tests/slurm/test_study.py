"""`snakemake --profile slurm` from the repository's root, with the profile as it is shipped.

A whole study, compared with a local run; and one training stage whose controller is killed wherever that could hurt.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from processes import PATIENCE, alive, until
from real_slurm import Cluster
from sidewinder.cluster.ledger import Ledger
from sidewinder.config.load import parse_study
from sidewinder.graph import Graph, Stage
from tiny import SABOTAGE

ROOT = Path(__file__).parents[2]
QUICK = Path(__file__).with_name("quick_snakemake.py")
FLAGS = ["--latency-wait", "10", "--slurm-init-seconds-before-status-checks", "1"]


def small(results: Path, **changes: Any) -> Path:
    """The workflow tests' study with one source, one model, its extension and Phonebook; returns its file."""
    values = yaml.safe_load((ROOT / "tests" / "workflow" / "study.yaml").read_text())
    values |= {"sources": {"english": values["sources"]["english"]}, "blend": {"english": 1.0}}
    del values["lookup"], values["extensions"][0]["lookup"]
    values["models"] = {"hybrid": values["models"]["hybrid"]}
    phonebook = {"kind": "phonebook", "lengths_tokens": [64, 128], "books": 4, "queries": 2, "digits": 3}
    values |= {"suites": {"phonebook": phonebook}, "evaluate": ["phonebook"]}
    values |= {"results": str(results), "cluster": {"poll_s": 0.5}} | changes
    path = results.parent / f"{results.name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def environment(cluster: Cluster | None = None, **more: str) -> dict[str, str]:
    env = cluster.environment if cluster else dict(os.environ)
    return env | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"} | more


def snakemake(study: Path, cluster: Cluster, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
    """`snakemake --profile slurm` in the background; what it says is in a file beside the study."""
    command = [sys.executable, str(QUICK), "--profile", "slurm", "--configfile", str(study), *FLAGS, *arguments]
    with study.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment(cluster, **more), stdout=log, stderr=log)


def said(study: Path) -> str:
    return study.with_suffix(".log").read_text()


def made(results: Path) -> dict[str, str]:
    """Digest of every output that holds no times, by its place."""
    found = {}
    for path in sorted(results.rglob("record.json")):
        for entry in json.loads(path.read_text())["outputs"]:
            if entry["role"] not in ("metrics", "samples", "export"):
                found[str(Path(entry["path"]).relative_to(results))] = entry["sha256"]
    return found


def accounted(cluster: Cluster) -> dict[str, str]:
    """State of every job that the cluster has ever run, by its number."""
    rows = cluster.run("sacct", "-X", "-n", "-P", "-o", "JobID,State").splitlines()
    return dict(row.split("|") for row in rows)


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if row["event"] == "step"}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the study, run on this machine without Slurm."""
    results = tmp_path_factory.mktemp("study") / "local"
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", str(small(results))]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return results


@pytest.mark.workflow
@pytest.mark.timeout(1800)
def test_study_on_slurm_gives_the_same_bits_as_here(cluster: Cluster, local: Path, tmp_path: Path) -> None:
    results = tmp_path / "slurm"
    study, earlier = small(results), accounted(cluster)
    assert snakemake(study, cluster).wait(timeout=PATIENCE * 800) == 0, said(study)
    assert made(results) == made(local)
    stages = [path.parent for path in sorted(results.glob("runs/*/*/record.json"))]
    assert len(stages) == 2
    for stage in stages:
        assert losses(stage) == losses(local / stage.relative_to(results))
    records = [path for path in results.rglob("record.json") if "blend-" not in str(path)]
    ran = {json.loads(path.read_text())["environment"]["slurm_job_id"] for path in records}
    assert None not in ran
    assert len(ran) == len(records)
    states = [state for job, state in accounted(cluster).items() if job not in earlier]
    assert set(states) == {"COMPLETED"}
    assert len(states) == len(records) + 3  # The catalog, the cards, the report.


# The controller is killed


def sbatch_that_kills(folder: Path, cluster: Cluster) -> Path:
    """A folder whose `sbatch` hands the job in, and kills every controller before one can read the answer."""
    folder.mkdir()
    script = folder / "sbatch"
    script.write_text(
        f"#!/bin/bash\nreal={cluster.folder}/bin/sbatch\n"
        '[[ "$*" == *--test-only* ]] && exec $real "$@"\n'
        f'$real "$@" > {folder}/answer || exit 1\n'
        "parent=$PPID\nfor generation in 1 2 3; do\n"
        "  above=$(cut -d' ' -f4 /proc/$parent/stat); kill -KILL $parent; parent=$above\n"
        "  grep -qE 'snakemake|sidewinder|bash' /proc/$parent/comm /proc/$parent/cmdline || break\ndone\n"
        "while kill -0 $PPID 2>/dev/null; do sleep 0.1; done\n"
    )
    script.chmod(0o755)
    return folder


class Killed:
    """One training stage, its controllers, and their ends."""

    def __init__(self, study: Path, stage: Stage, cluster: Cluster) -> None:
        self.study, self.stage, self.cluster = study, stage, cluster
        self.ledger = Ledger(stage.folder)

    def start(self, **more: str) -> subprocess.Popen[bytes]:
        return snakemake(self.study, self.cluster, str(self.stage.record), **more)

    def attached(self, times: int) -> bool:
        """Whether a controller has found the job so often; it says so in the rule's log, and that in Snakemake's."""
        return said(self.study).count("attached to Slurm job") >= times

    def kill(self, controller: subprocess.Popen[bytes]) -> None:
        """SIGKILL to Snakemake alone: what waits below it must notice, and end too."""
        below = [process.pid for process in psutil.Process(controller.pid).children(recursive=True)]
        controller.send_signal(signal.SIGKILL)
        controller.wait()
        until(30, "the end of what waited", lambda: not any(alive(pid) for pid in below))

    def state(self) -> str:
        job = self.ledger.submissions()[-1].job
        shown = self.cluster.run("scontrol", "-o", "show", "job", str(job), check=False)
        return re.search(r"JobState=(\S+)", shown)[1]  # type: ignore[index]

    def step(self) -> int:
        path = self.stage.folder / "metrics.jsonl"
        return max(losses(self.stage.folder), default=0) if path.is_file() else 0

    def starts(self) -> int:
        return sum(row["event"] == "started" for row in self.ledger.rows())


@pytest.mark.workflow
@pytest.mark.timeout(1800)
def test_killed_controllers_submit_one_job(cluster: Cluster, local: Path, tmp_path: Path) -> None:
    training = yaml.safe_load((ROOT / "tests" / "workflow" / "study.yaml").read_text())["training"]
    study = small(local, seeds=[2], training=training | {"save_every_tokens": 2560})
    stage = Graph(parse_study(yaml.safe_load(study.read_text()))).stages[0]
    killed = Killed(study, stage, cluster)
    slow = {"PYTHONPATH": str(SABOTAGE), "BRAKE_S": "0.3"}
    blocker = cluster.run(
        "sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "-o/dev/null", "--wrap=sleep 600"
    )

    # Before the submission is written down.
    deadly = sbatch_that_kills(tmp_path / "deadly", cluster)
    controller = killed.start(**slow, PATH=f"{deadly}:{environment(cluster)['PATH']}")
    controller.wait(timeout=PATIENCE * 60)
    assert controller.returncode == -signal.SIGKILL
    assert killed.ledger.submissions()[-1].job is None
    # Queued.
    controller = killed.start(**slow)
    until(60, "a controller to attach", lambda: killed.attached(1))
    assert killed.state() == "PENDING"
    killed.kill(controller)
    # Running.
    cluster.run("scancel", blocker)
    controller = killed.start(**slow)
    until(90, "training", lambda: killed.step() > 2)
    until(60, "a controller to attach", lambda: killed.attached(2))
    killed.kill(controller)
    # Queued again, and held there: a busy machine's controller may take longer to come than Slurm to start the job.
    job = str(killed.ledger.submissions()[-1].job)
    cluster.run("scontrol", "requeuehold", job)
    controller = killed.start(**slow)
    until(60, "a controller to attach", lambda: killed.attached(3))
    killed.kill(controller)
    assert killed.starts() == 1
    cluster.run("scontrol", "release", job)
    # Just finished: the controller sees nothing of it before it dies.
    controller = killed.start(**slow)
    until(60, "a controller to attach", lambda: killed.attached(4))
    family = [psutil.Process(controller.pid), *psutil.Process(controller.pid).children(recursive=True)]
    for process in family:
        process.suspend()
    until(200, "the record", lambda: (stage.folder / ".record.json").is_file())
    for process in family:
        process.kill()
    controller.wait()

    assert killed.start().wait(timeout=PATIENCE * 120) == 0, said(study)
    assert len(killed.ledger.submissions()) == 1
    name = killed.ledger.submissions()[0].name
    jobs = cluster.run("sacct", "-X", "-n", "-P", f"--name={name}", "-S", "now-1hours", "-o", "JobID").split()
    assert len(jobs) == 1
    assert sorted(losses(stage.folder)) == list(range(1, stage.training.steps + 1))
    assert killed.starts() == 2


@pytest.mark.workflow
@pytest.mark.timeout(1200)
def test_second_controller_of_a_study_is_refused(cluster: Cluster, local: Path, tmp_path: Path) -> None:
    study = small(local, seeds=[3])
    stage = Graph(parse_study(yaml.safe_load(study.read_text()))).stages[0]
    slow = {"PYTHONPATH": str(SABOTAGE), "BRAKE_S": "0.4"}
    controllers = [snakemake(study, cluster, str(stage.record), **slow) for _ in range(2)]
    assert sorted(controller.wait(timeout=PATIENCE * 250) for controller in controllers) == [0, 1]
    assert "already running a study" in said(study)
    assert len(Ledger(stage.folder).submissions()) == 1
