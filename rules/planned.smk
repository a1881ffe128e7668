# How many jobs there are where only a checkpoint can say.
import json

from hullseeker.tables.sharding import n_jobs


def n_jobs_planned(path):
    return json.loads(Path(path).read_text())["n_jobs"]


def relaxed_phases(wc):
    """The phases that were relaxed before, and those of each job that relaxes the others; none where none must be."""
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


def reconstructed(_):
    """The shards of reconstructions by CDVAE."""
    planned = checkpoints.plan_reconstructions.get().output
    return expand(
        f"{RESULTS}/reconstructions/shards/{{shard}}.parquet",
        shard=range(n_jobs_planned(planned.plan)),
    )


def candidates_shards(_):
    """The jobs that relax candidates: no more than there are blocks of them."""
    import pyarrow.parquet as pq

    (path,) = checkpoints.decorate_prototypes.get().output
    return n_jobs(
        pq.read_metadata(path).num_rows,
        RESOURCE_RELAX["block_size"],
        N_RESOURCE_SHARDS,
    )


def screened_shards(_):
    """The jobs that screen prototypes: no more than there are formulas of two elements and more."""
    import pyarrow.parquet as pq

    path = checkpoints.select_first_materials.get().output.materials
    rows = pq.read_table(path, columns=["formula", "atomic_numbers"]).to_pylist()
    formulas = {row["formula"] for row in rows if len(set(row["atomic_numbers"])) > 1}
    return n_jobs(len(formulas), 1, N_SCREEN_SHARDS)


def relaxed_candidates(wc):
    return expand(
        f"{BUILT}/relaxed/candidates-{{shard}}.parquet",
        shard=range(candidates_shards(wc)),
    )


def screened(pattern):
    """The shards of what was screened."""
    return lambda wc: expand(pattern, shard=range(screened_shards(wc)))
