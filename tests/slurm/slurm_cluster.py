"""A real Slurm on this machine for the tests: munge, slurmctld, two nodes with a GPU each; accounting where asked for.

Needs Debian's packages (installed where they are missing) and root. Everything lies in one folder with ports of its
own, so it meddles with no other Slurm; commands find it by SLURM_CONF.
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
# The nodes claim what the paper's experiment asks for; the experiment of the tests does not use it.
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
    """Install the Debian packages of the commands that are missing; raises RuntimeError with what apt says."""
    missing = {package for command, package in packages.items() if not shutil.which(command, path=_path())}
    if not missing:
        return
    apt = ["apt-get", "install", "-y", "--no-install-recommends", *sorted(missing)]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["apt-get", "update", "-q"], apt):
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"a Slurm cannot be installed: {' '.join(apt)} said {done.stderr[-500:]}")


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class SlurmCluster:
    """Start it, give its `environment` to commands, break it on purpose, stop it."""

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
        """Install what is missing, write the configuration, start the daemons, wait for the nodes."""
        install(PACKAGES | (PACKAGES_OF_ACCOUNTING if self.accounting else {}))
        (self.root / "state").mkdir(parents=True)
        self.root.chmod(0o755)
        (self.root / "slurm.conf").write_text(self.config_text)
        (self.root / "gres.conf").write_text("NodeName=n[1-2] Name=gpu Type=h100 File=/dev/null\n")
        # Snakemake's plugin keeps SLURM_CONF from srun, which on a cluster finds its configuration in /etc.
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
        self.wait(lambda: self.told("sinfo", "-hN", "-p", "cpu", "-t", "idle", "-o", "%N").split() == list(NODES), 60)

    def _start_accounting(self) -> None:
        data, sql = self.root / "mysql", self.root / "mysql.socket"
        self._run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db")
        where = [f"--datadir={data}", f"--socket={sql}", f"--port={self.sql_port}", f"--pid-file={self.root}/sql.pid"]
        options = ["--user=root", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M"]
        with open(self.root / "mariadbd.log", "w") as log:
            words = ["mariadbd", "--no-defaults", *options, *where]
            subprocess.Popen(words, env=self.environment, stdout=log, stderr=log, start_new_session=True)
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
        # A new cluster gives root an account; users have none until they are given one.
        self._run("sacctmgr", "-i", "delete", "user", "root", "account=root")

    def let_root_use(self, account: str) -> None:
        """Make root a user of an account, without which a Slurm that enforces associations takes no job."""
        self._run("sacctmgr", "-i", "add", "user", "root", f"Account={account}")

    def start_controller(self) -> None:
        self._run("slurmctld")

    def stop_controller(self) -> None:
        self._end(self.root / "slurmctld.pid", signal.SIGKILL)

    def start_node(self, node: str) -> None:
        (self.root / f"spool.{node}").mkdir(exist_ok=True)
        self._run("slurmd", "-N", node)

    def stop_node(self, node: str) -> None:
        """End a node's slurmd as a lost network would: Slurm can tell its jobs nothing."""
        self._end(self.root / f"slurmd.{node}.pid", signal.SIGKILL)

    def resume_nodes(self) -> None:
        """Put nodes back to work; a slurmctld that was killed drains one whose job it has forgotten."""
        for node in NODES:
            self._try("scontrol", "update", f"nodename={node}", "state=resume")

    def stop(self) -> None:
        """Cancel all jobs and end every daemon that was started here."""
        with contextlib.suppress(subprocess.SubprocessError):
            self._try("scancel", "--user=root")
        for name in [f"slurmd.{node}" for node in NODES] + ["slurmctld", "slurmdbd", "sql", "munge"]:
            self._end(self.root / f"{name}.pid", signal.SIGTERM)

    def told(self, *words: str) -> str:
        """Return what a command prints; raises RuntimeError with its words where it fails."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    _run = told

    def _try(self, *words: str) -> bool:
        try:
            self.told(*words)
        except RuntimeError:
            return False
        return True

    def wait(self, true, at_most_s: float) -> None:
        """Wait until a condition holds; raises RuntimeError with the ends of the logs where it never does."""
        deadline = time.monotonic() + at_most_s
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):
                if true():
                    return
            time.sleep(0.2)
        logs = "\n".join(path.read_text()[-1500:] for path in self.root.glob("*.log"))
        raise RuntimeError(f"the Slurm of the tests was not ready within {at_most_s} s\n{logs}")

    @staticmethod
    def _end(pid_file: Path, how: signal.Signals) -> None:
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
            for _ in range(100):
                state = Path(f"/proc/{pid}/stat")
                if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
                    break
                time.sleep(0.1)
        pid_file.unlink(missing_ok=True)
