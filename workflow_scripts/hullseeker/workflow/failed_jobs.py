"""Report failed jobs: those of this run in one sentence each, those of all runs on Slurm in a table.

Needs: tqdm (through logs.py). The log of a rule is overwritten by each attempt; the table records the earlier ones.
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
# For a job group, Snakemake prints no state, and the Slurm job only in the name of the log file.
_GROUP = re.compile(r"\s+message: Error in group \S+\n\s+log: (\S*?/(\d+)\.log)")
_STATES_OF_LOG = {
    "OUT_OF_MEMORY": re.compile(r"oom.?kill|out of memory|exceeded memory limit", re.IGNORECASE),
    "TIMEOUT": re.compile("CANCELLED AT .* DUE TO TIME LIMIT"),
    "NODE_FAIL": re.compile("CANCELLED AT .* DUE TO NODE FAILURE"),
    "CANCELLED": re.compile("CANCELLED AT"),
}
_LOGS = re.compile(r"\s{4}log: (.*) \(check log")


def failed_jobs(log: str, experiment: str) -> list[dict[str, str]]:
    """Parse a Snakemake log and return one row per failed Slurm job of an experiment, in order."""
    rows = []
    for block in re.split(r"\n(?=\[\w{3} \w{3} +\d+ [\d:]+ \d{4}\]\n)", log):
        job_and_state = _job_and_state(block)
        if not job_and_state or f"results/{experiment}/" not in block:
            continue
        lines = block.splitlines()
        time = _TIME.match(lines[0])
        rules = dict.fromkeys(match[1] for line in lines if (match := _RULE.match(line)))
        logs = [match[1] for line in lines if (match := _LOGS.match(line))]
        row = (time[1] if time else "", *job_and_state, " ".join(rules), " ".join(logs).replace(",", ""))
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def _job_and_state(block: str) -> tuple[str, str] | None:
    """Return the Slurm job id and state of a failed job; for a group, FAILED unless its log shows another state."""
    if failed := _FAILED.search(block):
        return failed[1], failed[2]
    if group := _GROUP.search(block):
        log = Path(group[1])
        # With --show-failed-logs the block itself contains the log.
        text = log.read_text(errors="replace") if log.is_file() else block
        return group[2], next((state for state, pattern in _STATES_OF_LOG.items() if pattern.search(text)), "FAILED")
    return None


def write_failed_jobs(logs: Iterable[Path], experiment: str, path: Path) -> int:
    """Write the table of failed jobs in all these logs, oldest first, if there are any; return their number."""
    rows = [row for log in sorted(logs) for row in failed_jobs(log.read_text(errors="replace"), experiment)]
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.part")
        with open(temporary, "w", newline="") as handle:
            writer = csv.DictWriter(handle, COLUMNS, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(path)
    return len(rows)


def error_lines(failed: Iterable[tuple[str, Sequence[str | Path]]], started_s: float) -> list[str]:
    """Return one sentence per failed job, given as (rule, logs): the error in its log, and the path of the log.

    Logs older than `started_s` (seconds since the epoch) belong to earlier runs. Jobs of a rule with the same error
    share a line.
    """
    logs_by_error: dict[tuple[str, str], list[str]] = {}
    for rule, logs in failed:
        fresh = [str(log) for log in logs if Path(log).is_file() and Path(log).stat().st_mtime >= started_s]
        log_and_error = next(((log, error) for log in fresh if (error := error_in_log(log))), None)
        if log_and_error:
            log, error = log_and_error
        else:
            log = ", ".join(fresh or map(str, logs)) or "Snakemake's own"
            error = "it ended without an error message: killed, or out of memory or time"
        logs_by_error.setdefault((rule, error), []).append(log)
    return [
        f"{rule} failed{f' ({len(logs)} jobs)' if len(logs) > 1 else ''}: {error}; log: {logs[0]}"
        for (rule, error), logs in logs_by_error.items()
    ]


def files_not_made(target_jobs: Iterable) -> list[str]:
    """Return the requested files that do not exist; Snakemake may report such a run as complete.

    For a rule without output, such as `all`, these are its inputs. Temporary files are not counted as missing.
    """
    return [
        str(path)
        for job in target_jobs
        for path in (job.output or job.input)
        if path not in job.temp_output and not Path(path).exists()
    ]
