"""Watching over a run: the decisions on non-finite steps, spikes against noise, and real processes that hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sidewinder.config.watch import NonFinite
from sidewinder.train.metrics import MetricsWriter, read_metrics
from sidewinder.train.watch import HUNG, Action, NonFinitePolicy, SpikeDetector
from sidewinder.train.watch.nonfinite import event_fields

NAN, INF = float("nan"), float("inf")


def run(
    policy: NonFinitePolicy, steps: dict[int, float], first: int, last: int, kept: tuple[int, ...] = (2,)
) -> list[tuple[int, str]]:
    """(step, action) of every step that did not proceed; a rollback or stop ends the pass."""
    told = []
    for step in range(first, last + 1):
        action = policy.decide(step, steps.get(step, 2.0), 1.0, kept).action
        if action is not Action.PROCEED:
            told.append((step, action.value))
        if action in (Action.ROLL_BACK, Action.STOP):
            break
    return told


@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (INF, 1.0), (2.0, NAN), (2.0, -INF), (NAN, NAN)])
def test_any_number_that_is_not_finite_counts(loss: float, norm: float) -> None:
    assert NonFinitePolicy(NonFinite()).decide(1, loss, norm).action is Action.SKIP
    assert NonFinitePolicy(NonFinite()).decide(1, 1e30, 0.0).action is Action.PROCEED


def test_no_budget_stops_at_the_first() -> None:
    policy = NonFinitePolicy(NonFinite(skips=0, skips_in_all=0, rollbacks=0))
    assert policy.decide(7, NAN, 1.0).action is Action.STOP


def test_one_bad_batch_is_passed_over() -> None:
    assert run(NonFinitePolicy(NonFinite()), {5: NAN, 6: NAN, 9: INF}, 1, 20) == [(5, "skip"), (6, "skip"), (9, "skip")]


def test_passing_fault_is_mended_by_one_rollback() -> None:
    """Weights spoilt at step 4: all later steps fail until the run goes back; the replay meets no fault."""
    policy = NonFinitePolicy(NonFinite())
    assert run(policy, dict.fromkeys(range(4, 99), NAN), 1, 20) == [(4, "skip"), (5, "skip"), (6, "roll_back")]
    assert run(policy, {}, 3, 20) == []


def test_replay_that_fails_again_stops() -> None:
    """The cause is in the training: three rollbacks are allowed, but the second failure at the same step is enough."""
    policy, bad = NonFinitePolicy(NonFinite(rollbacks=3)), dict.fromkeys(range(4, 99), NAN)
    assert run(policy, bad, 1, 20)[-1] == (6, "roll_back")
    assert run(policy, bad, 3, 20) == [(4, "skip"), (5, "skip"), (6, "stop")]
    decision = policy.decide(6, NAN, 1.0, [2])
    assert "replays from the save of step 2 met it at the same step; to go back takes an older save" in decision.reason
    assert decision.used_up == ("skips",)


def test_replay_that_fails_again_tries_the_save_before() -> None:
    """As long as there is one that was not tried, within the budget; a failure elsewhere begins with the newest."""
    policy, kept = NonFinitePolicy(NonFinite(skips=0, rollbacks=3)), [4, 6, 8]
    assert [policy.decide(9, NAN, 1.0, kept).back_to for _ in range(2)] == [8, 6]
    assert policy.spoilt(10, kept).back_to == 8
    decision = policy.decide(9, NAN, 1.0, kept)
    assert (decision.action, decision.used_up) == (Action.STOP, ("skips", "rollbacks"))
    assert "replays from the save of step 8 and 6" in decision.reason
    events = [{"event": "rollback", "step": 9, "from_step": save} for save in (8, 6)]
    assert NonFinitePolicy(NonFinite(skips=0), events).decide(9, NAN, 1.0, kept).back_to == 4


def test_faults_at_ever_other_steps_use_up_the_rollbacks() -> None:
    policy = NonFinitePolicy(NonFinite(skips=0, rollbacks=2))
    assert run(policy, {8: NAN}, 1, 20) == [(8, "roll_back")]
    assert run(policy, {9: NAN}, 5, 20) == [(9, "roll_back")]
    assert run(policy, {12: NAN}, 5, 20) == [(12, "stop")]
    assert "2 rollbacks were made" in policy.decide(13, NAN, 1.0, [2]).reason


def test_skips_in_all_are_counted_by_step() -> None:
    policy = NonFinitePolicy(NonFinite(skips=1, skips_in_all=2, rollbacks=0))
    assert run(policy, {3: NAN, 5: NAN}, 1, 6) == [(3, "skip"), (5, "skip")]
    assert run(policy, {3: NAN, 5: NAN, 7: NAN}, 1, 9) == [(3, "skip"), (5, "skip"), (7, "stop")]


def test_without_a_save_there_is_no_way_back() -> None:
    policy = NonFinitePolicy(NonFinite(skips=0))
    decision = policy.decide(2, NAN, 1.0)
    assert decision.action is Action.STOP
    assert "takes a save" in decision.reason
    assert policy.returns == []


def test_crashing_and_resuming_does_not_renew_the_budget(tmp_path: Path) -> None:
    """Every attempt meets two new bad steps and then crashes; the budget, kept in the metrics file, runs out."""
    limits, actions = NonFinite(skips=2, skips_in_all=5, rollbacks=1), []
    path = tmp_path / "metrics.jsonl"
    for attempt in range(5):
        policy = NonFinitePolicy(limits, read_metrics(path).events)
        with MetricsWriter(path) as writer:
            writer.write("resume" if attempt else "start", from_step=0, identity="a", code="c")
            for step in (2 * attempt + 1, 2 * attempt + 2):
                decision = policy.decide(step, NAN, INF, [0])
                name = {Action.SKIP: "skip", Action.ROLL_BACK: "rollback", Action.STOP: "stop"}[decision.action]
                writer.write(name, **event_fields(step, NAN, INF, decision), from_step=decision.back_to)
                actions.append(name)
    assert actions == ["skip"] * 5 + ["rollback"] + ["stop"] * 4
    first = read_metrics(path).events[1]
    assert (first["loss"], first["gradient_norm"], first["step"]) == ("nan", "inf", 1)
    assert first["message"] == "1 of 2 skips in a row, 1 of 5 in all"


def curve(steps: int, seed: int, sigma: float = 0.02) -> np.ndarray:
    """A loss that falls from 10 towards 2, with normal noise."""
    noise = np.random.default_rng(seed).normal(scale=sigma, size=steps)
    return 2 + 8 * (1 + np.arange(steps) / 20) ** -0.7 + noise


@pytest.mark.parametrize("seed", range(8))
def test_noise_on_a_falling_curve_is_no_spike(seed: int) -> None:
    detector = SpikeDetector()
    assert [step for step, loss in enumerate(curve(2000, seed)) if detector.observe(loss)] == []


@pytest.mark.parametrize("seed", range(8))
def test_jump_of_five_sigma_is_told_once(seed: int) -> None:
    """The loss jumps by five deviations and stays up for 40 steps, as a loss that has to recover does."""
    losses, told = curve(3000, seed), []
    losses[2500:2540] += 5 * 0.02
    detector = SpikeDetector()
    for step, loss in enumerate(losses):
        if deviations := detector.observe(float(loss)):
            told.append((step, deviations))
    assert len(told) == 1
    assert 2500 <= told[0][0] < 2510
    assert 4.5 < told[0][1] < 9


def test_single_high_loss_and_a_later_one() -> None:
    losses = curve(3000, 3)
    losses[[2000, 2700]] += 1.0
    losses[2300] -= 1.0  # A fall is no spike.
    losses[2400:2410] = np.nan
    detector = SpikeDetector()
    assert [step for step, loss in enumerate(losses) if detector.observe(loss)] == [2000, 2700]


def test_spike_detector_of_a_resumed_run_and_of_odd_losses() -> None:
    fresh, resumed = SpikeDetector(), SpikeDetector(losses=[NAN, *curve(3000, 1)[-200:]])
    assert fresh.observe(5.0) is None
    assert resumed.observe(NAN) is None
    assert resumed.observe(5.0) is not None
    still = SpikeDetector(losses=[2.0] * 128)
    assert still.observe(2.0001) is None
    assert still.observe(2.1) == pytest.approx(50, rel=0.01)


# Real processes that hang

HANGS = """
import sys, time
from pathlib import Path
from sidewinder.train.watch import Watchdog

