"""Kill or stop a job at an event of its own. Python imports this file at start where a test has its folder on the path.

FAULT_PLAN names a JSON file that fault_plan.py writes: a folder, and per rule or job an event and what happens at it.
Of each rule the first job that reaches its event is struck, or those of the places that the plan names. An event is
met where the job meets it, on a busy machine as on an idle one.
"""

import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path

# A job goes by its log, <rule>/<wildcards>.
LOG = re.compile(r"logs/[^/]+/(.+)\.log")
# A training's checkpoint is whole when this file has its name.
CHECKPOINT = re.compile(r"checkpoint-\d+/manifest\.json|checkpoints/cdvae/training\.safetensors")


def script_of_job() -> str | None:
    """Return the script that this process runs for a rule; the first process of a training in several counts."""
    for word in sys.orig_argv:
        if "/.snakemake/scripts/" in word:
            return Path(word).name.split(".")[1]
        if os.environ.get("RANK") == "0" and re.fullmatch(r"train_\w+\.py", Path(word).name):
            return Path(word).stem
    return None


class Fault:
    """Watches Python's audit events: a rule's log is opened, a checkpoint has its name, an output is about to."""

    def __init__(self, script: str, plan: dict):
        self.job = script
        self.plan = plan
        self.checkpoint: str | None = None
        self.done = False

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.done:
            return
        if self.checkpoint and os.path.exists(self.checkpoint):
            self.strike("checkpoint")
        elif event == "open" and isinstance(arguments[0], str) and (found := LOG.match(arguments[0])):
            self.job = found[1]
            self.strike("log")
        elif event == "os.rename":
            path = os.fspath(arguments[1])
            if CHECKPOINT.search(path):
                self.checkpoint = path
            elif path.startswith("results/") and "/checkpoints/" not in path:
                self.strike("output")

    def strike(self, event: str) -> None:
        rule = self.job.split("/")[0]
        name = next((name for name in (self.job, rule) if name in self.plan["faults"]), None)
        fault = self.plan["faults"][name] if name else self.plan["others"]
        if not fault or fault["at"] != event:
            return
        self.done = True
        name = (name or rule).replace("/", ":")
        place = self.place(name, max(fault["places"]))
        if place not in fault["places"]:
            return
        # Whole as soon as it has its name.
        mark = Path(self.plan["folder"]) / f"{name}.{place}"
        beside = mark.with_name(f".{mark.name}.{os.getpid()}")
        beside.write_text(json.dumps({"pid": os.getpid(), "slurm_job": os.environ.get("SLURM_JOB_ID")}))
        beside.rename(mark)
        if fault["how"] == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault["how"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    def place(self, name: str, last: int) -> int | None:
        """Return this job's place, from 1, among those that have reached the event; None behind the last."""
        for place in range(1, last + 1):
            with contextlib.suppress(FileExistsError):
                (Path(self.plan["folder"]) / f".{name}.place{place}").touch(exist_ok=False)
                return place
        return None


if "FAULT_PLAN" in os.environ and (script := script_of_job()):
    sys.addaudithook(Fault(script, json.loads(Path(os.environ["FAULT_PLAN"]).read_text())))
