"""Which competing phases are relaxed, in which job, and the cache of what was relaxed before.

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

# Any change of what a relaxation yields must change this: it is part of the cache's name.
CACHE_VERSION = "2"
# These once gave numbers of elements that they were not trained on; what they said then is not read back.
CACHE_VERSIONS_OF_POTENTIALS = {"chgnet": "3", "uma": "3"}
TO_RELAX = SCHEMAS["phases_to_relax"]


def evaluator_name(settings: Mapping) -> str:
    """Return the name that the configured potential gives itself, without loading it."""
    return name_in_rows(settings["potential"], settings.get("model"))


def has_energy_of(row: Mapping, evaluator: str) -> bool:
    """Whether the row comes with an energy of this evaluator."""
    return row["energy_source"] == evaluator and row["energy_ev_per_atom"] is not None


def relaxation_cache(folder: str | Path, settings: Mapping) -> ContentCache:
    """Return the cache of relaxations with these settings, of how a job is cut up apart."""
    # Phases are relaxed from minima and are not rattled.
    unused = (*SETTINGS_OF_SHARDING, "batch_atoms", "device", "rattle_ang")
    method = {name: value for name, value in settings.items() if name not in unused}
    method |= {package: metadata.version(package) for package in ("ase", EVALUATORS[settings["potential"]].package)}
    evaluator = evaluator_name(settings)
    weights = Path(evaluator.partition(":")[2])
    method |= {"model": evaluator, "version": CACHE_VERSIONS_OF_POTENTIALS.get(settings["potential"], CACHE_VERSION)}
    method |= {"weights": sha256_of_file(weights) if weights.is_file() else None}
    columns = [field for field in SCHEMAS["relaxed"] if field.name != "structure_id"]
    name = evaluator.replace("/", "_").replace(":", "-")
    return ContentCache(Path(folder) / f"{name}-{sha256_of_json(method)[:12]}", columns)


def ids_by_content(rows: Iterable[Mapping]) -> dict[str, list[str]]:
    """Return the structure ids of each crystal by its content key: one crystal may have several."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(content_key(row), []).append(row["structure_id"])
    return found


def rows_together(settings: Mapping) -> int:
    """Return how many crystals share a batch: one, as results depend, in the last digits, on what shares the batch.

    The engine torch_sim is for many at once, and takes them so.
    """
    return settings["block_size"] if settings["engine"] == "torch_sim" else 1


def dealt(rows: Iterable[Mapping], together: int, phases_per_job: int, most_jobs: int) -> list[list[Mapping]]:
    """Return the rows of each job (rows of `phases_to_relax`); none where there is no row.

    Blocks of rows that are relaxed together depend on neither the order of the rows nor the number of jobs. The largest
    cells, which cost most, come first, so that jobs are of like length.
    """
    ordered = sorted(rows, key=lambda row: (-len(row["atomic_numbers"]), row[KEY]))
    if not ordered:
        return []
    jobs = n_jobs(len(ordered), max(together, phases_per_job), most_jobs)
    return [[row for block in blocks_of_shard(ordered, together, job, jobs) for row in block] for job in range(jobs)]


def write_jobs(path: str | Path, jobs: Sequence[Sequence[Mapping]], about: Mapping[str, str]) -> None:
    """Write the rows of all jobs to one Parquet file, a row group a job, so that a job reads its own rows alone."""
    schema = TO_RELAX.with_metadata({"schema_name": "phases_to_relax", **about})
    with replacing(path) as beside, pq.ParquetWriter(beside, schema, compression="zstd") as writer:
        for rows in jobs:
            writer.write_table(pa.Table.from_pylist(list(rows), schema=schema), row_group_size=len(rows))


def read_job(path: str | Path, job: int) -> tuple[list[dict], dict[str, str]]:
    """Return the rows of one job and what the file's metadata say; TableError where the file is not of these jobs."""
    try:
        with pq.ParquetFile(path) as file:
            rows = file.read_row_group(job, columns=[KEY, "structure_ids", *COLUMNS]).to_pylist()
            return rows, {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
    except (pa.ArrowException, OSError, IndexError) as error:
        raise TableError(
            f"{path} has no rows of job {job} that can be read ({str(error).splitlines()[0]}); delete it and run again"
        ) from None


def known_relaxations(ids: Mapping[str, Sequence[str]], cached: pa.Table) -> pa.Table:
    """Return a `relaxed` table of every id whose crystal is in a table from the cache, sorted by id."""
    places = [(name, i) for i, key in enumerate(cached.column(KEY).to_pylist()) for name in ids[key]]
    places.sort()
    table = cached.take(pa.array([i for _, i in places], pa.int64())).drop_columns(KEY)
    table = table.append_column("structure_id", pa.array([name for name, _ in places], pa.string()))
    return table.select(SCHEMAS["relaxed"].names)
