"""A private Slurm cluster on this machine: munged, slurmctld and a few slurmd, all on loopback, all in one folder.

    python tests/slurm/cluster.py FOLDER        starts it and prints the line that makes squeue and the like find it
    python tests/slurm/cluster.py FOLDER stop   ends it

Needs the programs of the Debian packages slurmctld, slurmd, slurm-client, munge and slurm-wlm-basic-plugins. Works as
root and as a user; nothing outside the folder is written.

Each slurmd is a virtual node of its own name; jobs on all of them run on this machine, so they share its files and its
loopback. The tracking of processes is by process group because the default lost some; memory and cores are as told, not
as found.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
NODES = ("n1", "n2", "n3", "n4")
CORES = 4
"""Of a node, as Slurm counts them."""

Site = Callable[..., str]
"""Writes a copy of a site file with other capitals, given as keywords; returns its path."""

SITES = Path(__file__).resolve().parent.parent.parent / "site_configs"

QUICK: dict[str, Any] = {
    "ADDRESS": "127.0.0.1", "POLL_S": 1, "HEARTBEAT_S": 1, "PATIENCE_S": 6,
    "WALK_PARTITION": "walk", "LABEL_PARTITION": "label",
}  # fmt: skip
"""What every site here has: partitions of the virtual cluster, and times that a test can wait for."""

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

_CONF = """\
ClusterName=virtual
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool.%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=20
KillWait=2
MinJobAge=600
JobRequeue=0
{nodes}
PartitionName=walk Nodes=n1,n2 Default=YES MaxTime=INFINITE
PartitionName=label Nodes=n3,n4 MaxTime=INFINITE
PartitionName=short Nodes=n1 MaxTime=1
PartitionName=closed Nodes=n1 AllowAccounts=physics
"""


class ClusterError(Exception):
    """The cluster did not come up; the text says what its logs say."""


def missing_programs() -> list[str]:
    """Programs that a cluster needs and this machine has not."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


class Cluster:
    """Slurm in a folder: `start`, then commands with `environment`, then `stop`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.environment = {"SLURM_CONF": str(base / "slurm.conf"), "PATH": _PATH}

    def start(self, timeout_s: float = 20.0) -> None:
        """Start all daemons and wait until every node is idle.

        Raises:
            ClusterError: they did not start in time.
        """
        self.base.mkdir(parents=True, exist_ok=True)
        ports = _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={CORES} RealMemory=8000"
            for name, port in zip(NODES, ports[1:], strict=True)
        )
        user = pwd.getpwuid(os.getuid()).pw_name
        (self.base / "slurm.conf").write_text(_CONF.format(base=self.base, ports=ports, user=user, nodes=nodes))
        for folder in ("state", *(f"spool.{name}" for name in NODES)):
            (self.base / folder).mkdir(exist_ok=True)
        self._start_munge()
        self._daemon("slurmctld", "-i")
        for name in NODES:
            self.start_node(name)
        self.wait_until_idle(timeout_s)

    def _start_munge(self) -> None:
        private = self.base / "munge"
        private.mkdir(mode=0o700, exist_ok=True)
        key = private / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        files = {"key-file": key, "socket": self.base / "munge.socket", "pid-file": self.base / "munged.pid",
                 "log-file": private / "log", "seed-file": private / "seed"}  # fmt: skip
        # Forced: it wants its socket in a folder that everybody may enter, and ours is private.
        self._daemon("munged", "--force", "--num-threads=2", *(f"--{name}={path}" for name, path in files.items()))

    def _daemon(self, *command: str) -> None:
        done = self.run(*command)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command on the cluster; the daemons it may start keep neither its output nor its input open."""
        with (self.base / "stdout").open("w+") as out, (self.base / "stderr").open("w+") as err:
            done = subprocess.run(
                command, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                timeout=60,
            )  # fmt: skip
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())

    def jobs(self) -> dict[str, str]:
        """Names and states of the jobs that have not ended, by id."""
        lines = self.run("squeue", "--noheader", "--format=%i|%j|%T").stdout.splitlines()
        return {job: f"{name} {state}" for job, name, state in (line.split("|") for line in lines)}

    def wait_until_idle(self, timeout_s: float = 30.0) -> None:
        """Wait until no job is left and all nodes are idle.

        Raises:
            ClusterError: they are not in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.run("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").stdout.split()
            if set(found) == set(NODES):
                return
            if time.monotonic() > deadline:
                logs = [path.read_text()[-500:] for path in sorted(self.base.glob("*.log"))]
                raise ClusterError("\n".join([f"nodes idle: {found}, jobs: {self.jobs()}", *logs]))
            time.sleep(0.1)

    def drained(self, within_s: float) -> bool:
        """Whether all jobs end within so many seconds."""
        deadline = time.monotonic() + within_s
        while (jobs := self.jobs()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return not jobs

    def kill_node(self, name: str, with_its_jobs: bool) -> None:
        """SIGKILL a node's slurmd, alone or with all that it runs, as when the machine goes down."""
        os.kill(int((self.base / f"{name}.pid").read_text()), signal.SIGKILL)
        for process in self._job_processes(name) if with_its_jobs else ():
            with suppress(psutil.Error):
                process.kill()

    def _job_processes(self, node: str) -> list[psutil.Process]:
        """Those of jobs on a node, and the slurmstepd that watch them first."""
        jobs, watchers = [], []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                variables = process.environ()
                if variables.get("SLURMD_NODENAME") == node and variables["SLURM_CONF"] == str(
                    self.base / "slurm.conf"
                ):
                    jobs.append(process)
                    parent = process.parent()
                    watchers += [parent] if parent is not None and parent.name() == "slurmstepd" else []
        return watchers + jobs

    def stop_controller(self) -> None:
        """End slurmctld; the nodes and their jobs go on."""
        _end(self.base / "slurmctld.pid")

    def start_controller(self) -> None:
        """Start slurmctld again, with what it knew."""
        self._daemon("slurmctld")

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        self._daemon("slurmd", "-N", name)

    def stop(self) -> None:
        """Cancel the jobs and end the daemons, the ones that must be asked twice too."""
        self.run("scancel", "--user", str(os.getuid()))
        self.drained(10.0)
        for name in (*NODES, "slurmctld", "munged"):
            _end(self.base / f"{name}.pid")


def site_file(folder: Path, name: str = "slurm", **capitals: Any) -> str:
    """A copy of a site file in `folder`, as a user would edit it; returns its path."""
    edits = "".join(f"{key} = {value!r}\n" for key, value in {**QUICK, **capitals}.items())
    path = folder / f"my_{name}.py"
    path.write_text((SITES / f"{name}.py").read_text().replace("\n\ndef config(", f"\n{edits}\n\ndef config(", 1))
    return str(path)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _end(pid_file: Path) -> None:
    if not pid_file.exists():
        return
    process = int(pid_file.read_text())
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 5
        while _lives(process) and time.monotonic() < deadline:
            os.kill(process, number)
            time.sleep(0.1)


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def main(base: str, command: str = "start") -> None:
    """Start or stop the cluster in the folder `base`."""
    cluster = Cluster(Path(base).absolute())
    if command == "stop":
        cluster.stop()
        return
    cluster.start()
    print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
