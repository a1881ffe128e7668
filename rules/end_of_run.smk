# What a run says at its end: what failed, what was refused, and whether its files are there.
import atexit
import time

from hullseeker.workflow.failed_jobs import (
    error_lines,
    files_not_made,
    write_failed_jobs,
)

STARTED_S = time.time()


def tell_failed_jobs():
    """Keep what became of every job that Slurm saw fail, whether a retry made up for it or not."""
    table = Path(LOGS) / "failed_jobs.tsv"
    if n := write_failed_jobs(
        Path(".snakemake/log").glob("*.log"), config["experiment"], table
    ):
        print(
            f"{n} jobs failed on the way, tried again or not: {table}", file=sys.stderr
        )


def tell_refusals():
    """Print what was refused, left out or failed in the experiment so far, one line per kind with its list."""
    # Only here: it needs pyarrow, which every other read of the rules can do without.
    from hullseeker.report.refusals import lines_of_experiment

    if lines := lines_of_experiment(RESULTS, SYSTEMS, list(EVALUATORS)):
        print(
            "refused, left out or failed; the reasons stand in the lists:",
            *lines,
            sep="\n  ",
            file=sys.stderr,
        )


def tell_errors():
    """Print one sentence per failed job when all that Snakemake has to say stands above it."""
    failed = [
        (one.rule.name, list(one.log))
        for job in workflow.scheduler.failed
        for one in (job.jobs if job.is_group() else [job])
        if not job.is_group() or not all(Path(path).exists() for path in one.output)
    ]
    # The clocks of a cluster's machines differ by seconds.
    if lines := error_lines(failed, STARTED_S - 60):
        atexit.register(print, "\n".join(lines), file=sys.stderr, flush=True)


onsuccess:
    tell_failed_jobs()
    tell_refusals()
    if missing := files_not_made(workflow.dag.targetjobs):
        raise SystemExit(
            f"Snakemake called the run done, but {len(missing)} of its files were not made ({', '.join(missing[:5])}); "
            "run the same command again"
        )


onerror:
    tell_errors()
    tell_failed_jobs()
    tell_refusals()
