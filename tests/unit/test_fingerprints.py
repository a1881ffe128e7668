"""Fingerprints against matminer's own loop; the cache; the time limit; the scaler; the rule's script."""

import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from matminer.featurizers.composition import ElementProperty
from matminer.featurizers.site import CrystalNNFingerprint
from pymatgen.core import Composition, Element, Lattice, Structure

import hullseeker.metrics.fingerprints as fingerprints
from featurize_structures import featurize, main
from hullseeker.metrics.fingerprints import (
    FingerprintCache,
    composition_fingerprint,
    fingerprint_columns,
    structure_fingerprint,
)
from hullseeker.metrics.scaler import N_COMPOSITION, Scaler, fingerprint_matrix
from hullseeker.runtime.time_limits import TimeLimitError, time_limit
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.schemas import SCHEMAS
from hullseeker.tables.structures import COLUMNS, from_structure

MP20_SCALER = Path(__file__).parents[2] / "resources" / "mp20_magpie_scaler.json"

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
)
COPPER = Structure(Lattice([[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]]), ["Cu"], [[0, 0, 0]])


def sample(structure_id, structure):
    columns = from_structure(structure) if structure else dict.fromkeys(COLUMNS)
    status = {"status": "ok"} if structure else {"status": "parse_failed", "error": "no lattice"}
    return {"structure_id": structure_id, "system": "sft", **status, **columns}


@pytest.fixture
def counted(monkeypatch):
    """Count the calls of structure_fingerprint, which answers at once."""
    calls = []

    def instead(structure):
        calls.append(structure.composition.reduced_formula)
        return np.full(61, float(len(structure)))

    monkeypatch.setattr(fingerprints, "structure_fingerprint", instead)
    return calls


@pytest.mark.parametrize("structure", [RUTILE, COPPER], ids=["rutile", "copper"])
def test_structure_fingerprint_is_the_mean_over_all_sites(structure):
    featurizer = CrystalNNFingerprint.from_preset("ops")
    by_hand = np.mean([featurizer.featurize(structure, i) for i in range(len(structure))], axis=0)
    found = structure_fingerprint(structure)
    assert found.shape == (61,) == (len(featurizer.feature_labels()),)
    np.testing.assert_allclose(found, by_hand, atol=1e-7)
    assert found.max() > 0.1


def test_composition_fingerprint_is_raw_magpie():
    found = composition_fingerprint(Composition("NaCl"))
    labels = ElementProperty.from_preset("magpie").feature_labels()
    assert found.shape == (132,) == (len(labels),)
    for label, value in (("minimum Number", 11), ("maximum Number", 17), ("mean Number", 14), ("range Row", 0)):
        assert found[labels.index(f"MagpieData {label}")] == value
    np.testing.assert_array_equal(found, composition_fingerprint(Composition("Cl4Na4")))


def test_composition_fingerprint_is_matminers():
    rng = np.random.default_rng(0)
    featurizer = ElementProperty.from_preset("magpie", impute_nan=False)
    for n_elements in (1, 2, 3, 4, 5) * 8:
        numbers = rng.choice(np.arange(1, 104), n_elements, replace=False)
        composition = Composition({Element.from_Z(int(z)): int(rng.integers(1, 4)) for z in numbers})
        expected = np.array(featurizer.featurize(composition), dtype=float)
        np.testing.assert_allclose(composition_fingerprint(composition), expected, rtol=1e-12, atol=1e-12)


def test_unknown_properties_stay_nan_and_unknown_elements_fail():
    helium = composition_fingerprint(Composition("NaHe"))
    assert 0 < np.isnan(helium).sum() < 132
    np.testing.assert_array_equal(helium, composition_fingerprint(Composition("HeNa")))
    with pytest.raises(ValueError, match="Magpie"):
        composition_fingerprint(Composition("OgCl"))


def test_failures_become_a_status():
    flat, thin = np.diag([3.0, 3.0, 0.0]), np.diag([0.01, 0.01, 3.0])  # the thin one: 2801 x 2801 x (28 / 3 + 1)
    for matrix, error in ((flat, "LinAlgError: Singular"), (thin, "ValueError: 81071210 periodic images")):
        columns = fingerprint_columns(from_structure(Structure(Lattice(matrix), ["Na"], [[0, 0, 0]])), None)
        assert columns["status"] == "fingerprint_failed"
        assert columns["error"].startswith(error)
        assert "structure_fingerprint" not in columns


