"""Relaxation of competing phases: their cache, and their distribution to jobs.

Needs: numpy, ase, pymatgen, pyarrow; no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hullseeker.potentials.registry import EVALUATORS, name_in_rows
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.provenance import sha256_of_file, sha256_of_json
from hullseeker.tables.content_cache import KEY, ContentCache
from hullseeker.tables.parquet import TableError
from hullseeker.tables.schemas import SCHEMAS
from hullseeker.tables.sharding import SETTINGS_OF_SHARDING, blocks_of_shard, n_jobs
from hullseeker.tables.structures import COLUMNS, content_key

# Part of the cache's name; must change whenever the results of a relaxation change.
CACHE_VERSION = "2"
# Excludes older caches of these potentials, which have energies of elements that they were not trained on.
CACHE_VERSIONS_OF_POTENTIALS = {"chgnet": "3", "uma": "3"}
TO_RELAX = SCHEMAS["phases_to_relax"]


def evaluator_name(settings: Mapping) -> str:
    """Return the name in tables of the configured potential, without loading it."""
    return name_in_rows(settings["potential"], settings.get("model"))


def has_energy_of(row: Mapping, evaluator: str) -> bool:
    """Return whether the row has an energy of this evaluator."""
    return row["energy_source"] == evaluator and row["energy_ev_per_atom"] is not None


def relaxation_cache(folder: str | Path, settings: Mapping, seed: int = 0) -> ContentCache:
    """Return the cache of relaxations with these settings; sharding, batch size and device do not matter.

    The seed matters only if phases are settled.
    """
    # Phases start from minima and are not rattled.
    unused = (*SETTINGS_OF_SHARDING, "batch_atoms", "device", "rattle_ang", "settle")
    method = {name: value for name, value in settings.items() if name not in unused}
    if settings["settle"]["max_rounds"]:
        method |= {"settle": settings["settle"], "seed": seed}
    method |= {package: metadata.version(package) for package in ("ase", EVALUATORS[settings["potential"]].package)}
    evaluator = evaluator_name(settings)
    weights = Path(evaluator.partition(":")[2])
    method |= {"model": evaluator, "version": CACHE_VERSIONS_OF_POTENTIALS.get(settings["potential"], CACHE_VERSION)}
    method |= {"weights": sha256_of_file(weights) if weights.is_file() else None}
    columns = [field for field in SCHEMAS["relaxed"] if field.name != "structure_id"]
    name = evaluator.replace("/", "_").replace(":", "-")
    return ContentCache(Path(folder) / f"{name}-{sha256_of_json(method)[:12]}", columns)


def ids_by_content(rows: Iterable[Mapping]) -> dict[str, list[str]]:
    """Return the structure ids by content key; duplicates of a crystal share a key."""
    ids: dict[str, list[str]] = {}
    for row in rows:
        ids.setdefault(content_key(row), []).append(row["structure_id"])
    return ids


def relaxation_block_size(settings: Mapping) -> int:
    """Return the number of crystals per block: `block_size` for the engine torch_sim, else 1.

    Results of batched relaxations depend, in the last digits, on the other crystals of the block; torch_sim is
    efficient for large batches only.
    """
    return settings["block_size"] if settings["engine"] == "torch_sim" else 1


def split_into_jobs(
    rows: Iterable[Mapping], block_size: int, phases_per_job: int, max_jobs: int
) -> list[list[Mapping]]:
    """Return the rows (of `phases_to_relax`) of each job; an empty list without rows.

    The blocks of rows that are relaxed together depend neither on the order of the rows nor on the number of jobs. Rows
    are sorted by decreasing cell size, which balances the run times of the jobs.
    """
    ordered = sorted(rows, key=lambda row: (-len(row["atomic_numbers"]), row[KEY]))
    if not ordered:
        return []
    count = n_jobs(len(ordered), max(block_size, phases_per_job), max_jobs)
    jobs = (blocks_of_shard(ordered, block_size, job, count) for job in range(count))
    return [[row for block in blocks for row in block] for blocks in jobs]


def write_jobs(path: str | Path, jobs: Sequence[Sequence[Mapping]], metadata: Mapping[str, str]) -> None:
    """Write the rows of all jobs to one Parquet file, one row group per job, so that a job can read just its rows."""
    schema = TO_RELAX.with_metadata({"schema_name": "phases_to_relax", **metadata})
    with replacing(path) as beside, pq.ParquetWriter(beside, schema, compression="zstd") as writer:
        for rows in jobs:
            writer.write_table(pa.Table.from_pylist(list(rows), schema=schema), row_group_size=len(rows))


def read_job(path: str | Path, job: int) -> tuple[list[dict], dict[str, str]]:
    """Return the rows of one job and the file's metadata; raises TableError if the file has no such job."""
    try:
        with pq.ParquetFile(path) as file:
            rows = file.read_row_group(job, columns=[KEY, "structure_ids", *COLUMNS]).to_pylist()
            return rows, {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
    except (pa.ArrowException, OSError, IndexError) as error:
        raise TableError(
            f"{path} has no readable rows of job {job} ({str(error).splitlines()[0]}); delete it and run again"
        ) from None


def known_relaxations(ids: Mapping[str, Sequence[str]], cached: pa.Table) -> pa.Table:
    """Return the `relaxed` table, sorted by id, of all structure ids whose crystal is in `cached`."""
    indices = [(name, i) for i, key in enumerate(cached.column(KEY).to_pylist()) for name in ids[key]]
    indices.sort()
    table = cached.take(pa.array([i for _, i in indices], pa.int64())).drop_columns(KEY)
    table = table.append_column("structure_id", pa.array([name for name, _ in indices], pa.string()))
    return table.select(SCHEMAS["relaxed"].names)