def reads_from_a_disk_that_is_gone():
    time.sleep(1000)

with Watchdog(1.0, Path(sys.argv[1]), rank=3, tell=lambda message: print(message, flush=True)) as watchdog:
    for step in range(1, 6):
        watchdog.beat(step)
        time.sleep(0.05)
    reads_from_a_disk_that_is_gone()
"""

BARRIER = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from sidewinder.train.watch import Watchdog

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
store = dist.FileStore(str(folder / "store"), 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(minutes=30))
dist.barrier()

def never_comes():
    time.sleep(1000)

with Watchdog(2.0, folder, rank) as watchdog:
    watchdog.beat(1)
    never_comes() if rank == 1 else dist.barrier()
"""

STOPPED = """
import sys
from pathlib import Path
from sidewinder.train.watch import Watchdog

with Watchdog(2.0, Path(sys.argv[1])) as watchdog:
    print("ready", flush=True)
    for line in sys.stdin:
        watchdog.beat(int(line))
print("done", flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def test_process_that_hangs_tells_where_and_ends(tmp_path: Path) -> None:
    process = start(HANGS, tmp_path / "run")
    out, errors = process.communicate(timeout=60)
    assert process.returncode == HUNG == 124
    stacks = (tmp_path / "run" / f"stacks-rank3-{process.pid}.txt").read_text()
    for text in (errors, stacks):
        assert "rank 3" in text
        assert "no progress for 1 s in step 5" in text
        assert "in reads_from_a_disk_that_is_gone" in text
    assert out.startswith("rank 3 ")


def test_processes_that_wait_for_each_other_all_tell(tmp_path: Path) -> None:
    """Rank 0 waits in a barrier for rank 1, which never comes: both end, and the stacks show which held up which."""
    processes = [start(BARRIER, tmp_path, rank) for rank in (0, 1)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == HUNG
    waiting, culprit = (
        (tmp_path / f"stacks-rank{rank}-{process.pid}.txt").read_text() for rank, process in enumerate(processes)
    )
    assert "in barrier" in waiting
    assert "in never_comes" in culprit
    assert "in never_comes" not in waiting


def test_process_that_was_stopped_is_not_hung(tmp_path: Path) -> None:
    """Suspended (Ctrl-Z, a preempted job) for longer than the timeout, then continued: it goes on to its end."""
    process = start(STOPPED, tmp_path)
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.5)  # Silent for a little more, so that the watchdog looks first.
    out, _ = process.communicate("1\n2\n", timeout=60)
    assert process.returncode == 0
    assert out == "done\n"
    assert list(tmp_path.iterdir()) == []


QUIET = """
import sys, threading, time
from pathlib import Path
from sidewinder.train.watch import Watchdog

with Watchdog(None, Path(sys.argv[1])) as watchdog:
    watchdog.beat(1)
with Watchdog(1.0, Path(sys.argv[1])) as watchdog:
    for step in range(40):
        watchdog.beat(step)
        time.sleep(0.05)
time.sleep(1.5)
print(threading.active_count())
"""


def test_beats_keep_it_quiet_and_leaving_ends_it(tmp_path: Path) -> None:
    """Twice the timeout with beats, then longer than it after leaving, and with no timeout at all."""
    process = start(QUIET, tmp_path)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "1\n", "")
