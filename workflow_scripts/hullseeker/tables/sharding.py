"""Split rows into fixed blocks and the blocks into shards, so that batches do not depend on the number of shards.

Needs: the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Row = TypeVar("Row")

# The settings of an evaluator that determine its shards and blocks.
SETTINGS_OF_SHARDING = ("n_shards", "block_size")


def n_jobs(n_rows: int, rows_per_job: int, max_jobs: int) -> int:
    """Return the number of jobs for `n_rows` rows: one per `rows_per_job` rows, between 1 and `max_jobs`.

    With blocks of at most `rows_per_job` rows, `blocks_of_shard` gives every job a row, if there are any.
    """
    return max(1, min(max_jobs, -(-n_rows // rows_per_job)))


def blocks_of_shard(rows: Sequence[Row], block_size: int, shard: int, n_shards: int) -> list[Sequence[Row]]:
    """Return the blocks of `block_size` consecutive rows that belong to shard `shard` of `n_shards`.

    Results of batched floating-point operations depend, in the last digits, on the other items of the batch. Batches
    are therefore made within blocks, which depend on row numbers only; a shard takes every `n_shards`-th block.
    """
    if not 0 <= shard < n_shards:
        raise ValueError(f"shard {shard} of {n_shards} does not exist; shards are numbered from 0")
    blocks = [rows[i : i + block_size] for i in range(0, len(rows), block_size)]
    return blocks[shard::n_shards]
