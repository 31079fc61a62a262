"""A real SLURM of one node on loopback, with two GPUs on paper, apart from any that the machine has of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")

CONFIG = """
ClusterName=bsap
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
SlurmctldPort={control}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=sched_interval=1
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 Gres=gpu:2
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE
"""


def until(condition: Callable[[], object], what: str, timeout: float = 120) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)


class Cluster:
    """Daemons in the foreground of nobody, known by their pid files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "PYTHONPATH", "MASTER_PORT"):
            self.env.pop(name, None)

    def start(self) -> None:
        host = socket.gethostname().split(".")[0]
        ports = []
        for _ in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        text = CONFIG.format(host=host, folder=self.folder, control=ports[0], node=ports[1])
        (self.folder / "slurm.conf").write_text(text)
        # Devices that every machine has stand for the GPUs, which nobody opens.
        devices = "".join(f"NodeName={host} Name=gpu File={file}\n" for file in ("/dev/null", "/dev/zero"))
        (self.folder / "gres.conf").write_text(devices)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self.run("munged", "--force", *(f"--{option}={self.folder}/munge.{name}" for option, name in munge.items()))
        self.run("slurmctld")
        self.run("slurmd")
        until(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T"), "the node came up", 60)

    def run(self, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(command, env=self.env | (env or {}), cwd=cwd, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def state(self, job: str) -> dict[str, str]:
        """What `scontrol` knows of a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def finish(self, job: str, timeout: float = 240) -> dict[str, str]:
        """Wait for a job; a requeued one starts in a few seconds, not in the two minutes that SLURM lets it wait."""
        hurried = False

        def over() -> bool:
            nonlocal hurried
            state = self.state(job)
            if not hurried and state["JobState"] == "PENDING" and state["Restarts"] != "0":
                # Not at once: within the second in which slurmd revoked the first credential it refuses the next.
                self.run("scontrol", "update", f"JobId={job}", "StartTime=now+3")
                hurried = True
            return state["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")

        until(over, f"job {job} ended", timeout)
        return self.state(job)

    def stop(self) -> None:
        """Bring the daemons down by their pid files, jobs first."""
        if (self.folder / "slurmctld.pid").exists():
            subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=self.env, check=False, timeout=30)
            subprocess.run(["scancel", "--user=root"], env=self.env, check=False, timeout=30)
        for name in ("slurmd", "slurmctld", "munge"):
            file = self.folder / f"{name}.pid"
            if not file.exists():
                continue
            pid = int(file.read_text())
            os.kill(pid, signal.SIGTERM)
            try:
                until(lambda pid=pid: not Path(f"/proc/{pid}").exists() or _zombie(pid), f"{name} ended", 20)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The running cluster; skips where SLURM is not installed or this user may not start it."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        pytest.skip(f"needs SLURM (Debian: slurmctld slurmd slurm-client munge); not found: {', '.join(absent)}")
    if os.geteuid() != 0:
        pytest.skip("needs root to start SLURM's daemons")
    folder = Path(tempfile.mkdtemp(prefix="bsap-slurm-", dir="/tmp"))
    made = Cluster(folder)
    try:
        try:
            made.start()
        except (AssertionError, TimeoutError) as error:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            pytest.skip(f"SLURM does not start here: {error}\n{logs}")
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
