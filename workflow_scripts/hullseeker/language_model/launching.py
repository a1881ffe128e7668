"""A training rule in one process, or in several through `accelerate launch`.

Needs: accelerate (more than one process). With more than one, the rule's script becomes the launcher: it writes what
Snakemake handed it to a JSON file and starts itself again under `accelerate launch`, once per process. Those read the
file, and otherwise run the same `main`.
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
    """Named files or params, by attribute as Snakemake has them."""

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


@dataclass(frozen=True)
class Job:
    """What a training rule reads of the `snakemake` object, and can be written to a file."""

    input: Section
    output: Section
    params: Section
    wildcards: Section
    log: list[str]
    threads: int

    @classmethod
    def of(cls, snakemake) -> Job:
        """Return the job that Snakemake's object describes."""

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
        """Read a job that `write` has written."""
        about = json.loads(Path(path).read_text())
        sections = {name: Section(about[name]) for name in ("input", "output", "params", "wildcards")}
        return cls(**sections, log=about["log"], threads=about["threads"])


def _plain(value):
    """Return mappings and sequences of Snakemake as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, str) else value


def run_training(main: Callable, snakemake, script: str | Path) -> None:
    """Run `main` of a training script as its settings ask: here, or in several processes.

    `snakemake` is None in the processes that a launcher started.
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
    """Return the command that starts the script in as many processes as the settings ask for, on this machine."""
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", settings["accelerate"]),
        *("--num_machines", "1", "--num_processes", str(settings["n_processes"])),
        # Any free port: trainings may run side by side.
        *("--main_process_port", "0"),
        *(str(script), str(job_path)),
    ]


def launch(job: Job, script: str | Path) -> None:
    """Start the script under `accelerate launch` and wait; RuntimeError where it ends with an error.

    All processes write to the rule's log. Where the launcher is told to end, they end first.
    """
    settings, name = job.params.settings, Path(script).stem
    with logging_to(job.log[0], name) as log, tempfile.TemporaryDirectory() as folder:
        job_path = Path(folder) / "job.json"
        job.write(job_path)
        command = launch_command(settings, script, job_path)
        log.info("%d processes, as %s says: %s", settings["n_processes"], settings["accelerate"], " ".join(command))
        # The launcher prints traces of its own: they belong into the log as well.
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
                f"accelerate launch ended with status {status}; the error of the process that failed first stands above"
            )


def _end(process: subprocess.Popen) -> None:
    """End a process that still runs, politely first."""
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def end_with_launcher(interval_s: float = 1.0) -> None:
    """Let this process end when its launcher has: one that is killed cannot tell its processes.

    Two trainings at once, an orphan and its successor, would write the same checkpoints.
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
    # A killed process that nobody has waited for yet still has its id.
    stat = Path(f"/proc/{process_id}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return not Path("/proc").is_dir()
