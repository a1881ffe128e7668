"""Fixed blocks of rows, dealt to shards whole: what is computed together does not depend on the number of shards.

Needs: the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Row = TypeVar("Row")

# The keys of an evaluator's settings that say how its work is cut up.
SETTINGS_OF_SHARDING = ("n_shards", "block_size")


def n_jobs(n_rows: int, rows_per_job: int, most: int) -> int:
    """Return in how many jobs rows are computed: one for each `rows_per_job` of them, from one to `most`.

    Dealt by `blocks_of_shard`, in blocks of at most `rows_per_job` rows, no job is empty unless there is no row.
    """
    return max(1, min(most, -(-n_rows // rows_per_job)))


def blocks_of_shard(rows: Sequence[Row], block_size: int, shard: int, n_shards: int) -> list[Sequence[Row]]:
    """Return the blocks of `block_size` consecutive rows that belong to shard `shard` of `n_shards`.

    Batched floating-point results depend, in the last digits, on what shares the batch. Batches are
    therefore made of blocks, and blocks of row numbers; a shard takes every `n_shards`-th block.
    """
    if not 0 <= shard < n_shards:
        raise ValueError(f"shard {shard} of {n_shards} does not exist; shards count from 0")
    blocks = [rows[i : i + block_size] for i in range(0, len(rows), block_size)]
    return blocks[shard::n_shards]
