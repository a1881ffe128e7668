"""Plan which jobs of a test run are killed or stopped, and at which event; faults/sitecustomize.py carries it out."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# The job opens its log; it is about to rename a finished output; a training has written a checkpoint.
EVENTS = ("log", "output", "checkpoint")
# Kill the job; kill the process group of its Snakemake; or stop the job until the test resumes it.
ACTIONS = ("kill", "kill_all", "stop")


class FaultPlan:
    """A folder with the plan and, for every job that was hit by a fault, a file with its process id.

    `faults` maps a rule, or a job by its log without suffix (relax_structures/sevennet/base-0), to an event, an action
    and optionally the positions of the affected jobs among those that reach the event (default: the first).
    `default` applies to all other rules.
    """

    def __init__(self, folder: Path, faults: Mapping[str, tuple], default: tuple | None = None):
        self.folder = folder / "triggered"
        self.folder.mkdir(parents=True)
        self.path = folder / "plan.json"
        by_name = {name: self._fault(*fault) for name, fault in faults.items()}
        plan = {"folder": str(self.folder), "faults": by_name, "default": self._fault(*default) if default else None}
        self.path.write_text(json.dumps(plan))

    @staticmethod
    def _fault(event: str, action: str, positions: tuple[int, ...] = (1,)) -> dict:
        assert event in EVENTS and action in ACTIONS
        return {"event": event, "action": action, "positions": positions}

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return environment variables with which a process and its children follow this plan."""
        paths = [str(Path(__file__).parent / "faults"), base.get("PYTHONPATH", "")]
        return {**base, "FAULT_PLAN": str(self.path), "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def triggered(self, position: int = 1) -> dict[str, dict]:
        """Return the process id and Slurm job of each job hit by a fault at a position, by its name in the plan."""
        marks = self.folder.glob(f"[!.]*.{position}")
        return {mark.stem.replace(":", "/"): json.loads(mark.read_text()) for mark in marks}

    def wait_for(self, name: str, is_running: Callable[[], bool], position: int = 1, at_most_s: float = 900) -> dict:
        """Wait until a rule or job is hit by a fault; return its process. Raises AssertionError if the run ends first.

        A stopped job stays stopped, so the polling interval does not matter.
        """
        deadline = time.monotonic() + at_most_s
        while name not in (triggered := self.triggered(position)):
            assert is_running(), f"the run ended before the fault of {name}"
            assert time.monotonic() < deadline, f"no fault of {name} within {at_most_s} s"
            time.sleep(0.1)
        return triggered[name]
