"""Fixed blocks of rows, dealt to shards whole: what is computed together does not depend on the number of shards.

Needs: the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Row = TypeVar("Row")


def blocks_of_shard(rows: Sequence[Row], block_size: int, shard: int, n_shards: int) -> list[Sequence[Row]]:
    """Return the blocks of `block_size` consecutive rows that belong to shard `shard` of `n_shards`.

    Batched floating-point results depend, in the last digits, on what shares the batch. Batches are
    therefore made of blocks, and blocks of row numbers; a shard takes every `n_shards`-th block.
    """
    if not 0 <= shard < n_shards:
        raise ValueError(f"shard {shard} of {n_shards} does not exist; shards count from 0")
    blocks = [rows[i : i + block_size] for i in range(0, len(rows), block_size)]
    return blocks[shard::n_shards]
