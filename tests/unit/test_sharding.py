"""Blocks: every row once, and the same company whatever the number of shards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullseeker.sharding import blocks_of_shard


@given(st.integers(0, 200), st.integers(1, 20), st.integers(1, 12))
def test_every_row_is_in_one_block_that_does_not_depend_on_sharding(n_rows, block_size, n_shards):
    rows = list(range(n_rows))
    alone = blocks_of_shard(rows, block_size, 0, 1)
    dealt = [block for shard in range(n_shards) for block in blocks_of_shard(rows, block_size, shard, n_shards)]
    assert sorted(map(tuple, dealt)) == sorted(map(tuple, alone))
    assert sorted(row for block in dealt for row in block) == rows


def test_a_shard_that_does_not_exist():
    with pytest.raises(ValueError, match="shard 2 of 2"):
        blocks_of_shard([1, 2], 1, 2, 2)
