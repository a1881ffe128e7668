"""Plans of faults for jobs under test: which rules are struck, at which event, and how (faults/sitecustomize.py)."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# The log is opened; an output is whole and about to get its name; a training's checkpoint has its name.
EVENTS = ("log", "output", "checkpoint")
# Kill the job, kill it with the whole group of its Snakemake, or stop it until the test goes on with it.
WAYS = ("kill", "kill_all", "stop")


class FaultPlan:
    """A folder that holds the plan and, for every job that was struck, a file with its process.

    `faults` has for a rule, or for a job by its log without a suffix (relax_structures/sevennet/base-0), an event and a
    way, and the places of the jobs that are struck among those that reach the event: the first, unless it says others.
    `others` is for rules that are not in it.
    """

    def __init__(self, folder: Path, faults: Mapping[str, tuple], others: tuple | None = None):
        self.folder = folder / "struck"
        self.folder.mkdir(parents=True)
        self.path = folder / "plan.json"
        named = {name: self._fault(*fault) for name, fault in faults.items()}
        plan = {"folder": str(self.folder), "faults": named, "others": self._fault(*others) if others else None}
        self.path.write_text(json.dumps(plan))

    @staticmethod
    def _fault(at: str, how: str, places: tuple[int, ...] = (1,)) -> dict:
        assert at in EVENTS and how in WAYS
        return {"at": at, "how": how, "places": places}

    def environment(self, of: Mapping[str, str]) -> dict[str, str]:
        """Return the variables under which a process and its children follow this plan."""
        paths = [str(Path(__file__).parent / "faults"), of.get("PYTHONPATH", "")]
        return {**of, "FAULT_PLAN": str(self.path), "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def struck(self, place: int = 1) -> dict[str, dict]:
        """Return what was struck at a place by its name in the plan: the process and, under Slurm, the job."""
        marks = self.folder.glob(f"[!.]*.{place}")
        return {mark.stem.replace(":", "/"): json.loads(mark.read_text()) for mark in marks}

    def wait_for(self, name: str, is_running: Callable[[], bool], place: int = 1, at_most_s: float = 900) -> dict:
        """Wait until a rule or job is struck, and return its process; AssertionError where the run ends first.

        What is struck with `stop` stays as it is, so that how often this looks changes nothing.
        """
        deadline = time.monotonic() + at_most_s
        while name not in (struck := self.struck(place)):
            assert is_running(), f"{name} was not struck"
            assert time.monotonic() < deadline, f"{name} was not struck within {at_most_s} s"
            time.sleep(0.1)
        return struck[name]
