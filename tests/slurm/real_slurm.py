"""A real Slurm cluster on this one machine: several slurmd on loopback, no systemd, everything in one folder.

    python tests/slurm/real_slurm.py up FOLDER        # then: . FOLDER/env
    python tests/slurm/real_slurm.py down FOLDER

A process of its own (keeper.py) starts the daemons and ends them, and all that their jobs leave behind. Needs Debian's
munge, slurmctld, slurmd and slurm-client, and for accounting slurmdbd and mariadb-server; root is not needed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from processes import alive, until

PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch"]
ACCOUNTING_PROGRAMS = ["slurmdbd", "mariadbd", "mariadb-install-db"]
PACKAGES = "munge slurmctld slurmd slurm-client slurmdbd mariadb-server"
SYSTEM_PATH = "/usr/sbin:/sbin"


@dataclass
class Layout:
    """What the cluster declares; it is believed, whatever the machine has."""

    nodes: int = 2
    cpus: int = 4
    memory_mb: int = 64_000
    gpus: int = 4
    accounting: bool = True
    grace_s: int = 10
    """From the warning of a preempted job to its end."""
    warn_preempted: bool = True
    """Warn it with its own signal (USR2) instead of SIGTERM."""
    hidden: dict[str, str] = field(default_factory=dict)
    """A folder that a node does not see, by node; needs root."""


def missing(accounting: bool = True) -> list[str]:
    """Programs that are not installed."""
    path = f"{os.environ['PATH']}:{SYSTEM_PATH}"
    needed = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else [])
    return [program for program in needed if not shutil.which(program, path=path)]


class Cluster:
    """A cluster as its user sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._keeper: subprocess.Popen[str] | None = None

    def up(self, layout: Layout, *, tied: bool = True) -> None:
        """Starts the cluster and waits until its nodes are idle; where `tied`, it ends when this process does."""
        if absent := missing(layout.accounting):
            raise RuntimeError(f"not installed: {', '.join(absent)}; on Debian: apt-get install {PACKAGES}")
        if self._pid():
            raise RuntimeError(f"a cluster runs in {self.folder}; stop it first")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "layout.json").write_text(json.dumps(asdict(layout)))
        keeper = [sys.executable, str(Path(__file__).with_name("keeper.py")), str(self.folder)]
        with (self.folder / "keeper.log").open("w") as log:
            self._keeper = subprocess.Popen(
                [*keeper, *(["--tied"] if tied else [])],
                stdin=subprocess.PIPE if tied else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._keeper.stdout
        if self._keeper.stdout.readline() != "ready\n":
            self._keeper.wait()
            raise RuntimeError(f"the cluster did not start:\n{(self.folder / 'keeper.log').read_text()}")

    def down(self) -> None:
        """Stops the cluster; returns when nothing of it is left."""
        if pid := self._pid():
            os.kill(pid, signal.SIGTERM)
            until(60, "the end of the keeper", lambda: not alive(pid))
        if self._keeper:
            self._keeper.wait()

    def _pid(self) -> int | None:
        """The keeper's process, None where there is none."""
        try:
            pid = int((self.folder / "keeper.pid").read_text())
            return pid if b"keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes() else None
        except (OSError, ValueError):
            return None

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "SLURM_CONF": str(self.folder / "etc" / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }

    def run(self, *command: str, check: bool = True) -> str:
        """Output of a Slurm command."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{shlex.join(command)}: {done.stderr}{done.stdout}")
        return done.stdout.strip()

    @property
    def layout(self) -> Layout:
        return Layout(**json.loads((self.folder / "layout.json").read_text()))

    def hides(self) -> bool:
        """Whether nodes see other folders than this process, as `hidden` asks."""
        mounts = Path(f"/proc/{self.pid('slurmd.n1')}/mounts").read_text()
        return all(folder in mounts for folder in self.layout.hidden.values())

    def pid(self, daemon: str) -> int:
        """Process of a daemon, such as `slurmd.n1`."""
        return int(json.loads((self.folder / "daemons.json").read_text())[daemon])

    def revive(self) -> None:
        """Starts daemons again that a test has killed."""
        pid = self._pid()
        assert pid
        os.kill(pid, signal.SIGUSR1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    cluster = Cluster(options.folder)
    if options.action == "down":
        cluster.down()
        return
    try:
        cluster.up(Layout(cpus=max(2, os.cpu_count() or 2)), tied=False)
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    print(f"two nodes are ready; now: . {cluster.folder}/env")


if __name__ == "__main__":
    main()
