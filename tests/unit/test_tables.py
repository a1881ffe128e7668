"""Tables: schemas are enforced, writes are atomic, and shards are merged only if their ids are those of the parent."""

import errno
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hullseeker.runtime.atomic_writes import replacing, replacing_folder
from hullseeker.tables.parquet import TableError, check_children, merge_tables, read_table, write_table

ROOT = Path(__file__).parents[2]


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
        ([sample(0, n_tokens="many")], "column n_tokens, row s-000: .many. is not int32"),
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


def test_a_folder_is_written_file_by_file_beside_another_writer(tmp_path):
    folder = tmp_path / "model"
    with replacing_folder(folder) as beside:
        (beside / "weights").write_text("whole")
        assert not folder.exists()
    with pytest.raises(RuntimeError), replacing_folder(folder) as beside:
        (beside / "weights").write_text("ha")
        raise RuntimeError
    with replacing_folder(folder) as beside:
        (beside / "weights").write_text("again")
        assert (folder / "weights").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "weights").read_text() == "again"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="the disk is full") as caught, replacing(tmp_path / "t.parquet"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


LARGE_TABLE = (
    "import random, sys; from hullseeker.tables.parquet import write_table; r = random.Random(0)\n"
    "rows = [{'structure_id': f's-{i:06d}', 'status': 'ok', 'system': 's', 'text': str(r.random())}"
    " for i in range(20000)]\n"
    "write_table(sys.argv[1], rows, 'samples')\n"
)


def run_in_scripts(*command):
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT / "workflow_scripts", check=False, stdin=subprocess.DEVNULL
    )


def test_a_file_too_large_for_its_limit_is_never_half_written(tmp_path):
    """The file exceeds RLIMIT_FSIZE: the process fails, and no file of the final name appears."""
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    )
    done = run_in_scripts(sys.executable, "-c", limited + LARGE_TABLE, str(tmp_path / "t.parquet"))
    assert done.returncode != 0
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_keeps_the_table_that_was_there(tmp_path):
    """Writes to a tmpfs of 64 kB, mounted in a separate mount namespace."""
    mounting = 'mount -t tmpfs -o size=64k tmpfs "$1" && echo old > "$1/t.parquet"'
    if run_in_scripts("unshare", "-rm", "sh", "-c", mounting, "-", str(tmp_path)).returncode:
        pytest.skip("no mount namespaces on this system; the file size limit is tested above")
    then = f'{mounting} || exit 9; "$2" -c "$3" "$1/t.parquet"; echo "exit $?"; ls -A "$1"; cat "$1/t.parquet"'
    done = run_in_scripts("unshare", "-rm", "sh", "-c", then, "-", str(tmp_path), sys.executable, LARGE_TABLE)
    assert done.stdout.split() == ["exit", "1", "t.parquet", "old"]
    assert "the disk is full; t.parquet was not written. Free space and run again" in done.stderr
