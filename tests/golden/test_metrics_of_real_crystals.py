"""Table 2 and S.U.N. of a few dozen crystals, against pymatgen, matminer, smact and scipy called plainly."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.data import covalent_radii
from matminer.featurizers.composition import ElementProperty
from matminer.featurizers.site import CrystalNNFingerprint
from pymatgen.analysis.structure_matcher import StructureMatcher
from scipy.spatial.distance import cdist, pdist
from smact.screening import smact_validity

from assess_novelty import novelty_rows
from featurize_structures import featurize
from hullseeker.metrics.distribution import load_scaler, table2_row
from hullseeker.metrics.fingerprints import FingerprintCache
from hullseeker.metrics.matching import group_by_formula
from hullseeker.metrics.sun import row_of_system
from hullseeker.tables.schemas import SCHEMAS
from hullseeker.tables.structures import from_structure, reduced_formula, to_structure

DEMO = Path(__file__).parents[2] / "resources" / "demo_materials.parquet"
SETTINGS = {
    "structure_validity": "cdvae",
    "diversity_sample": 1000,
    "structure_cutoff": 0.4,
    "composition_cutoff": 10.0,
    "structure_novelty_cutoff": 0.1,
    "composition_novelty_cutoff": 2.0,
    "n_bootstrap": 50,
}


def row_of(name, structure):
    columns = from_structure(structure)
    formula = reduced_formula(columns["atomic_numbers"])
    return {"structure_id": name, "status": "ok", "error": None, "formula": formula, **columns}


@pytest.fixture(scope="module")
def crystals():
    """Training, test and sampled structures: the samples are moved by up to 1 Å, some twice, some as supercells."""
    rows = [r for r in pq.read_table(DEMO).to_pylist() if len(r["atomic_numbers"]) <= 4]
    structures = [to_structure(row) for row in rows[:: len(rows) // 52]][:52]
    train, test = structures[:26], structures[26:38]
    samples = []
    for i, structure in enumerate([*structures[18:32], *structures[38:52]]):
        moved = structure.copy()
        moved.perturb((0.01, 0.2, 1.0)[i % 3], seed=i)
        samples.append(moved)
        if i % 4 == 0:
            samples.append(moved * (1, 1, 2))
        if i % 7 == 0:
            samples.append(structure.copy().scale_lattice(structure.volume * 0.05))
    return train, test, samples


def plain_fingerprints(structures):
    sites, elements = CrystalNNFingerprint.from_preset("ops"), ElementProperty.from_preset("magpie", impute_nan=False)
    structure = [np.mean([sites.featurize(s, i) for i in range(len(s))], axis=0) for s in structures]
    return np.array(structure), np.array([elements.featurize(s.composition) for s in structures], dtype=float)


def valid_by_paper(structure):
    one, other, _, distances_ang = structure.get_neighbor_list(6.0, exclude_self=True)
    radii_ang = covalent_radii[list(structure.atomic_numbers)]
    return bool(structure.volume >= 0.1 and (distances_ang > (radii_ang[one] + radii_ang[other]) / 2).all())


def valid_by_cdvae(structure):
    distances_ang = structure.distance_matrix + 10 * np.eye(len(structure))
    return bool(structure.volume >= 0.1 and distances_ang.min() >= 0.5)


def test_table2(crystals, tmp_path):
    tables = []
    for name, structures in zip(("train", "test", "s"), crystals, strict=True):
        rows = [row_of(f"{name}-{i:03d}", s) for i, s in enumerate(structures)]
        rows += [{**rows[0], "structure_id": "t", "lattice_ang": None, "error": "?"}] if name == "s" else []
        featurized = featurize(rows, FingerprintCache(tmp_path), None)
        tables.append(pa.Table.from_pylist(featurized, SCHEMAS["fingerprints"]))
    train, test, drawn = tables
    found = table2_row(drawn, train, test, load_scaler("train", train, None), SETTINGS, seed=0)

    (train_s, train_c), (test_s, test_c), (s, c) = map(plain_fingerprints, crystals)
    n, std = drawn.num_rows, np.nanstd(train_c, axis=0)
    std[std < 1e-12 * np.maximum(1, np.abs(np.nanmean(train_c, axis=0)))] = 1.0
    train_c, test_c, c = (np.nan_to_num((x - np.nanmean(train_c, axis=0)) / std) for x in (train_c, test_c, c))
    near = (cdist(s, test_s) <= 0.4, cdist(c, test_c) <= 10.0)
    neutral = [smact_validity(x.composition, oxidation_states_set="smact14") for x in crystals[2]]
    by_paper, by_cdvae = ([judge(x) for x in crystals[2]] for judge in (valid_by_paper, valid_by_cdvae))
    valid = np.array(by_cdvae) & np.array(neutral)
    covered = near[0].any(axis=1) & near[1].any(axis=1)
    expected = {
        "structure_validity_paper": sum(by_paper) / n,
        "structure_validity_cdvae": sum(by_cdvae) / n,
        "composition_validity": sum(neutral) / n,
        "coverage_recall": (near[0].any(axis=0) & near[1].any(axis=0)).mean(),
        "coverage_precision": covered.sum() / n,
        "coverage_precision_survivors": covered.mean(),
        "structure_diversity": pdist(s[valid]).mean(),
        "composition_diversity": pdist(c[valid]).mean(),
        "structure_novelty": (cdist(s, train_s).min(axis=1) > 0.1).sum() / n,
        "composition_novelty": (cdist(c, train_c).min(axis=1) > 2.0).sum() / n,
        "n_fingerprinted": n - 1,
        "n_of_diversity": valid.sum(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    shares = [value for name, value in expected.items() if not name.startswith("n_") and "diversity" not in name]
    assert all(0 < value < 1 for value in shares)
    assert len(set(shares)) > 5  # the crystals tell the numbers apart


def test_stable_unique_novel(crystals):
    """By StructureMatcher's own defaults on every pair, equal formulas or not."""
    train, _, samples = crystals
    rows = [row_of(f"s-{i:03d}", s) for i, s in enumerate(samples)]
    known = group_by_formula((row_of("", s)["formula"], s) for s in train)
    judged = novelty_rows(rows, known)
    e_hull = np.random.default_rng(0).choice([-0.1, 0.0, 0.05, 0.1, 0.5, np.nan], len(rows))

    matcher = StructureMatcher()
    unique = [not any(matcher.fit(s, other) for other in samples[:i]) for i, s in enumerate(samples)]
    novel = [not any(matcher.fit(s, other) for other in train) for s in samples]
    assert [row["is_unique"] for row in judged] == unique
    assert [row["is_novel"] for row in judged] == novel
    assert 3 < sum(unique) < len(rows) and 3 < sum(novel) < len(rows)

    ids = [row["structure_id"] for row in rows]
    frames = {
        "samples": pd.DataFrame(rows).set_index("structure_id"),
        "hull": pd.DataFrame({"e_above_hull_ev_per_atom": e_hull, "unreliable": None}, index=ids),
        "novelty": pd.DataFrame(judged).set_index("structure_id"),
    }
    settings = {"stable_below_ev_per_atom": 0.1, "strict_below_ev_per_atom": 0.02, "n_bootstrap": 50}
    found = row_of_system({"system": "s", "label": "S"}, frames, settings, seed=0)
    count = {"sun_pct": 0, "sun_on_hull_pct": 0}
    for energy, is_unique, is_novel in zip(e_hull, unique, novel, strict=True):
        count["sun_pct"] += energy < 0.1 and is_unique and is_novel
        count["sun_on_hull_pct"] += energy <= 0 and is_unique and is_novel
    assert 0 < count["sun_on_hull_pct"] < count["sun_pct"]
    assert {name: found[name] for name in count} == pytest.approx({k: 100 * n / len(rows) for k, n in count.items()})
