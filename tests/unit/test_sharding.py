"""Sharding: every row is in exactly one block, and blocks do not depend on the number of shards."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullseeker.data.row_counts import rows_at_least
from hullseeker.tables.parquet import write_table
from hullseeker.tables.sharding import blocks_of_shard, n_jobs


@given(st.integers(0, 200), st.integers(1, 20), st.integers(1, 12))
def test_every_row_is_in_one_block_that_does_not_depend_on_sharding(n_rows, block_size, n_shards):
    rows = list(range(n_rows))
    alone = blocks_of_shard(rows, block_size, 0, 1)
    shards = [block for shard in range(n_shards) for block in blocks_of_shard(rows, block_size, shard, n_shards)]
    assert sorted(map(tuple, shards)) == sorted(map(tuple, alone))
    assert sorted(row for block in shards for row in block) == rows


def test_a_shard_that_does_not_exist():
    with pytest.raises(ValueError, match="shard 2 of 2"):
        blocks_of_shard([1, 2], 1, 2, 2)


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(1, 70), st.integers(1, 1100))
def test_no_job_is_empty(n_rows, block_size, max_jobs):
    jobs = n_jobs(n_rows, block_size, max_jobs)
    assert 1 <= jobs <= max_jobs
    shards = [blocks_of_shard(range(n_rows), block_size, job, jobs) for job in range(jobs)]
    assert all(shards) or n_rows == 0
    assert jobs == max_jobs or len(shards[0]) <= 1


def test_ten_thousand_samples_at_1024_shards():
    assert n_jobs(10_000, 16, 1024) == 625


FRAME = '2\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3\nNa 0 0 0\nCl 1 1 1\n'


@pytest.mark.parametrize(
    ("name", "text", "n"),
    [
        ("a.csv", 'cif,id\n"data_a\n_cell 1\n",1\n\n"data_b, c",2\n', 2),
        ("a.csv", "cif\n", 1),
        ("a.csv", 'cif\n"never closed', 1),
        ("a.csv", "cif\r\nx\r\ny\r\nz", 3),
        ("a.extxyz", FRAME * 3, 3),
        ("a.xyz", "\ufeff" + FRAME, 1),
        ("a.extxyz", FRAME * 2 + FRAME[:-10].rpartition("\n")[0], 2),
        ("a.extxyz", FRAME + "two\n" + FRAME, 1),
        ("a.extxyz", "", 1),
        ("a.parquet", "no Parquet", 1),
        ("a.json", "[]", 1),
    ],
)
def test_rows_of_a_file_before_it_is_read(tmp_path, name, text, n):
    (tmp_path / name).write_text(text)
    assert rows_at_least(tmp_path / name) == n


def test_rows_of_tables_and_folders(tmp_path, rocksalt):
    assert rows_at_least(tmp_path) == rows_at_least(tmp_path / "missing.csv") == 1
    for n in range(3):
        (tmp_path / f"{n}.cif").touch()
    assert rows_at_least(tmp_path) == 3
    rows = [{"structure_id": str(i), "formula": "NaCl", **rocksalt} for i in range(5)]
    write_table(tmp_path / "materials.parquet", rows, "materials")
    assert rows_at_least(tmp_path / "materials.parquet") == 5
