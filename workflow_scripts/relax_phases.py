"""Relax one shard of the competing phases with the evaluator, each once: what was relaxed before is read back."""

import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

from hullseeker.content_cache import ContentCache
from hullseeker.evaluators import EVALUATORS, load_engine, name_in_rows
from hullseeker.logs import close_with_counts, logging_to, progress
from hullseeker.potentials import load_potential
from hullseeker.provenance import describe_run, sha256_of_file, sha256_of_json
from hullseeker.sharding import blocks_of_shard
from hullseeker.structures import content_key, to_atoms
from hullseeker.tables import SCHEMAS, read_table, write_table
from relax_structures import SETTINGS_OF_LOADING, SETTINGS_OF_SHARDING, relax_settings, relaxed_row

ROWS_PER_SAVE = 20
# Other failures may be the machine's; they are tried again.
KEPT_STATUSES = ("ok", "not_converged")
# Any change of what a relaxation yields must change this: it is part of the cache's name.
CACHE_VERSION = "2"


def evaluator_name(settings: Mapping) -> str:
    """Return the name that the configured potential gives itself, without loading it."""
    return name_in_rows(settings["potential"], settings.get("model"))


def has_energy_of(row: Mapping, evaluator: str) -> bool:
    """Whether the row comes with an energy of this evaluator."""
    return row["energy_source"] == evaluator and row["energy_ev_per_atom"] is not None


def relaxation_cache(folder: str | Path, settings: Mapping) -> ContentCache:
    """Return the cache of relaxations with these settings, of how a job is cut up apart."""
    unused = (*SETTINGS_OF_SHARDING, "batch_atoms", "device", "rattle_ang")  # phases are minima: never rattled
    method = {name: value for name, value in settings.items() if name not in unused}
    method |= {package: metadata.version(package) for package in ("ase", EVALUATORS[settings["potential"]].package)}
    evaluator = evaluator_name(settings)
    weights = Path(evaluator.partition(":")[2])
    method |= {"model": evaluator, "version": CACHE_VERSION}
    method |= {"weights": sha256_of_file(weights) if weights.is_file() else None}
    columns = [field for field in SCHEMAS["relaxed"] if field.name != "structure_id"]
    name = evaluator.replace("/", "_").replace(":", "-")
    return ContentCache(Path(folder) / f"{name}-{sha256_of_json(method)[:12]}", columns)


def rows_of_shard(rows: Sequence[Mapping], shard: int, n_shards: int) -> dict[str, list[str]]:
    """Return the ids of this shard by content: the same crystal is in one shard whatever its ids."""
    by_key: dict[str, list[str]] = {}
    for row in rows:
        key = content_key(row)
        if int(key, 16) % n_shards == shard:
            by_key.setdefault(key, []).append(row["structure_id"])
    return by_key


def relax_each(rows: Mapping[str, Mapping], cache: ContentCache, settings: Mapping, log) -> dict[str, dict]:
    """Return the relaxed columns of rows by content key, from the cache where it has them.

    One crystal at a time: batched results depend, in the last digits, on what shares the batch, and which phases
    are needed depends on the samples. The engine torch_sim is for many at once, and takes them so here too.
    """
    found = cache.load(rows)
    missing = {key: row for key, row in rows.items() if key not in found}
    log.info("%d crystals, %d of them relaxed before", len(rows), len(rows) - len(missing))
    if not missing:
        return found
    potential = load_potential(*(settings.get(name) for name in SETTINGS_OF_LOADING))
    n_together = settings["block_size"] if settings["engine"] == "torch_sim" else 1
    blocks = blocks_of_shard(list(missing), n_together, 0, 1)
    relax, method = load_engine(settings["engine"]), relax_settings(settings)
    unsaved: dict[str, dict] = {}
    for n, keys in enumerate(progress(blocks, "relaxing competing phases"), start=1):
        outcomes = relax(potential, [to_atoms(missing[key]) for key in keys], method)
        for key, outcome in zip(keys, outcomes, strict=True):
            columns = relaxed_row(missing[key], outcome, method.symmetry_tolerance_ang)
            found[key] = {**columns, "potential": potential.name}
            if found[key]["status"] in KEPT_STATUSES:
                unsaved[key] = found[key]
        n_done = min(n * n_together, len(missing))
        if len(unsaved) >= ROWS_PER_SAVE or n_done == len(missing):
            cache.save(unsaved)
            unsaved = {}
            log.info("%d of %d", n_done, len(missing))
    return found


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, params = dict(snakemake.params.relax), snakemake.params
    with logging_to(snakemake.log[0], "relax_phases") as log:
        evaluator = evaluator_name(settings)
        phases = read_table(snakemake.input.phases, "materials").to_pylist()
        rows = {row["structure_id"]: row for row in phases if not has_energy_of(row, evaluator)}
        by_key = rows_of_shard(list(rows.values()), int(snakemake.wildcards.shard), params.n_shards)
        cache = relaxation_cache(params.cache_dir, settings)
        found = relax_each({key: rows[ids[0]] for key, ids in by_key.items()}, cache, settings, log)
        relaxed = [{**found[key], "structure_id": name} for key, ids in by_key.items() for name in ids]
        write_table(snakemake.output[0], relaxed, "relaxed", describe_run(settings, [snakemake.input.phases]))
        close_with_counts(log, (row["status"] for row in relaxed), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
