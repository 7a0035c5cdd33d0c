"""The keeper of a one-machine cluster: the parent of all its daemons, which outlive nothing.

    keeper.py FOLDER [--tied]

It adopts whatever the jobs leave behind. When it is told to stop, or, where tied, when the process that started it is
gone, it cancels all jobs and ends every process below it. Should it be killed itself, the kernel ends the daemons.
"""

from __future__ import annotations

import getpass
import json
import os
import resource
import secrets
import select
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from processes import adopt_orphans, alive, descendants, end, end_with_parent, reap, send, until
from real_slurm import SYSTEM_PATH, Layout

TOOLS = [
    "sacct",
    "sacctmgr",
    "salloc",
    "sbatch",
    "scancel",
    "scontrol",
    "sinfo",
    "sprio",
    "squeue",
    "srun",
    "sshare",
    "sstat",
]
DEVICES = [Path(f"/dev/{name}") for name in ("null", "zero", "full", "random", "urandom", "tty")]
START_S, STOP_S = 60, 10


class Keeper:
    """Starts the daemons, waits, ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layout = Layout(**json.loads((folder / "layout.json").read_text()))
        self.nodes = [f"n{number}" for number in range(1, self.layout.nodes + 1)]
        self.commands: dict[str, list[str]] = {}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.stopping = False
        path = [entry for entry in os.environ["PATH"].split(":") if not (Path(entry).parent / "layout.json").exists()]
        os.environ["PATH"] = ":".join([*path, SYSTEM_PATH])  # Without the commands of another such cluster.
        os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")

    def keep(self, tied: bool) -> None:
        adopt_orphans()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # Daemons that are killed on purpose leave no core files.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGUSR1, lambda *_: self._revive())
        (self.folder / "keeper.pid").write_text(str(os.getpid()))
        try:
            self._start_all()
            print("ready", flush=True)
            while not self.stopping:
                ready, _, _ = select.select([sys.stdin] if tied else [], [], [], 0.2)
                if ready and not sys.stdin.read(1):
                    break
                reap()
        except RuntimeError:
            for path in sorted((self.folder / "log").glob("*.out")):
                print(f"{path.name}: {path.read_text()[-500:]}", file=sys.stderr)
            raise
        finally:
            self._end_all()

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    # Starting

    def _start_all(self) -> None:
        self.folder.chmod(0o755)  # munged wants a socket that everybody can reach.
        for name in ("run", "log", "state", "spool", "etc", "bin", "dev", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        self.ports = free_ports(3 + self.layout.nodes)
        self._write_files()
        run = self.folder / "run"
        paths = {"socket": run / "munge.socket", "key-file": self.folder / "etc/munge.key"}
        paths |= {"pid-file": run / "munged.pid", "seed-file": run / "munged.seed"}
        paths["log-file"] = self.folder / "log/munged.log"
        self._start("munged", ["munged", "--foreground", *(f"--{key}={path}" for key, path in paths.items())])
        until(START_S, "munged", paths["socket"].exists)
        if self.layout.accounting:
            self._start_accounting()
        self._start("slurmctld", ["slurmctld", "-D"])
        until(START_S, "slurmctld", lambda: succeeds("scontrol", "ping"))
        for node in self.nodes:
            self._start(f"slurmd.{node}", self._slurmd(node))
        idle = ("sinfo", "-hNp", "batch", "-t", "idle")
        until(START_S, "the nodes", lambda: len(output(*idle).split("\n")) == len(self.nodes))

    def _start(self, name: str, command: list[str]) -> None:
        self.commands[name] = command
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        pids = {known: daemon.pid for known, daemon in self.daemons.items()}
        (self.folder / "daemons.json").write_text(json.dumps(pids))

    def _revive(self) -> None:
        for name, daemon in list(self.daemons.items()):
            if not alive(daemon.pid):
                self._start(name, self.commands[name])

    def _slurmd(self, node: str) -> list[str]:
        """A slurmd, in a host-name and a mount namespace of its own where that is allowed."""
        slurmd = ["slurmd", "-D", "-N", node]
        if not succeeds("unshare", "--uts", "--mount", "hostname", node):
            return slurmd
        steps = [f"hostname {node}", f"mount --bind {shlex.quote(str(self.folder / 'etc/hosts'))} /etc/hosts"]
        if hidden := self.layout.hidden.get(node):
            steps.append(f"mount -t tmpfs none {shlex.quote(hidden)}")
        return ["unshare", "--uts", "--mount", "sh", "-ec", "; ".join([*steps, f"exec {shlex.join(slurmd)}"])]

    def _start_accounting(self) -> None:
        data, user = self.folder / "db", getpass.getuser()
        shutil.rmtree(data, ignore_errors=True)
        small = ["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"]
        options = ["--no-defaults", f"--user={user}", f"--datadir={data}", "--innodb-flush-method=nosync", *small]
        options += [f"--tmpdir={self.folder}/tmp"]  # A server that starts removes the temporary tables in its tmpdir.
        install = ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, stdout=sys.stderr)
        server = ["mariadbd", *options, f"--socket={self.folder}/run/mariadb.socket", "--bind-address=127.0.0.1"]
        server += [f"--pid-file={self.folder}/run/mariadbd.pid", f"--port={self.ports[2]}", "--skip-name-resolve"]
        server += [f"--init-file={self.folder}/etc/init.sql", "--innodb-lock-wait-timeout=900"]
        self._start("mariadbd", server)
        until(START_S, "mariadbd", lambda: listening(self.ports[2]))
        self._start("slurmdbd", ["slurmdbd", "-D"])
        until(START_S, "slurmdbd", lambda: succeeds("sacctmgr", "-n", "show", "cluster"))
        for what in (["cluster", "onemachine"], ["account", "lab"], ["user", user, "account=lab"]):
            subprocess.run(["sacctmgr", "-i", "add", *what], check=True, stdout=sys.stderr)

    # Files

    def _write_files(self) -> None:
        etc = self.folder / "etc"
        private(etc / "munge.key", secrets.token_bytes(128))
        names = "".join(f"127.0.0.1 {node}\n" for node in self.nodes)
        (etc / "hosts").write_text(Path("/etc/hosts").read_text() + names)
        password = secrets.token_hex(16)
        private(etc / "init.sql", init_sql(password).encode())
        private(etc / "slurmdbd.conf", self._slurmdbd_conf(password).encode())
        (etc / "slurm.conf").write_text(self._slurm_conf())
        devices = self._devices()
        gpus = [f"NodeName={node} Name=gpu File={device}\n" for node in self.nodes for device in devices]
        (etc / "gres.conf").write_text("".join(gpus))
        conf = f"SLURM_CONF={shlex.quote(os.environ['SLURM_CONF'])}"
        for tool in TOOLS:  # Snakemake's executor takes SLURM_CONF out of the environment of its job steps.
            script = self.folder / "bin" / tool
            script.write_text(f'#!/bin/sh\n{conf} exec {shutil.which(tool)} "$@"\n')
            script.chmod(0o755)
        (self.folder / "env").write_text(f'export {conf} PATH={shlex.quote(str(self.folder / "bin"))}:"$PATH"\n')

    def _devices(self) -> list[Path]:
        """What stands for GPUs: devices that do what /dev/null does or, for who may not make them, some of /dev."""
        made = [self.folder / "dev" / f"gpu{number}" for number in range(self.layout.gpus)]
        try:
            for path in made:
                os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            return DEVICES[: self.layout.gpus]
        return made

    def _slurm_conf(self) -> str:
        layout = self.layout
        gpus = f" Gres=gpu:{layout.gpus}" if layout.gpus else ""
        nodes = [
            f"NodeName={node} NodeHostname={host()} NodeAddr=127.0.0.1 Port={port} Sockets=1 "
            f"CoresPerSocket={layout.cpus} ThreadsPerCore=1 RealMemory={layout.memory_mb}{gpus} State=UNKNOWN"
            for node, port in zip(self.nodes, self.ports[3:], strict=True)
        ]
        accounting = ["AccountingStorageType=accounting_storage/none"]
        if layout.accounting:
            accounting = [
                "AccountingStorageType=accounting_storage/slurmdbd",
                "AccountingStorageHost=127.0.0.1",
                f"AccountingStoragePort={self.ports[1]}",
                f"AccountingStoragePass={self.folder}/run/munge.socket",
                "AccountingStorageTRES=gres/gpu",
                "AccountingStorageEnforce=associations",
            ]
        version = [int(part) for part in output("slurmctld", "-V").split()[-1].split(".")[:2]]
        warn = ("SlurmctldParameters=preempt_" if version < [23, 2] else "PreemptParameters=") + "send_user_signal"
        return template("slurm.conf.in").format(
            cluster="onemachine",
            host=host(),
            ctld_port=self.ports[0],
            user=getpass.getuser(),
            folder=self.folder,
            warn_preempted=warn if layout.warn_preempted else "",
            grace_s=layout.grace_s,
            accounting="\n".join(accounting),
            nodes="\n".join(nodes),
        )

    def _slurmdbd_conf(self, password: str) -> str:
        return template("slurmdbd.conf.in").format(
            host=host(),
            user=getpass.getuser(),
            folder=self.folder,
            dbd_port=self.ports[1],
            database_port=self.ports[2],
            password=password,
        )

    # Ending

    def _end_all(self) -> None:
        if "slurmctld" in self.daemons and succeeds("scontrol", "ping"):
            succeeds("scancel", f"--user={getpass.getuser()}")
            with suppress(RuntimeError):
                until(STOP_S, "the jobs", lambda: not output("squeue", "-ho", "%i", "-t", "PD,R,CG,S,CF"))
        for daemon in reversed(self.daemons.values()):
            end(daemon.pid)
        while left := descendants(os.getpid()):  # Jobs whose slurmd was killed, and what left its process group.
            for pid in left:
                send(pid, signal.SIGKILL)
            reap()
            time.sleep(0.05)


def template(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


def host() -> str:
    return socket.gethostname().split(".")[0]


def init_sql(password: str) -> str:
    return (
        "DELETE FROM mysql.global_priv WHERE User='';\nFLUSH PRIVILEGES;\n"
        f"ALTER USER root@localhost IDENTIFIED BY '{password}';\n"
        f"CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';\nGRANT ALL ON slurm.* TO slurm@'127.0.0.1';\n"
    )


def private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for entry in sockets:
        entry.bind(("127.0.0.1", 0))
    ports = [entry.getsockname()[1] for entry in sockets]
    for entry in sockets:
        entry.close()
    return ports


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()


if __name__ == "__main__":
    Keeper(Path(sys.argv[1])).keep("--tied" in sys.argv)
