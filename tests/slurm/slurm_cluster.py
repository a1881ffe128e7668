"""A real Slurm on this machine for the tests: munge, slurmctld, two nodes with a GPU each, and optional accounting.

Needs root and Debian's packages, which are installed if missing. All files are in one folder and ports are its own, so
that it does not interfere with another Slurm; commands find it by SLURM_CONF.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NODES = ("n1", "n2")
PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
}
PACKAGES_OF_ACCOUNTING = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server"}
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
SlurmctldPort={port}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
ReturnToService=1
KillWait=2
MinJobAge={min_job_age_s}
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=1,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# The nodes declare the resources that the rules request; the experiment of the tests does not use them.
SlurmdParameters=config_overrides
DefMemPerCPU=1000
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_n1} {node}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_n2} {node}
PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=20160 State=UP
PartitionName=gpu Nodes=n[1-2] MaxTime=20160 State=UP
PartitionName=plain Nodes=n1 MaxTime=30 State=UP
"""
NODE = "CPUs=16 RealMemory=256000 Gres=gpu:h100:1 State=UNKNOWN"
ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={root}/munge.socket
AccountingStorageEnforce=associations
"""
DATABASE = """
DbdHost=localhost
DbdPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
LogFile={root}/slurmdbd.log
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


def install(packages: dict[str, str]) -> None:
    """Install the Debian packages of missing commands. Raises RuntimeError with the output of apt if that fails."""
    missing = {package for command, package in packages.items() if not shutil.which(command, path=_path())}
    if not missing:
        return
    apt = ["apt-get", "install", "-y", "--no-install-recommends", *sorted(missing)]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-q"], apt):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"Slurm cannot be installed: {' '.join(apt)} failed with {done.stderr[-500:]}")


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


class SlurmCluster:
    """A Slurm that can be started, broken on purpose and stopped; commands reach it through `environment`."""

    def __init__(self, root: Path, min_job_age_s: int = 300, accounting: bool = False):
        self.root = root
        self.accounting = accounting
        host = socket.gethostname().split(".")[0]
        port, port_n1, port_n2, self.db_port, self.sql_port = _free_ports(5)
        text = CONFIG.format(
            root=root, host=host, port=port, port_n1=port_n1, port_n2=port_n2, min_job_age_s=min_job_age_s, node=NODE
        )
        self.config_text = text + (ACCOUNTING.format(root=root, port=self.db_port) if accounting else "")
        self.environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf"), "PATH": f"{root}/bin:{_path()}"}

    def start(self) -> None:
        """Install missing packages, write the configuration, start the daemons and wait for the nodes."""
        install(PACKAGES | (PACKAGES_OF_ACCOUNTING if self.accounting else {}))
        (self.root / "state").mkdir(parents=True)
        self.root.chmod(0o755)
        (self.root / "slurm.conf").write_text(self.config_text)
        (self.root / "gres.conf").write_text("NodeName=n[1-2] Name=gpu Type=h100 File=/dev/null\n")
        # Snakemake's plugin hides SLURM_CONF from srun, which would look for its configuration in /etc.
        srun = self.root / "bin" / "srun"
        srun.parent.mkdir()
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.root}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        key = self.root / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = [f"--{name}-file={self.root}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._run("munged", "--force", f"--socket={self.root}/munge.socket", *files)
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait(
            lambda: self.output_of("sinfo", "-hN", "-p", "cpu", "-t", "idle", "-o", "%N").split() == list(NODES), 60
        )

    def _start_accounting(self) -> None:
        data, sql = self.root / "mysql", self.root / "mysql.socket"
        self._run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db")
        paths = [f"--datadir={data}", f"--socket={sql}", f"--port={self.sql_port}", f"--pid-file={self.root}/sql.pid"]
        options = ["--user=root", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M"]
        with open(self.root / "mariadbd.log", "w") as log:
            command = ["mariadbd", "--no-defaults", *options, *paths]
            subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        client = ["mariadb", "--no-defaults", "-S", str(sql), "-e"]
        self.wait(lambda: self._try(*client, "SELECT 1"), 60)
        user = "'slurm'@'127.0.0.1'"
        statements = "CREATE DATABASE slurm_acct_db", f"CREATE USER {user} IDENTIFIED BY 'slurm'"
        self._run(*client, "; ".join([*statements, f"GRANT ALL ON slurm_acct_db.* TO {user}"]))
        config = self.root / "slurmdbd.conf"
        config.write_text(DATABASE.format(root=self.root, port=self.db_port, sql_port=self.sql_port))
        config.chmod(0o600)
        self._run("slurmdbd")
        self.wait(lambda: self._try("sacctmgr", "-n", "list", "cluster"), 60)
        self._run("sacctmgr", "-i", "add", "cluster", "test")
        self._run("sacctmgr", "-i", "add", "account", "materials", "Cluster=test")
        # A new cluster gives root an account; remove it, so that root is like a user without an account.
        self._run("sacctmgr", "-i", "delete", "user", "root", "account=root")

    def let_root_use(self, account: str) -> None:
        """Add root to an account; a Slurm that enforces associations accepts no job without one."""
        self._run("sacctmgr", "-i", "add", "user", "root", f"Account={account}")

    def start_controller(self) -> None:
        self._run("slurmctld")

    def stop_controller(self) -> None:
        self._end(self.root / "slurmctld.pid", signal.SIGKILL)

    def start_node(self, node: str) -> None:
        (self.root / f"spool.{node}").mkdir(exist_ok=True)
        self._run("slurmd", "-N", node)

    def stop_node(self, node: str) -> None:
        """Kill a node's slurmd, as if its network were lost: Slurm can no longer reach its jobs."""
        self._end(self.root / f"slurmd.{node}.pid", signal.SIGKILL)

    def resume_nodes(self) -> None:
        """Resume nodes; after a kill, slurmctld drains a node whose job it has forgotten."""
        for node in NODES:
            self._try("scontrol", "update", f"nodename={node}", "state=resume")

    def stop(self) -> None:
        """Cancel all jobs and stop every daemon that was started here."""
        with contextlib.suppress(subprocess.SubprocessError):
            self._try("scancel", "--user=root")
        for name in [f"slurmd.{node}" for node in NODES] + ["slurmctld", "slurmdbd", "sql", "munge"]:
            self._end(self.root / f"{name}.pid", signal.SIGTERM)

    def output_of(self, *command: str) -> str:
        """Run a command and return its output. Raises RuntimeError with its error message if it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    _run = output_of

    def _try(self, *command: str) -> bool:
        try:
            self.output_of(*command)
        except RuntimeError:
            return False
        return True

    def wait(self, condition, at_most_s: float) -> None:
        """Wait until a condition holds. Raises RuntimeError with the ends of the logs if it does not in time."""
        deadline = time.monotonic() + at_most_s
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):
                if condition():
                    return
            time.sleep(0.2)
        logs = "\n".join(path.read_text()[-1500:] for path in self.root.glob("*.log"))
        raise RuntimeError(f"the Slurm of the tests was not ready within {at_most_s} s\n{logs}")

    @staticmethod
    def _end(pid_file: Path, signal_number: signal.Signals) -> None:
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)
            for _ in range(100):
                state = Path(f"/proc/{pid}/stat")
                if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
                    break
                time.sleep(0.1)
        pid_file.unlink(missing_ok=True)
