"""Kill or stop a job at a given event. Python imports this file at startup when its folder is on PYTHONPATH.

FAULT_PLAN is the path of a JSON file written by fault_plan.py: a folder, and an event and an action per rule or job.
Of each rule the first job that reaches its event is affected, or those at the positions in the plan. Events depend only
on what the job does, not on timing.
"""

import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path

# A job is identified by its log, <rule>/<wildcards>.
LOG = re.compile(r"logs/[^/]+/(.+)\.log")
# A training's checkpoint is complete when this file exists.
CHECKPOINT = re.compile(r"checkpoint-\d+/manifest\.json|checkpoints/cdvae/training\.safetensors")


def script_of_job() -> str | None:
    """Return the name of the rule script in this process; of a training in several processes, only in rank 0."""
    for word in sys.orig_argv:
        if "/.snakemake/scripts/" in word:
            return Path(word).name.split(".")[1]
        if os.environ.get("RANK") == "0" and re.fullmatch(r"train_\w+\.py", Path(word).name):
            return Path(word).stem
    return None


class Fault:
    """An audit hook that detects when a job opens its log, wrote a checkpoint, or is about to rename an output."""

    def __init__(self, script: str, plan: dict):
        self.job = script
        self.plan = plan
        self.checkpoint: str | None = None
        self.done = False

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.done:
            return
        if self.checkpoint and os.path.exists(self.checkpoint):
            self.trigger("checkpoint")
        elif event == "open" and isinstance(arguments[0], str) and (match := LOG.match(arguments[0])):
            self.job = match[1]
            self.trigger("log")
        elif event == "os.rename":
            path = os.fspath(arguments[1])
            if CHECKPOINT.search(path):
                self.checkpoint = path
            elif path.startswith("results/") and "/checkpoints/" not in path:
                self.trigger("output")

    def trigger(self, event: str) -> None:
        rule = self.job.split("/")[0]
        name = next((name for name in (self.job, rule) if name in self.plan["faults"]), None)
        fault = self.plan["faults"][name] if name else self.plan["default"]
        if not fault or fault["event"] != event:
            return
        self.done = True
        name = (name or rule).replace("/", ":")
        position = self.position(name, max(fault["positions"]))
        if position not in fault["positions"]:
            return
        # Renamed when complete, so that a test never reads a partial file.
        mark = Path(self.plan["folder"]) / f"{name}.{position}"
        temporary = mark.with_name(f".{mark.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"pid": os.getpid(), "slurm_job": os.environ.get("SLURM_JOB_ID")}))
        temporary.rename(mark)
        if fault["action"] == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault["action"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    def position(self, name: str, last: int) -> int | None:
        """Return the position of this job, from 1, among those that have reached the event; None after `last`."""
        for position in range(1, last + 1):
            with contextlib.suppress(FileExistsError):
                (Path(self.plan["folder"]) / f".{name}.position{position}").touch(exist_ok=False)
                return position
        return None


if "FAULT_PLAN" in os.environ and (script := script_of_job()):
    sys.addaudithook(Fault(script, json.loads(Path(os.environ["FAULT_PLAN"]).read_text())))