def test_coordinates_that_are_not_finite_fail():
    with pytest.raises(ValueError, match="not finite"):
        structure_fingerprint(Structure(Lattice.cubic(4), ["Na"], [[np.nan, 0, 0]]))


def test_time_limit_stops_even_a_body_that_swallows_exceptions():
    def stubborn():
        while True:
            try:
                time.sleep(0.001)
            except Exception:  # noqa: BLE001
                continue

    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeLimitError, match=r"longer than 0\.05 s"), time_limit(0.05):
        stubborn()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_time_limit_becomes_a_status_and_is_not_cached(monkeypatch, tmp_path):
    monkeypatch.setattr(fingerprints, "structure_fingerprint", lambda _: time.sleep(5))
    cache = FingerprintCache(tmp_path)
    (row,) = featurize([sample("a", SALT)], cache, 0.5)
    assert row["status"] == "fingerprint_failed"
    assert row["error"].startswith("TimeLimitError: took longer than 0.5 s")
    assert row["structure_valid_paper"] is True
    assert row["composition_valid"] is True
    assert cache.load([row["content_key"]]) == {}


def test_each_content_is_computed_once_and_kept(counted, tmp_path):
    rows = [sample("a", SALT), sample("b", COPPER), sample("c", SALT), sample("d", None)]
    first = featurize(rows, FingerprintCache(tmp_path), None)
    assert counted == ["NaCl", "Cu"]
    assert featurize(rows, FingerprintCache(tmp_path), None) == first
    assert counted == ["NaCl", "Cu"]
    assert [row["structure_fingerprint"][0] for row in first[:3]] == [
        8,
        1,
        8,
    ]
    assert first[3] == {"structure_id": "d", "status": "not_attempted", "error": "no lattice", "content_key": ""}


def test_the_version_names_the_cache(counted, tmp_path, monkeypatch):
    featurize([sample("a", SALT)], FingerprintCache(tmp_path), None)
    monkeypatch.setattr(fingerprints, "FEATURIZER_VERSION", "other")
    featurize([sample("a", SALT)], FingerprintCache(tmp_path), None)
    assert len(counted) == 2


@pytest.mark.usefixtures("counted")
def test_caches_written_side_by_side_are_merged_and_damage_is_ignored(tmp_path):
    one, other = FingerprintCache(tmp_path), FingerprintCache(tmp_path)
    key_one = featurize([sample("a", SALT)], one, None)[0]["content_key"]
    key_other = featurize([sample("a", COPPER)], other, None)[0]["content_key"]
    (one.folder / "damaged.parquet").write_bytes(b"PAR1 cut off")
    (one.folder / ".x.parquet.partial").write_bytes(b"")
    assert set(one.load([key_one, key_other, "unknown"])) == {key_one, key_other}
    assert set(other.load([key_one])) == {key_one}


