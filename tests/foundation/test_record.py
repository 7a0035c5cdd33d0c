"""Jobs and records: nothing finished is repeated, nothing half-finished is taken for finished."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sidewinder.errors import CorruptArtifact
from sidewinder.record import RECORD, Artifact, Job, artifact, check, outputs_of, read_record


def run(folder: Path, config: dict, inputs: list[Artifact], text: str = "made") -> Job:
    with Job(folder, "tokens", "english", config, inputs) as job:
        if not job.finished:
            (folder / "out.txt").write_text(text)
            job.output("out", folder / "out.txt")
            job.facts["characters"] = len(text)
    return job


def source(tmp_path: Path, text: str = "input") -> Artifact:
    path = tmp_path / "input.txt"
    path.write_text(text)
    return artifact("source", path)


def test_record_holds_digests_that_sha256_gives(tmp_path: Path) -> None:
    entry = source(tmp_path)
    run(tmp_path / "job", {"a": 1}, [entry])
    record = read_record(tmp_path / "job" / RECORD)
    assert record["inputs"][0]["sha256"] == hashlib.sha256(b"input").hexdigest()
    assert outputs_of(tmp_path / "job" / RECORD)[0].sha256 == hashlib.sha256(b"made").hexdigest()
    assert record["facts"] == {"characters": 4}
    assert record["wall_s"] >= 0
    assert record["peak_memory_bytes"] > 1_000_000


def test_same_job_is_done_once_even_after_its_declared_output_is_deleted(tmp_path: Path) -> None:
    entry = source(tmp_path)
    run(tmp_path / "job", {"a": 1}, [entry])
    before = (tmp_path / "job" / RECORD).read_text()
    (tmp_path / "job" / RECORD).unlink()  # What Snakemake does before it starts a job again.
    assert run(tmp_path / "job", {"a": 1}, [entry], "other").finished
    assert (tmp_path / "job" / RECORD).read_text() == before
    assert (tmp_path / "job" / "out.txt").read_text() == "made"


@pytest.mark.parametrize("what", ["config", "input", "truncated output", "missing output"])
def test_anything_that_changed_makes_it_anew(tmp_path: Path, what: str) -> None:
    entry = source(tmp_path)
    run(tmp_path / "job", {"a": 1}, [entry])
    config = {"a": 2} if what == "config" else {"a": 1}
    if what == "input":
        entry = source(tmp_path, "other input")
    if what == "truncated output":
        (tmp_path / "job" / "out.txt").write_text("mad")
    if what == "missing output":
        (tmp_path / "job" / "out.txt").unlink()
    assert not run(tmp_path / "job", config, [entry], "again").finished
    assert (tmp_path / "job" / "out.txt").read_text() == "again"


def test_failed_job_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Job(tmp_path / "job", "tokens", "x", {}, []):
        _ = 1 / 0
    assert not (tmp_path / "job" / RECORD).exists()


def test_altered_artifacts_are_named(tmp_path: Path) -> None:
    entry = source(tmp_path)
    path = Path(entry.path)
    path.write_text("inp")
    with pytest.raises(CorruptArtifact, match=r"input.txt has 3 bytes instead of 5(.|\n)*remedy"):
        check(entry)
    path.write_text("inPut")
    with pytest.raises(CorruptArtifact, match="does not have the digest"):
        check(entry, deep=True)
    path.unlink()
    with pytest.raises(CorruptArtifact, match="is missing"):
        check(entry)


HOLDER = """
import sys, time
from pathlib import Path
from sidewinder.record import Job
folder = Path(sys.argv[1])
with Job(folder, "tokens", "x", {}, []) as job:
    print("finished" if job.finished else "working", flush=True)
    time.sleep(float(sys.argv[2]))
    if not job.finished:
        (folder / "out.txt").write_text("x")
        job.output("out", folder / "out.txt")
"""


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    deadly = "import os, signal\nos.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
    process = subprocess.run([sys.executable, "-c", deadly + HOLDER, str(folder), "0"], check=False)
    assert process.returncode == -signal.SIGKILL
    assert [path.suffix for path in folder.glob(".*record.json*")] == [".part"]
    assert start(folder, 0).wait(timeout=30) == 0
    assert sorted(path.name for path in folder.iterdir()) == [".lock", ".record.json", "out.txt", "record.json"]


def test_a_conversion_into_a_jobs_folder_is_left_alone(tmp_path: Path) -> None:
    """It writes into a folder of its own, beside the job's files, and may be killed there."""
    part = tmp_path / "job" / ".converted.part"
    part.mkdir(parents=True)
    assert start(tmp_path / "job", 0).wait(timeout=30) == 0
    assert part.is_dir()


def test_second_process_waits_for_the_first_and_repeats_nothing(tmp_path: Path) -> None:
    first = start(tmp_path / "job", 3)
    assert first.stdout
    assert first.stdout.readline() == "working\n"
    second = start(tmp_path / "job", 0)
    out, err = second.communicate(timeout=30)
    assert out == "finished\n"
    assert f"is being made by process {first.pid}" in err
    assert first.wait(timeout=30) == 0


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    first = start(tmp_path / "job", 60)
    assert first.stdout
    assert first.stdout.readline() == "working\n"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    began = time.monotonic()
    second = start(tmp_path / "job", 0)
    out, _ = second.communicate(timeout=30)
    assert out == "working\n"
    assert time.monotonic() - began < 25
