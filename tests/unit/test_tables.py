"""Tables: schemas are enforced, writes are whole, merging refuses what is not the parent's."""

import errno
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hullseeker.tables import TableError, check_children, merge_tables, read_table, replacing, write_table


def sample(i, **columns):
    return {"structure_id": f"s-{i:03d}", "status": "parse_failed", "error": "why", "system": "s", **columns}


def test_round_trip_sorts_and_keeps_provenance(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, [sample(2), sample(0), sample(1)], "samples", {"seed": "7"})
    table = read_table(path, "samples")
    assert table.column("structure_id").to_pylist() == ["s-000", "s-001", "s-002"]
    metadata = {k.decode(): v.decode() for k, v in pq.read_schema(path).metadata.items() if not k.startswith(b"ARROW")}
    assert metadata["seed"] == "7"
    assert metadata["schema_name"] == "samples"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([sample(0), sample(0)], "twice"),
        ([sample(0, status="fine")], "unknown status"),
        ([sample(0, status=None)], "must have none"),
        ([sample(0, colour="red")], "colour"),
        ([sample(0, n_tokens="many")], "does not fit"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, rows, message):
    with pytest.raises(TableError, match=message):
        write_table(tmp_path / "t.parquet", rows, "samples")
    assert list(tmp_path.iterdir()) == []


def test_truncated_and_foreign_files(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, [sample(i) for i in range(50)], "samples")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TableError, match="truncated or of another format"):
        read_table(path, "samples")
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(TableError, match="missing columns"):
        read_table(path, "samples")
    path.write_bytes(whole)
    with pytest.raises(TableError, match="not a hull table"):
        read_table(path, "hull")
    with pytest.raises(TableError, match="does not exist"):
        read_table(tmp_path / "none.parquet", "samples")


def test_merge_refuses_missing_duplicate_and_foreign_ids(tmp_path):
    tables = [write_table(tmp_path / f"{i}.parquet", [sample(i)], "samples") for i in range(3)]
    ids = ["s-000", "s-001", "s-002"]
    assert merge_tables(tables[::-1], "samples", ids).column("structure_id").to_pylist() == ids
    with pytest.raises(TableError, match="missing"):
        merge_tables(tables[:2], "samples", ids)
    with pytest.raises(TableError, match="duplicate"):
        merge_tables([*tables, tables[0]], "samples", ids)
    with pytest.raises(TableError, match="foreign"):
        merge_tables(tables, "samples", ids[:2])
    with pytest.raises(TableError, match="1 missing ids \\(s-002\\)"):
        check_children(ids[:2], ids, "children")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, [sample(0)], "samples")
    before = path.read_bytes()
    with pytest.raises(RuntimeError), replacing(path) as beside:
        beside.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="the disk is full") as caught, replacing(tmp_path / "t.parquet"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_file_too_large_for_its_limit_is_never_half_written(tmp_path):
    """The kernel refuses to write on, as on a full disk: the process fails, the final name does not appear."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from hullseeker.tables import write_table\n"
        "import random; r = random.Random(0)\n"
        "rows = [{'structure_id': f's-{i:06d}', 'status': 'ok', 'system': 's', 'text': str(r.random())}"
        " for i in range(20000)]\n"
        "write_table(sys.argv[1], rows, 'samples')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t.parquet")],
        capture_output=True,
        text=True,
        cwd="workflow_scripts",
        check=False,
    )
    assert done.returncode != 0
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []
