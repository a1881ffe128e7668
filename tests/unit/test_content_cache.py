"""The on-disk cache: no row is lost, few files are opened, damaged files are skipped, also with concurrent jobs."""

import builtins
import hashlib
import multiprocessing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hullseeker.tables.content_cache as content_cache
from hullseeker.tables.content_cache import KEY, ContentCache, bucket_of

FIELDS = [pa.field("x", pa.float64()), pa.field("positions", pa.list_(pa.float64()))]


def row(x):
    return {"x": float(x), "positions": [float(x)] * 3}


def key(i):
    return hashlib.sha256(str(i).encode()).hexdigest()[:32]


@pytest.fixture
def opened(monkeypatch):
    """Return a list to which the name of every opened Parquet file is appended."""
    names, builtin_open = [], builtins.open

    def recording(path, *args, **kwargs):
        if str(path).endswith(".parquet"):
            names.append(str(path).rpartition("/")[2])
        return builtin_open(path, *args, **kwargs)

    monkeypatch.setattr(content_cache, "open", recording, raising=False)
    return names


def test_rows_are_kept_and_damage_counts_as_absent(tmp_path):
    cache = ContentCache(tmp_path, FIELDS)
    assert cache.load(["k1"]) == {}
    cache.save({"k1": row(1)})
    cache.save({"k2": row(2), "k3": {"x": 3.0}})
    cache.save({})
    assert cache.load(["k1", "k3", "k4"]) == {"k1": row(1), "k3": {"x": 3.0, "positions": None}}
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    sorted(tmp_path.glob("*.parquet"))[0].write_bytes(b"damaged")
    (tmp_path / "empty.parquet").touch()
    left = cache.load(["k1", "k2", "k3"])
    assert set(left) in ({"k1"}, {"k2", "k3"})
    cache.compact()
    assert cache.load(["k1", "k2", "k3"]) == left
    assert (tmp_path / "empty.parquet").exists()


def test_folders_of_earlier_versions_are_read(tmp_path):
    """These have files that lack a column and are named by their keys joined without a separator."""
    keys = [key(i) for i in range(3)]
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
    pq.write_table(pa.table({KEY: keys, "x": [0.0, 1.0, 2.0]}), tmp_path / f"{name}.parquet")
    cache = ContentCache(tmp_path, FIELDS)
    assert cache.load([key(1)]) == {key(1): {"x": 1.0, "positions": None}}
    cache.compact()
    assert cache.load(keys)[key(2)] == {"x": 2.0, "positions": None}
    assert not (tmp_path / f"{name}.parquet").exists()


def test_many_saves_become_few_files_by_key(tmp_path, opened):
    cache, n = ContentCache(tmp_path, FIELDS), 300
    for i in range(n):
        cache.save({key(i): row(i)})
    assert len(list(tmp_path.glob("*.parquet"))) == n
    assert cache.load([key(7)]) == {key(7): row(7)}
    files = sorted(path.name for path in tmp_path.glob("*.parquet"))
    assert [name[:2] for name in files] == [f"{digit:x}-" for digit in range(16)]
    opened.clear()
    assert cache.load([key(7)]) == {key(7): row(7)}
    assert [name[0] for name in opened] == [bucket_of(key(7))]
    opened.clear()
    assert cache.load([]) == {} and opened == []
    assert cache.load(map(key, range(n))) == {key(i): row(i) for i in range(n)}
    assert len(opened) == 16


@settings(deadline=None, max_examples=30)
@given(st.lists(st.dictionaries(st.integers(0, 40), st.integers(0, 3), min_size=1), max_size=12), st.data())
def test_joining_changes_no_answer(tmp_path_factory, saves, data):
    cache, known = ContentCache(tmp_path_factory.mktemp("cache"), FIELDS), {}
    for saved in saves:
        cache.save({key(i): row(x) for i, x in saved.items()})
        for i, x in saved.items():
            known.setdefault(key(i), []).append(row(x))
        if data.draw(st.booleans()):
            cache.compact()
    found = cache.load(map(key, range(41)))
    assert set(found) == set(known)
    assert all(found[name] in known[name] for name in known)


def test_a_file_that_vanished_is_looked_for_again(tmp_path, monkeypatch):
    """Another process merges the files after this one has listed them."""
    cache, other = ContentCache(tmp_path, FIELDS), ContentCache(tmp_path, FIELDS)
    for i in range(20):
        cache.save({key(i): row(i)})
    read, joined = cache._read, []

    def read_late(*words):
        if not joined:
            joined.append(True)
            other.compact()
        return read(*words)

    monkeypatch.setattr(cache, "_read", read_late)
    assert cache.load(map(key, range(20))) == {key(i): row(i) for i in range(20)}


@pytest.mark.parametrize("step", range(1, 6))
def test_killed_while_joining_nothing_is_lost(tmp_path, monkeypatch, step):
    cache = ContentCache(tmp_path, FIELDS)
    for i in range(20):
        cache.save({key(i): row(i)})
    write, n_written = cache._write, []

    def killed(*words):
        n_written.append(words)
        if len(n_written) == step:
            raise KeyboardInterrupt
        return write(*words)

    monkeypatch.setattr(cache, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.compact()
    after = ContentCache(tmp_path, FIELDS)
    for _ in range(2):
        assert after.load(map(key, range(20))) == {key(i): row(i) for i in range(20)}
        after.compact()
    assert len(list(tmp_path.glob("*.parquet"))) == len({bucket_of(key(i)) for i in range(20)})


def work(folder, process):
    content_cache.MOST_SMALL_FILES = 5
    cache = ContentCache(folder, FIELDS)
    for i in range(40):
        mine = key(f"{process}-{i}")
        cache.save({mine: row(i), key(f"shared-{i}"): row(i)})
        assert cache.load([mine]) == {mine: row(i)}


def test_processes_that_save_join_and_load_together_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(tmp_path, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    cache = ContentCache(tmp_path, FIELDS)
    cache.compact()
    names = {f"{process}-{i}": i for process in range(4) for i in range(40)} | {f"shared-{i}": i for i in range(40)}
    assert cache.load(map(key, names)) == {key(name): row(i) for name, i in names.items()}
    assert len(list(tmp_path.glob("*.parquet"))) == 16