@pytest.mark.usefixtures("counted")
def test_nulls_survive_the_cache_bit_for_bit(tmp_path):
    helium = Structure(Lattice.cubic(4), ["Na", "He"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    fresh = featurize([sample("a", helium)], FingerprintCache(tmp_path), None)
    cached = featurize([sample("a", helium)], FingerprintCache(tmp_path), None)
    assert fresh == cached
    column = pa.Table.from_pylist(cached, SCHEMAS["fingerprints"])["composition_fingerprint"]
    matrix = fingerprint_matrix(column, N_COMPOSITION)
    np.testing.assert_array_equal(matrix[0], composition_fingerprint(helium.composition))


def test_two_processes_give_the_rows_of_one(tmp_path):
    rows = [sample("a", COPPER), sample("b", None), sample("c", SALT.get_primitive_structure())]
    one = featurize(rows, FingerprintCache(tmp_path / "one"), 60, 1)
    assert featurize(rows, FingerprintCache(tmp_path / "two"), 60, 2) == one
    assert [row["status"] for row in one] == ["ok", "not_attempted", "ok"]


def snakemake_for(tmp_path, path, **params):
    return SimpleNamespace(
        input=SimpleNamespace(structures=path),
        output=[tmp_path / "fingerprints.parquet"],
        params=SimpleNamespace(settings={"time_limit_s": 60}, cache_dir=tmp_path / "cache", **params),
        log=[tmp_path / "log"],
        threads=1,
    )


@pytest.mark.usefixtures("counted")
def test_main_keeps_every_sample(tmp_path):
    path = tmp_path / "samples.parquet"
    write_table(path, [sample("s-1", SALT), sample("s-2", None), sample("s-3", COPPER)], "samples")
    main(snakemake_for(tmp_path, path, schema="samples"))
    rows = read_table(tmp_path / "fingerprints.parquet", "fingerprints").to_pylist()
    assert [(r["structure_id"], r["status"]) for r in rows] == [("s-1", "ok"), ("s-2", "not_attempted"), ("s-3", "ok")]
    assert [r["structure_valid_paper"] for r in rows] == [True, None, True]
    assert rows[1]["structure_fingerprint"] is None
    assert "ok 2" in (tmp_path / "log").read_text()


@pytest.mark.usefixtures("counted")
def test_main_takes_one_split_of_materials_even_an_empty_one(tmp_path):
    path = tmp_path / "materials.parquet"
    crystals = (("a", COPPER, "train"), ("b", SALT, "test"), ("c", COPPER, "test"))
    rows = [{"structure_id": i, "formula": "X", "split": split, **from_structure(s)} for i, s, split in crystals]
    write_table(path, rows, "materials")
    for split, expected in (("test", ["b", "c"]), ("val", []), (None, ["a", "b", "c"])):
        main(snakemake_for(tmp_path, path, schema="materials", split=split))
        table = read_table(tmp_path / "fingerprints.parquet", "fingerprints")
        assert table.column("structure_id").to_pylist() == expected


@pytest.mark.usefixtures("counted")
def test_crystals_left_out_are_known_of_training_and_no_part_of_the_test_set(tmp_path):
    path = tmp_path / "materials.parquet"
    crystals = (("a", COPPER, "train", None), ("b", SALT, "train", "too_large"), ("c", COPPER, "test", "unstable"))
    rows = [
        {"structure_id": i, "formula": "X", "split": split, "left_out": why, **from_structure(s)}
        for i, s, split, why in crystals
    ]
    write_table(path, rows, "materials")
    for split, expected in (("train", {"a": None, "b": "too_large"}), ("test", {})):
        main(snakemake_for(tmp_path, path, schema="materials", split=split))
        table = read_table(tmp_path / "fingerprints.parquet", "fingerprints")
        assert {row["structure_id"]: row["left_out"] for row in table.to_pylist()} == expected


def test_scaler_fits_around_nan():
    scaler = Scaler.fit(np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan]]))
    np.testing.assert_array_equal(scaler.mean, [2, 5, 0])
    np.testing.assert_array_equal(scaler.std, [1, 0, 0])
    # (4 - 2) / 1; a constant feature is only shifted; NaN is 0 after scaling
    np.testing.assert_array_equal(scaler.transform(np.array([[4.0, 7.0, np.nan]])), [[2, 2, 0]])
    with pytest.raises(ValueError, match="no training row"):
        Scaler.fit(np.empty((0, 3)))


def test_scaler_takes_a_constant_feature_for_constant_despite_rounding():
    scaler = Scaler.fit(np.full((10, 1), 0.1))
    assert scaler.transform(np.array([[1.1]])) == pytest.approx(1.0)


def test_fixed_scaler_is_of_our_features():
    scaler = Scaler.from_json(MP20_SCALER)
    labels = ElementProperty.from_preset("magpie").feature_labels()
    assert scaler.mean.shape == scaler.std.shape == (132,) == (len(labels),)
    # the constants' own arithmetic: mean range = mean maximum - mean minimum, feature by feature in our order
    by_label = dict(zip(labels, scaler.mean, strict=True))
    for feature in ("Number", "MeltingT", "SpaceGroupNumber"):
        minimum, maximum, spread = (by_label[f"MagpieData {s} {feature}"] for s in ("minimum", "maximum", "range"))
        assert spread == pytest.approx(maximum - minimum, rel=1e-6)
    assert np.abs(scaler.transform(composition_fingerprint(Composition("TiO2")))).max() < 10
