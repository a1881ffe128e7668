# Report at the end of a run which jobs failed, which rows were refused, and which files are missing.
import atexit
import time

from hullseeker.workflow.failed_jobs import (
    error_lines,
    files_not_made,
    write_failed_jobs,
)

STARTED_S = time.time()


def report_failed_jobs():
    """Write a table of all Slurm jobs that failed, including those that succeeded when tried again."""
    table = Path(LOGS) / "failed_jobs.tsv"
    if n := write_failed_jobs(
        Path(".snakemake/log").glob("*.log"), config["experiment"], table
    ):
        print(
            f"{n} jobs failed, including those that succeeded when tried again: {table}",
            file=sys.stderr,
        )


def report_refusals():
    """Print what was refused, left out or failed in the experiment so far: one line per kind, with the list's path."""
    # Imported here, since it needs pyarrow, which is slow to import.
    from hullseeker.report.refusals import lines_of_experiment

    if lines := lines_of_experiment(RESULTS, SYSTEMS, list(EVALUATORS)):
        print(
            "refused, left out or failed (reasons are in the listed files):",
            *lines,
            sep="\n  ",
            file=sys.stderr,
        )


def report_errors():
    """Print one sentence per failed job, below all of Snakemake's own output."""
    failed = [
        (member.rule.name, list(member.log))
        for job in workflow.scheduler.failed
        for member in (job.jobs if job.is_group() else [job])
        if not job.is_group() or not all(Path(path).exists() for path in member.output)
    ]
    # A minute earlier, since the clocks of a cluster's machines differ.
    if lines := error_lines(failed, STARTED_S - 60):
        atexit.register(print, "\n".join(lines), file=sys.stderr, flush=True)


onsuccess:
    report_failed_jobs()
    report_refusals()
    if missing := files_not_made(workflow.dag.targetjobs):
        raise SystemExit(
            f"Snakemake reports success, but {len(missing)} output files are missing ({', '.join(missing[:5])}); "
            "run the same command again"
        )


onerror:
    report_errors()
    report_failed_jobs()
    report_refusals()
