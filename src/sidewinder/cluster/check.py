"""Whether Slurm would take the jobs of a study: asked before the first one is submitted, all faults told at once."""

from __future__ import annotations

import getpass
import re
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from sidewinder.cluster.ask import Ask, shape_of
from sidewinder.cluster.slurm import call
from sidewinder.config.training import Training
from sidewinder.errors import ClusterError

PROFILE = "slurm/profile.v9+.yaml"
# What sbatch says → what to do about it.
REMEDIES = {
    "invalid partition": f"name one of the cluster's partitions in {PROFILE} (`sinfo` lists them)",
    "invalid account": f"name an account of yours in {PROFILE} (`sacctmgr show assoc user=$USER` lists them)",
    "time limit": f"lower `runtime` in {PROFILE}; training goes on in as many jobs as it needs",
    "invalid qos": f"name a quality of service that you may use in {PROFILE}, or none",
    "node configuration is not available": f"ask for less in {PROFILE}, or name a partition whose nodes have it",
    "error writing script": "the disk of Slurm's controller is full: tell its administrators, then run the same "
    "command again, which goes on",
    "unable to contact slurm controller": "run the same command again when Slurm answers: it goes on",
    "submit limit": "you have as many jobs in the queue as you may; run the same command again when there are fewer",
    "policy": "a limit of your account or quality of service; `sacctmgr show assoc user=$USER` tells more",
}


@dataclass(frozen=True)
class Wanted:
    """What one kind of job would ask for."""

    who: str
    partition: str = ""
    account: str = ""
    minutes: int = 0
    flags: tuple[str, ...] = ()
    """Everything else, as sbatch's flags."""


def of_training(who: str, ask: Ask, training: Training) -> Wanted:
    """A job of a training stage."""
    shape = shape_of(ask, training)
    flags = [f"--nodes={shape.nodes}", f"--ntasks-per-node={shape.tasks_per_node}"]
    flags += [f"--cpus-per-task={shape.cpus_per_task}", f"--mem={shape.mem_mb_per_node}"]
    flags += [f"--gpus-per-node={shape.gpus_per_node}"] if shape.gpus_per_node else []
    flags += [f"--{key}={value}" for key in ("qos", "constraint") if (value := getattr(ask, key))]
    return Wanted(who, ask.slurm_partition, ask.slurm_account, ask.runtime, (*flags, *shlex.split(ask.slurm_extra)))


def remedy(message: str) -> str:
    """What to do about a refusal of sbatch."""
    found = (advice for text, advice in REMEDIES.items() if text in message.lower())
    return next(found, f"see `man sbatch`, and change {PROFILE}")


def check_wanted(wanted: Iterable[Wanted]) -> None:
    """Raises ClusterError that lists every job that Slurm would not take, and why."""
    faults = [f"{job.who}: {fault}" for job in wanted for fault in _faults(job)]
    if faults:
        lines = "\n  ".join(dict.fromkeys(faults))
        raise ClusterError(f"Slurm would not take these jobs:\n  {lines}", remedy=remedy(lines))


def _faults(job: Wanted) -> list[str]:
    partitions = _partitions()
    name = job.partition or next((name for name, about in partitions.items() if about.get("Default") == "YES"), "")
    found = []
    if name not in partitions:
        found.append(
            f"invalid partition {name!r}; there are: {', '.join(partitions)}" if name else "names no partition"
        )
    else:
        limit = minutes(partitions[name].get("MaxTime", ""))
        if limit is not None and job.minutes > limit:
            found.append(f"runtime of {job.minutes:,} min is above the time limit of partition {name}, {limit:,} min")
        if partitions[name].get("State") != "UP":
            found.append(f"partition {name} is {partitions[name].get('State', '?').lower()}")
    accounts = _accounts()
    if job.account and accounts and job.account not in accounts:
        found.append(f"invalid account {job.account!r}; yours: {', '.join(accounts)}")
    return found or _test(job)


def _test(job: Wanted) -> list[str]:
    """What sbatch itself says against it, without submitting anything."""
    flags = [f"--partition={job.partition}"] if job.partition else []
    flags += [f"--account={job.account}"] if job.account else []
    flags += [f"--time={job.minutes}"] if job.minutes else []
    done = call("sbatch", "--test-only", *flags, *job.flags, "--output=/dev/null", "--wrap=true")
    return [complaint(done.stderr)] if done.returncode else []


def complaint(stderr: str) -> str:
    """The telling lines of sbatch's complaint."""
    lines = [line.strip().removeprefix("sbatch: error: ") for line in stderr.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines)) or "refused without a word"


def _partitions() -> dict[str, dict[str, str]]:
    shown = call("scontrol", "--oneliner", "show", "partition", check=True).stdout
    return {
        fields["PartitionName"]: fields
        for line in shown.splitlines()
        if (fields := dict(re.findall(r"(\w+)=(\S*)", line))).get("PartitionName")
    }


def _accounts() -> list[str]:
    """Accounts that this user may charge; empty where the cluster does not say."""
    if not shutil.which("sacctmgr"):
        return []
    query = ("-n", "-P", "show", "assoc", f"user={getpass.getuser()}", "format=account")
    listed = call("sacctmgr", *query)
    return sorted(set(listed.stdout.split())) if listed.returncode == 0 else []


def minutes(text: str) -> int | None:
    """`30-00:00:00`, `5:00`, `01:30:00` in minutes; None for UNLIMITED and what is not a time."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, mins, secs = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + mins + (secs + 59) // 60
