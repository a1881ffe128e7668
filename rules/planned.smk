# Inputs and numbers of jobs that are known only after a checkpoint has run.
import json

from hullseeker.tables.sharding import n_jobs


def n_jobs_planned(path):
    """Return the number of jobs that a plan.json states."""
    return json.loads(Path(path).read_text())["n_jobs"]


def relaxed_phases(wc):
    """Return the tables of phases: those of the cache, and those of each job; none with the database's energies."""
    if config["hull"]["reference"] == "mp":
        return []
    planned = checkpoints.plan_phase_relaxations.get(evaluator=wc.evaluator).output
    return [
        planned.known,
        *expand(
            f"{RESULTS}/data/relaxed_phases/{wc.evaluator}/{{shard}}.parquet",
            shard=range(n_jobs_planned(planned.plan)),
        ),
    ]


def reconstruction_shards(_):
    """Return the shards of CDVAE's reconstructions."""
    planned = checkpoints.plan_reconstructions.get().output
    return expand(
        f"{RESULTS}/reconstructions/shards/{{shard}}.parquet",
        shard=range(n_jobs_planned(planned.plan)),
    )


def n_candidate_shards(_):
    """Return how many jobs relax the candidates: at most one per block."""
    import pyarrow.parquet as pq

    (path,) = checkpoints.decorate_prototypes.get().output
    return n_jobs(
        pq.read_metadata(path).num_rows,
        RESOURCE_RELAX["block_size"],
        N_RESOURCE_SHARDS,
    )


def n_screen_shards(_):
    """Return how many jobs screen prototypes: at most one per formula of two or more elements."""
    import pyarrow.parquet as pq

    path = checkpoints.select_first_materials.get().output.materials
    rows = pq.read_table(path, columns=["formula", "atomic_numbers"]).to_pylist()
    formulas = {row["formula"] for row in rows if len(set(row["atomic_numbers"])) > 1}
    return n_jobs(len(formulas), 1, N_SCREEN_SHARDS)


def relaxed_candidates(wc):
    """Return the shards of relaxed candidates."""
    return expand(
        f"{BUILT}/relaxed/candidates-{{shard}}.parquet",
        shard=range(n_candidate_shards(wc)),
    )


def screen_shards(pattern):
    """Return an input function for the shards of the screening, by a pattern with {shard}."""
    return lambda wc: expand(pattern, shard=range(n_screen_shards(wc)))
