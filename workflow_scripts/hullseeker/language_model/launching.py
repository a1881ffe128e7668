"""Runs a training rule in one process, or in several processes with `accelerate launch`.

Needs: accelerate, for more than one process. The rule's script is then the launcher: it writes the parameters of its
Snakemake job to a JSON file and starts itself again under `accelerate launch`. Each of these processes reads the file
and runs the same `main`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hullseeker.runtime.logs import LAUNCHER, logging_to

_GRACE_S = 30.0


class Section(dict):
    """Named files or params with attribute access, as in Snakemake."""

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


@dataclass(frozen=True)
class Job:
    """The parts of the `snakemake` object that a training rule reads, in a form that can be written to a file."""

    input: Section
    output: Section
    params: Section
    wildcards: Section
    log: list[str]
    threads: int

    @classmethod
    def of(cls, snakemake) -> Job:
        """Return the job of a `snakemake` object."""

        def plain(named) -> Section:
            return Section((key, value if isinstance(value, str) else _plain(value)) for key, value in named.items())

        return cls(
            plain(snakemake.input),
            plain(snakemake.output),
            plain(snakemake.params),
            plain(snakemake.wildcards),
            [str(path) for path in snakemake.log],
            snakemake.threads,
        )

    def write(self, path: str | Path) -> None:
        """Write the job as JSON."""
        Path(path).write_text(json.dumps(vars(self)))

    @classmethod
    def read(cls, path: str | Path) -> Job:
        """Read a job from a file of `write`."""
        content = json.loads(Path(path).read_text())
        sections = {name: Section(content[name]) for name in ("input", "output", "params", "wildcards")}
        return cls(**sections, log=content["log"], threads=content["threads"])


def _plain(value):
    """Return Snakemake's mappings and sequences as dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, str) else value


def run_training(main: Callable, snakemake, script: str | Path) -> None:
    """Run `main` of a training script in this process, or in as many processes as its settings request.

    `snakemake` is None in a process started by the launcher.
    """
    if snakemake is None:
        parser = argparse.ArgumentParser(description="One process of a training; the workflow starts it.")
        parser.add_argument("job", help="JSON file that the launcher wrote")
        end_with_launcher()
        main(Job.read(parser.parse_args().job))
    elif snakemake.params.settings["n_processes"] == 1:
        main(snakemake)
    else:
        launch(Job.of(snakemake), script)


def launch_command(settings: Mapping, script: str | Path, job_path: str | Path) -> list[str]:
    """Return the command that starts the script in `n_processes` processes on this machine."""
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", settings["accelerate"]),
        *("--num_machines", "1", "--num_processes", str(settings["n_processes"])),
        # Any free port, as several trainings may run at the same time.
        *("--main_process_port", "0"),
        *(str(script), str(job_path)),
    ]


def launch(job: Job, script: str | Path) -> None:
    """Start the script under `accelerate launch` and wait; RuntimeError if it fails.

    All processes write to the rule's log. On SIGTERM, the launched processes are terminated first.
    """
    settings, name = job.params.settings, Path(script).stem
    with logging_to(job.log[0], name) as log, tempfile.TemporaryDirectory() as folder:
        job_path = Path(folder) / "job.json"
        job.write(job_path)
        command = launch_command(settings, script, job_path)
        log.info("%d processes, as %s says: %s", settings["n_processes"], settings["accelerate"], " ".join(command))
        # Tracebacks printed by accelerate go to the log as well.
        with open(job.log[0], "a") as output:
            process = subprocess.Popen(
                command, env=os.environ | {LAUNCHER: str(os.getpid())}, stdout=output, stderr=subprocess.STDOUT
            )
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
            _end(process)
        if status:
            raise RuntimeError(
                f"accelerate launch ended with status {status}; see the error of the first failed process above"
            )


def _end(process: subprocess.Popen) -> None:
    """Terminate a process, and kill it if it does not end in time."""
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def end_with_launcher(interval_s: float = 1.0) -> None:
    """End this process when its launcher ends, because a killed launcher cannot terminate its processes.

    An orphaned training would otherwise write the same checkpoints as a restarted one.
    """
    parent, launcher = os.getppid(), int(os.environ[LAUNCHER])

    def watch() -> None:
        while os.getppid() == parent and _is_alive(launcher):
            time.sleep(interval_s)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A zombie process still has an id.
    stat = Path(f"/proc/{process_id}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return not Path("/proc").is_dir()
