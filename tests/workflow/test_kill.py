"""SIGKILL at random moments: the same command finishes the study, repeats no job, and ends with equal numbers."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "tests" / "workflow" / "study.yaml"
KILLS = 10


def start(results: Path, *arguments: str, study: Path = STUDY) -> subprocess.Popen[bytes]:
    log = (results.parent / f"{results.name}.log").open("ab")
    command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "2", "--configfile", str(study)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        [*command, "--config", f"results={results}"], cwd=ROOT, env=environment, stdout=log, stderr=log
    )


def finish(results: Path) -> None:
    status = start(results).wait(timeout=500)
    assert status == 0, (results.parent / f"{results.name}.log").read_text()[-4000:]


def losses(results: Path) -> dict[str, dict[int, float]]:
    """Loss of every step of every stage; a step that was repeated after a resume must have repeated its loss."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(results.glob("runs/*/*/metrics.jsonl")):
        stage = found.setdefault("/".join(path.parts[-3:-1]), {})
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["event"] == "step":
                assert stage.setdefault(row["step"], row["loss"]) == row["loss"]
    return found


def scores(results: Path) -> dict[str, list]:
    paths = sorted(results.glob("runs/*/*/eval/*/scores.json"))
    return {"/".join(path.parts[-5:-1]): json.loads(path.read_text())["scores"] for path in paths}


def artifacts(results: Path) -> dict[str, str]:
    """Digests of all that was made, whatever folder it was made in."""
    found = {}
    for path in sorted(results.rglob("record.json")):
        for entry in json.loads(path.read_text())["outputs"]:
            if entry["role"] not in ("metrics", "samples", "export"):  # These hold times.
                found[str(Path(entry["path"]).relative_to(results))] = entry["sha256"]
    return found


def finished(results: Path) -> dict[str, float]:
    """When each finished job began; a repeated job would have begun later."""
    return {str(path): json.loads(path.read_text())["started_at"] for path in results.rglob(".record.json")}


def kill(controller: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Kills the controller, one of its jobs, or everything, without a chance to clean up."""
    family = psutil.Process(controller.pid).children(recursive=True)
    jobs = [process for process in family if "sidewinder" in " ".join(process.cmdline()[:3])]
    what = rng.choice(["controller", "job", "everything"])
    victims = [psutil.Process(controller.pid)] if what != "job" else []
    if what == "everything":
        victims += family
    if what == "job" and jobs:
        victims = [rng.choice(jobs)]
    for victim in victims:
        try:
            os.kill(victim.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if what == "job":
        controller.wait(timeout=300)  # It finishes what does not depend on the killed job, then fails.
    else:
        controller.wait(timeout=30)
    return what


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    results = tmp_path_factory.mktemp("undisturbed") / "results"
    began = time.monotonic()
    finish(results)
    return results, time.monotonic() - began


@pytest.mark.workflow
@pytest.mark.timeout(1200)
def test_killed_study_ends_as_an_undisturbed_one(undisturbed: tuple[Path, float], tmp_path: Path) -> None:
    reference, seconds = undisturbed
    rng, results = random.Random(7), tmp_path / "results"
    for _ in range(KILLS):
        before = finished(results)
        controller = start(results)
        try:
            controller.wait(timeout=rng.uniform(2, 0.45 * seconds))
        except subprocess.TimeoutExpired:
            try:
                kill(controller, rng)
            except psutil.NoSuchProcess:
                controller.wait(timeout=300)
        after = finished(results)
        assert {path: after.get(path) for path in before} == before, "a finished job was repeated"
    finish(results)
    assert losses(results) == losses(reference)
    assert scores(results) == scores(reference)
    assert artifacts(results) == artifacts(reference)


@pytest.mark.workflow
def test_second_run_does_nothing(undisturbed: tuple[Path, float]) -> None:
    results, _ = undisturbed
    before = finished(results)
    finish(results)
    assert finished(results) == before
    assert "Nothing to be done" in (results.parent / "results.log").read_text()


@pytest.mark.workflow
def test_model_cards_follow_the_catalog(undisturbed: tuple[Path, float], tmp_path: Path) -> None:
    results, _ = undisturbed
    cards = {path: path.read_text() for path in results.glob("runs/*/*/export/README.md")}
    assert len(cards) == 3
    assert all("| heldout | blend | bits_per_byte |" in card for card in cards.values())
    before, newest = finished(results), max(path.stat().st_mtime_ns for path in cards)
    assert start(results, "--forcerun", "catalog").wait(timeout=300) == 0
    assert all(path.stat().st_mtime_ns > newest for path in cards)
    assert {path: path.read_text() for path in cards} == cards, "equal scores must give equal cards"
    assert finished(results) == before
    changed = tmp_path / "study.yaml"
    changed.write_text(STUDY.read_text().replace("tokens_per_source: 2000", "tokens_per_source: 2001"))
    assert start(results, "-n", study=changed).wait(timeout=300) == 0
    listed = (results.parent / "results.log").read_text().rsplit("Job stats:", 1)[1]
    counted = dict(re.findall(r"^(\w+) +(\d+)$", listed, flags=re.MULTILINE))
    assert counted == {"all": "1", "cards": "1", "catalog": "1", "evaluate": "3", "report": "1", "total": "7"}
