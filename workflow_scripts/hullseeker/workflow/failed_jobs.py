"""Which jobs failed and why: of this run in a sentence each, of all runs of an experiment as Slurm saw them.

Needs: tqdm (through logs.py). A rule's own log is that of its last try; the table of failed jobs is what remains of the
others.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hullseeker.runtime.logs import error_in_log

COLUMNS = ("time", "slurm_job", "state", "rules", "logs")
_TIME = re.compile(r"\[(\w{3} \w{3} +\d+ [\d:]+ \d{4})\]$")
_RULE = re.compile(r"(?:Error in |\s{8})rule (\w+):$")
_FAILED = re.compile(r"\s+message: SLURM-job '(\d+)' failed.*?SLURM status is: '(\w+)", re.DOTALL)
# Of a group Snakemake names no state, and no job but in the name of its log.
_GROUP = re.compile(r"\s+message: Error in group \S+\n\s+log: (\S*?/(\d+)\.log)")
_STATES_OF_LOG = {
    "OUT_OF_MEMORY": re.compile(r"oom.?kill|out of memory|exceeded memory limit", re.IGNORECASE),
    "TIMEOUT": re.compile("CANCELLED AT .* DUE TO TIME LIMIT"),
    "NODE_FAIL": re.compile("CANCELLED AT .* DUE TO NODE FAILURE"),
    "CANCELLED": re.compile("CANCELLED AT"),
}
_LOGS = re.compile(r"\s{4}log: (.*) \(check log")


def failed_jobs(log: str, experiment: str) -> list[dict[str, str]]:
    """Return a row per failed Slurm job of an experiment in the text of a Snakemake log, in order."""
    rows = []
    for block in re.split(r"\n(?=\[\w{3} \w{3} +\d+ [\d:]+ \d{4}\]\n)", log):
        failed = _job_and_state(block)
        if not failed or f"results/{experiment}/" not in block:
            continue
        lines = block.splitlines()
        time = _TIME.match(lines[0])
        rules = dict.fromkeys(found[1] for line in lines if (found := _RULE.match(line)))
        logs = [found[1] for line in lines if (found := _LOGS.match(line))]
        row = (time[1] if time else "", *failed, " ".join(rules), " ".join(logs).replace(",", ""))
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def _job_and_state(block: str) -> tuple[str, str] | None:
    """Return which Slurm job an error is of, and its state; of a group, FAILED where its log tells no other."""
    if failed := _FAILED.search(block):
        return failed[1], failed[2]
    if group := _GROUP.search(block):
        log = Path(group[1])
        told = (
            log.read_text(errors="replace") if log.is_file() else block
        )  # where Snakemake shows logs, it is in the block
        return group[2], next((state for state, words in _STATES_OF_LOG.items() if words.search(told)), "FAILED")
    return None


def write_failed_jobs(logs: Iterable[Path], experiment: str, path: Path) -> int:
    """Write the table of all these logs, oldest first, where any job failed; return how many did."""
    rows = [row for log in sorted(logs) for row in failed_jobs(log.read_text(errors="replace"), experiment)]
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.part")
        with open(beside, "w", newline="") as handle:
            writer = csv.DictWriter(handle, COLUMNS, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        beside.replace(path)
    return len(rows)


def error_lines(failed: Iterable[tuple[str, Sequence[str | Path]]], started_s: float) -> list[str]:
    """Return one sentence per failed job, given as its rule and logs: the error in its log, and where that lies.

    A log older than `started_s` (seconds since the epoch) is of an earlier run. Jobs that failed alike share a line.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for rule, logs in failed:
        fresh = [str(log) for log in logs if Path(log).is_file() and Path(log).stat().st_mtime >= started_s]
        found = next(((log, words) for log in fresh if (words := error_in_log(log))), None)
        if found:
            log, words = found
        else:
            log = ", ".join(fresh or map(str, logs)) or "Snakemake's own"
            words = "it ended without naming an error: killed, or out of memory or time"
        alike.setdefault((rule, words), []).append(log)
    return [
        f"{rule} failed{f' ({len(logs)} jobs)' if len(logs) > 1 else ''}: {words}; log: {logs[0]}"
        for (rule, words), logs in alike.items()
    ]


def files_not_made(target_jobs: Iterable) -> list[str]:
    """Return the files that a run was asked for and are not there; Snakemake may call such a run done.

    Of a rule without output, as `all`, its inputs are what was asked for. A file that was temporary is not missed.
    """
    return [
        str(path)
        for job in target_jobs
        for path in (job.output or job.input)
        if path not in job.temp_output and not Path(path).exists()
    ]
