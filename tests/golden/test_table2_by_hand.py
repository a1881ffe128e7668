"""Table 2 of a few crystals: by hand where fingerprints are single numbers, by scipy and matminer where real."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matminer.featurizers.composition import ElementProperty
from matminer.featurizers.site import CrystalNNFingerprint
from pymatgen.core import Lattice, Structure
from scipy.spatial.distance import cdist, pdist

from featurize_structures import featurize
from hullseeker.metrics.distribution import COLUMNS, VALUES, load_scaler, table2_row
from hullseeker.metrics.fingerprints import FingerprintCache
from hullseeker.tables.parquet import TableError, write_table
from hullseeker.tables.schemas import SCHEMAS
from hullseeker.tables.structures import from_structure
from make_table2 import main

SETTINGS = {
    "structure_validity": "paper",
    "composition_scaler": "train",
    "diversity_sample": 1000,
    "structure_cutoff": 0.4,
    "composition_cutoff": 10.0,
    "structure_novelty_cutoff": 0.1,
    "composition_novelty_cutoff": 2.0,
    "n_bootstrap": 200,
}


def made_up(structure_id, structure, composition, paper=True, cdvae=True, neutral=True):
    """A row whose fingerprints are zero but for their first numbers."""
    return {
        "structure_id": structure_id,
        "status": "ok",
        "error": None,
        "content_key": structure_id,
        "structure_fingerprint": [structure] + [0.0] * 60,
        "composition_fingerprint": [composition] + [0.0] * 131,
        "structure_valid_paper": paper,
        "structure_valid_cdvae": cdvae,
        "composition_valid": neutral,
    }


def without_fingerprint(structure_id, status, **validity):
    nothing = dict.fromkeys(made_up("", 0, 0))
    return {**nothing, "structure_id": structure_id, "status": status, "error": "why", "content_key": "", **validity}


# composition of train: mean 2, standard deviation 2, so a raw composition c is scaled to (c - 2) / 2
TRAIN = [made_up("t-1", 0.0, 0.0), made_up("t-2", 1.0, 4.0)]
TEST = [made_up("e-1", 0.0, 0.0), made_up("e-2", 3.0, 0.0)]
SAMPLES = [
    made_up("s-0", 0.3, 6.0),  # test 1 at 0.3 and 3: covered; train at 0.3 and 1: novel in structure
    made_up("s-1", 0.05, 24.0),  # test 1 at 0.05 but 12: not covered; train at 0.05 and 10: novel in composition
    made_up("s-2", 2.8, 2.0, paper=False),  # test 2 at 0.2 and 1: covered; train at 1.8 and 1: novel in structure
    made_up("s-3", 7.0, 4.0, neutral=False),  # test at 4: not covered; train at 6 and 0: novel in structure
    without_fingerprint(
        "s-4", "fingerprint_failed", structure_valid_paper=False, structure_valid_cdvae=True, composition_valid=True
    ),
    without_fingerprint("s-5", "not_attempted"),
    made_up("s-6", 0.0, 4.0),  # test 1 at 0 and 2: covered; train at 0 and 0: not novel
    without_fingerprint("s-7", "not_attempted"),
]
BY_HAND = {
    "n_samples": 8,
    "structure_validity_paper": 4 / 8,
    "structure_validity_cdvae": 6 / 8,
    "composition_validity": 5 / 8,
    "coverage_recall": 2 / 2,
    "coverage_precision": 3 / 8,
    "coverage_precision_survivors": 3 / 5,
    # valid in both: s-0, s-1, s-6
    "structure_diversity": (0.25 + 0.3 + 0.05) / 3,
    "composition_diversity": (9 + 1 + 10) / 3,
    "structure_novelty": 3 / 8,
    "composition_novelty": 1 / 8,
    "n_fingerprinted": 5,
    "n_of_diversity": 3,
    "n_test": 2,
    "n_test_fingerprinted": 2,
    "n_train": 2,
    "n_train_fingerprinted": 2,
}


def numbers_of(rows, train=TRAIN, test=TEST, seed=0, **changed):
    settings = SETTINGS | changed
    rows, train, test = (pa.Table.from_pylist(list(some), SCHEMAS["fingerprints"]) for some in (rows, train, test))
    return table2_row(rows, train, test, load_scaler(settings["composition_scaler"], train, None), settings, seed)


def test_by_hand():
    found = numbers_of(SAMPLES)
    assert {name: found[name] for name in BY_HAND} == pytest.approx(BY_HAND)
    assert set(found) == set(COLUMNS) - {"system", "label"}


def test_a_training_crystal_that_is_left_out_is_known_and_does_not_scale():
    """It lies where s-3 does, which was novel; the scaler of the crystals in use stays what it was."""
    known = made_up("t-x", 7.0, 400.0) | {"left_out": "too_large"}
    found = numbers_of(SAMPLES, train=[*TRAIN, known])
    expected = BY_HAND | {"structure_novelty": 2 / 8, "n_train": 3, "n_train_fingerprinted": 3}
    assert {name: found[name] for name in BY_HAND} == pytest.approx(expected)


def test_printed_validity_decides_what_counts_for_diversity():
    # s-2 joins: pairs of 0.3, 0.05, 2.8, 0
    expected = pdist([[0.3], [0.05], [2.8], [0.0]]).mean()
    assert numbers_of(SAMPLES, structure_validity="cdvae")["structure_diversity"] == pytest.approx(expected)


def test_intervals_hold_their_estimate_and_have_width():
    found = numbers_of(SAMPLES)
    for name in VALUES:
        assert found[f"{name}_ci_low"] <= found[name] <= found[f"{name}_ci_high"], name
        if name != "coverage_recall":  # 2 of 2: every resample is 1
            assert found[f"{name}_ci_low"] < found[f"{name}_ci_high"], name
    again, other = numbers_of(SAMPLES), numbers_of(SAMPLES, seed=1)
    assert again == found
    assert [other[f"{n}_ci_low"] for n in VALUES] != [found[f"{n}_ci_low"] for n in VALUES]


def test_order_of_samples_does_not_matter():
    found, turned = numbers_of(SAMPLES), numbers_of(SAMPLES[::-1])
    assert {n: turned[n] for n in BY_HAND} == pytest.approx({n: found[n] for n in BY_HAND})


def test_no_survivor_is_zero_or_null_never_a_guess():
    found = numbers_of([without_fingerprint("s-0", "not_attempted"), without_fingerprint("s-1", "not_attempted")])
    zero = [n for n in VALUES if found[n] == 0]
    assert set(VALUES) - set(zero) == {"coverage_precision_survivors", "structure_diversity", "composition_diversity"}
    assert all(np.isnan(found[n]) for n in VALUES if n not in zero)
    assert (found["n_samples"], found["n_fingerprinted"]) == (2, 0)


def test_no_sample_no_test_no_train_are_null():
    nothing = numbers_of([])
    assert all(np.isnan(nothing[n]) and np.isnan(nothing[f"{n}_ci_low"]) for n in VALUES)
    assert (nothing["n_samples"], nothing["n_fingerprinted"]) == (0, 0)

    no_test = numbers_of(SAMPLES, test=[])
    assert {n for n in VALUES if np.isnan(no_test[n])} == {n for n in VALUES if n.startswith("coverage")}

    no_train = numbers_of(SAMPLES, train=[])  # no training row, no scaler: no distance of compositions
    defined = {n for n in VALUES if not np.isnan(no_train[n])}
    assert defined == {n for n in VALUES if "validity" in n} | {"structure_diversity"}


def crystal(lattice, species, coords):
    return Structure(Lattice.cubic(lattice), species, coords)


B2 = [[0, 0, 0], [0.5, 0.5, 0.5]]
CRYSTALS = {
    "train": [crystal(4.12, ["Cs", "Cl"], B2), crystal(2.87, ["Fe", "Fe"], B2)],
    "test": [crystal(4.29, ["Cs", "Br"], B2), crystal(3.35, ["Po"], B2[:1])],
    "samples": [
        crystal(4.1, ["Cs", "Cl"], B2),
        crystal(2.9, ["Ni", "Al"], B2),
        crystal(4.0, ["Cs", "Cs"], [[0, 0, 0], [0.5, 0.45, 0.5]]),
    ],
}


def plain_fingerprints(structures):
    sites, elements = CrystalNNFingerprint.from_preset("ops"), ElementProperty.from_preset("magpie", impute_nan=False)
    structure = [np.mean([sites.featurize(s, i) for i in range(len(s))], axis=0) for s in structures]
    return np.array(structure), np.array([elements.featurize(s.composition) for s in structures], dtype=float)


def test_main_on_real_crystals_against_scipy_and_matminer(tmp_path):
    for name, crystals in CRYSTALS.items():
        rows = [{"structure_id": f"{name}-{i}", **from_structure(s)} for i, s in enumerate(crystals)]
        if name == "samples":
            lost = {"lattice_ang": None, "atomic_numbers": None, "frac_coords": None, "error": "no lattice"}
            rows.append({"structure_id": "samples-9", **lost})
            write_table(
                tmp_path / "drawn.parquet",
                [{"system": "sft", "status": "parse_failed" if r["lattice_ang"] is None else "ok", **r} for r in rows],
                "samples",
            )
        featurized = featurize(rows, FingerprintCache(tmp_path / "cache"), None)
        write_table(tmp_path / f"{name}.parquet", featurized, "fingerprints")
    snakemake = SimpleNamespace(
        input=SimpleNamespace(
            samples=[tmp_path / "drawn.parquet"],
            fingerprints=[tmp_path / "samples.parquet"],
            scaler=None,
            train=tmp_path / "train.parquet",
            test=tmp_path / "test.parquet",
        ),
        output=SimpleNamespace(csv=tmp_path / "table2.csv", parquet=tmp_path / "table2.parquet"),
        params=SimpleNamespace(
            systems=[{"system": "sft", "label": "SFT"}],
            settings=SETTINGS | {"composition_cutoff": 30.0},
            seed=7,
            scaler_path=None,
        ),
        log=[tmp_path / "log"],
    )
    main(snakemake)
    table = pd.read_csv(tmp_path / "table2.csv")
    assert list(table.columns) == list(COLUMNS) == pq.read_table(tmp_path / "table2.parquet").column_names
    found = table.iloc[0]

    (train_s, train_c), (test_s, test_c), (s, c) = map(plain_fingerprints, CRYSTALS.values())
    std = np.where(np.nanstd(train_c, axis=0) == 0, 1, np.nanstd(train_c, axis=0))
    train_c, test_c, c = (np.nan_to_num((x - np.nanmean(train_c, axis=0)) / std) for x in (train_c, test_c, c))
    near = (cdist(s, test_s) <= 0.4, cdist(c, test_c) <= 30.0)
    covered = near[0].any(axis=1) & near[1].any(axis=1)
    assert 0 < covered.sum() < 3  # the cut-offs above part these crystals
    expected = {
        "structure_validity_paper": 3 / 4,
        "composition_validity": 3 / 4,  # an ionic, an alloy, an element
        "coverage_recall": (near[0].any(axis=0) & near[1].any(axis=0)).mean(),
        "coverage_precision": covered.sum() / 4,
        "coverage_precision_survivors": covered.sum() / 3,
        "structure_diversity": pdist(s).mean(),
        "composition_diversity": pdist(c).mean(),
        "structure_novelty": (cdist(s, train_s).min(axis=1) > 0.1).sum() / 4,
        "composition_novelty": (cdist(c, train_c).min(axis=1) > 2.0).sum() / 4,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert (found["system"], found["label"], found["n_samples"], found["n_fingerprinted"]) == ("sft", "SFT", 4, 3)

    empty_test = tmp_path / "empty.parquet"
    write_table(empty_test, [], "fingerprints")
    snakemake.input.test = empty_test
    main(snakemake)
    assert ",,," in (tmp_path / "table2.csv").read_text()
    assert pq.read_table(tmp_path / "table2.parquet").column("coverage_recall").to_pylist() == [None]

    write_table(tmp_path / "drawn.parquet", [], "samples")
    with pytest.raises(TableError, match="foreign"):
        main(snakemake)


def test_fast_enough_for_the_papers_size():
    rng = np.random.default_rng(0)
    rows = [made_up(f"s-{i:05d}", float(a), float(b)) for i, (a, b) in enumerate(rng.random((2000, 2)))]
    found = numbers_of(rows, train=rows[:500], test=rows[:500], n_bootstrap=1000)
    assert found["structure_diversity"] == pytest.approx(1 / 3, abs=0.02)  # mean distance of two uniform numbers
    width = found["structure_diversity_ci_high"] - found["structure_diversity_ci_low"]
    assert 0.005 < width < 0.05
