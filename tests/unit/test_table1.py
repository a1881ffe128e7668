"""Table 1: denominators, intervals of ratios, and systems with nothing to show."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from snakemake.iocontainers import InputFiles

from hullseeker.metrics.intervals import ratio_interval
from hullseeker.metrics.stability import ORDER, row_of_system
from hullseeker.report.result_tables import some_lack_a_prompt
from hullseeker.tables.parquet import TableError, write_table
from hullseeker.tables.results import read_system
from make_ledger import ledger_rows
from make_table1 import main

WITHOUT_INTERVAL = {
    *("e_hull_std_ev_per_atom", "e_hull_median_ev_per_atom", "n_relaxed", "e_hull_q25_ev_per_atom"),
    *("e_hull_q75_ev_per_atom", "e_hull_as_generated_median_ev_per_atom", "n_prompted"),
}
WITH_INTERVAL = [name for name in ORDER if name not in WITHOUT_INTERVAL]
SETTINGS = {"stable_below_ev_per_atom": 0.1, "strict_below_ev_per_atom": 0.02, "n_bootstrap": 1000}
SYSTEM = {"system": "sft", "label": "Qwen2.5 SFT"}
CELL = {
    "lattice_ang": [4.0, 0, 0, 0, 4.0, 0, 0, 0, 4.0],
    "atomic_numbers": [11, 17],
    "frac_coords": [0.0] * 3 + [0.5] * 3,
}

N_STEPS, N_SETTLING, SETTLED_BY = 9, 12, 0.06
# prompt, formula (None: not parsed), relaxation, E_hull (None: no hull), matched, rmsd_norm, rmsd_ang
ROWS = [
    ("NaCl", "NaCl", "ok", 0.05, True, 0.01, 0.03),
    ("Na2Cl2", "NaCl", "ok", 0.25, True, 0.03, 0.09),
    ("KCl", "NaCl", "ok", -0.02, False, None, None),
    ("NaCl", "NaCl", "ok", None, True, 0.05, 0.15),
    ("NaCl", "NaCl", "not_converged", None, None, None, None),
    ("NaCl", "NaCl", "relax_failed", None, None, None, None),
    ("NaCl", None, "not_attempted", None, None, None, None),
    ("NaCl", None, "not_attempted", None, None, None, None),
]


def write_system(folder, rows, marks=None, settled=False):
    """Write the tables of one system, `marks` in `unreliable` by row; return their paths by schema name."""
    tables = {name: [] for name in ("samples", "relaxed", "hull", "matches", "novelty", "fingerprints")}
    for i, (prompt, formula, relaxation, e_hull, matched, rmsd_norm, rmsd_ang) in enumerate(rows):
        key, cell = {"structure_id": f"sft-{i:06d}"}, CELL if formula else {}
        outcome = {"status": relaxation, "error": None if relaxation == "ok" else "why"}
        about = {
            "system": "sft",
            "prompt_formula": prompt,
            "formula": formula,
            "status": "ok" if formula else "parse_failed",
        }
        tables["samples"].append(key | about | cell)
        steps = {} if relaxation == "not_attempted" else {"n_steps": N_STEPS}
        steps |= {"n_settling_evaluations": N_SETTLING} if relaxation == "ok" and settled else {}
        tables["relaxed"].append(key | outcome | steps | {"potential": "p"} | (CELL if relaxation == "ok" else {}))
        hull = "no_reference" if relaxation == "ok" and e_hull is None else relaxation
        generated = None if e_hull is None else e_hull + 0.03
        e_hulls = {"e_above_hull_ev_per_atom": e_hull, "generated_e_above_hull_ev_per_atom": generated}
        e_hulls["plain_e_above_hull_ev_per_atom"] = e_hull + SETTLED_BY if settled and e_hull is not None else None
        tables["hull"].append(key | outcome | {"status": hull, **e_hulls, "unreliable": (marks or {}).get(i)})
        tables["matches"].append(key | outcome | {"matched": matched, "rmsd_norm": rmsd_norm, "rmsd_ang": rmsd_ang})
        tables["novelty"].append(key | {"status": "ok" if formula else "not_attempted"})
        tables["fingerprints"].append(key | {"status": "ok" if formula else "not_attempted", "content_key": "c"})
    for name, table in tables.items():
        write_table(folder / f"{name}.parquet", table, name)
    return {name: folder / f"{name}.parquet" for name in tables}


def row_of(folder, rows, seed=1, marks=None, settled=False):
    paths = write_system(folder, rows, marks, settled)
    frames = read_system(**{name: paths[name] for name in ("samples", "relaxed", "hull", "matches")})
    return row_of_system(SYSTEM, frames, SETTINGS, seed)


def test_denominators(tmp_path):
    row = row_of(tmp_path, ROWS)
    assert (row["n_samples"], row["n_relaxed"]) == (8, 4)
    assert row["stability_rate_pct"] == pytest.approx(100 * 2 / 4)
    assert row["stability_rate_all_pct"] == pytest.approx(100 * 2 / 8)
    assert row["stability_rate_prompted_pct"] == pytest.approx(100 * 1 / 8)
    assert row["parse_rate_pct"] == pytest.approx(100 * 6 / 8)
    assert row["formula_match_pct"] == pytest.approx(100 * 5 / 8)
    assert row["match_rate_pct"] == pytest.approx(100 * 3 / 4)
    assert row["rmsd_norm"] == pytest.approx(0.03)
    assert row["rmsd_ang"] == pytest.approx(0.09)
    assert row["e_hull_mean_ev_per_atom"] == pytest.approx(0.28 / 3)
    assert row["e_hull_median_ev_per_atom"] == pytest.approx(0.05)
    # linear interpolation between -0.02, 0.05 and 0.25
    assert row["e_hull_q25_ev_per_atom"] == pytest.approx(0.015)
    assert row["e_hull_q75_ev_per_atom"] == pytest.approx(0.15)
    assert row["e_hull_std_ev_per_atom"] == pytest.approx(np.std([0.05, 0.25, -0.02], ddof=1))
    # before relaxation, 0.03 higher each: 0.08 and as prompted, 0.28, 0.01 and not as prompted
    assert row["stability_rate_as_generated_pct"] == pytest.approx(100 * 1 / 8)
    assert row["e_hull_as_generated_median_ev_per_atom"] == pytest.approx(0.08)
    assert [row[f"unreliable_hull_pct{end}"] for end in ("", "_ci_low", "_ci_high")] == [0, 0, 0]
    assert row["stability_rate_strict_pct"] == 0
    # Six relaxations of nine steps for one stable sample of the prompted formula.
    assert row["evaluations_per_stable"] == pytest.approx(6 * (N_STEPS + 1))
    assert math.isnan(row["stability_rate_prompted_plain_pct"])
    for name in set(WITH_INTERVAL) - {
        *("unreliable_hull_pct", "stability_rate_strict_pct", "stability_rate_prompted_plain_pct"),
        "evaluations_per_stable",
    }:
        assert row[f"{name}_ci_low"] < row[name] < row[f"{name}_ci_high"]


def test_settled_samples_are_judged_where_they_settled_and_their_cost_counts(tmp_path):
    """One stable sample was above the limit where it first converged; one is strictly stable and as prompted."""
    strictly = ("NaCl", "NaCl", "ok", 0.01, True, 0.01, 0.03)
    row = row_of(tmp_path, [*ROWS, strictly], settled=True)
    assert row["stability_rate_prompted_pct"] == pytest.approx(100 * 2 / 9)
    assert row["stability_rate_prompted_plain_pct"] == pytest.approx(100 * 1 / 9)
    assert row["stability_rate_strict_pct"] == pytest.approx(100 * 1 / 9)
    # Seven relaxations, five of them settled, for two stable samples of the prompted formula.
    assert row["evaluations_per_stable"] == pytest.approx((7 * (N_STEPS + 1) + 5 * N_SETTLING) / 2)
    assert row["evaluations_per_stable_ci_low"] < row["evaluations_per_stable"] < row["evaluations_per_stable_ci_high"]


def test_nothing_stable_has_no_yield(tmp_path):
    row = row_of(tmp_path, [("NaCl", "NaCl", "ok", 0.3, True, 0.0, 0.0)] * 3)
    assert math.isnan(row["evaluations_per_stable"])


def test_a_sample_on_an_unreliable_hull_is_stable_in_no_rate(tmp_path):
    """Of the two stable ones the first is marked, as it would be on a hull of elements alone; its E_hull stays."""
    row = row_of(tmp_path, ROWS, marks={0: "no_competing_compound", 1: "below_trusted_range"})
    assert row["stability_rate_pct"] == pytest.approx(100 * 1 / 4)
    assert row["stability_rate_all_pct"] == pytest.approx(100 * 1 / 8)
    assert row["stability_rate_prompted_pct"] == row["stability_rate_as_generated_pct"] == 0
    assert row["unreliable_hull_pct"] == pytest.approx(100 * 2 / 8)
    assert row["unreliable_hull_pct_ci_low"] < 25 < row["unreliable_hull_pct_ci_high"]
    assert row["e_hull_mean_ev_per_atom"] == pytest.approx(0.28 / 3)


def test_columns_and_order(tmp_path):
    expected = ["system", "label", "n_samples"]
    for name in ORDER:
        expected += [name, f"{name}_ci_low", f"{name}_ci_high"] if name in WITH_INTERVAL else [name]
    assert list(row_of(tmp_path, ROWS)) == expected


def test_order_of_rows_does_not_matter(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    assert row_of(tmp_path / "a", ROWS) == pytest.approx(row_of(tmp_path / "b", ROWS[::-1]), nan_ok=True)
    assert row_of(tmp_path / "a", ROWS, seed=1) != row_of(tmp_path / "a", ROWS, seed=2)


def test_threshold_is_strict(tmp_path):
    assert row_of(tmp_path, [("NaCl", "NaCl", "ok", 0.1, True, 0.0, 0.0)])["stability_rate_pct"] == 0


def test_system_without_samples(tmp_path):
    row = row_of(tmp_path, [])
    assert (row["n_samples"], row["n_relaxed"], row["n_prompted"]) == (0, 0, 0)
    assert all(math.isnan(row[name]) for name in row if not name.startswith("n_") and name not in ("system", "label"))


def test_system_where_all_failed(tmp_path):
    row = row_of(tmp_path, ROWS[-1:] * 5)
    assert (row["n_samples"], row["n_relaxed"]) == (5, 0)
    assert [row[n] for n in ("parse_rate_pct", "stability_rate_all_pct", "formula_match_pct")] == [0, 0, 0]
    for name in ("stability_rate_pct", "match_rate_pct", "rmsd_ang", "rmsd_norm", "e_hull_mean_ev_per_atom"):
        assert all(math.isnan(row[n]) for n in (name, f"{name}_ci_low", f"{name}_ci_high"))


def test_no_prompts_no_prompted_rates(tmp_path):
    row = row_of(tmp_path, [(None, *rest) for _, *rest in ROWS])
    for name in ("formula_match_pct", "stability_rate_prompted_pct", "stability_rate_as_generated_pct"):
        assert all(math.isnan(row[n]) for n in (name, f"{name}_ci_low", f"{name}_ci_high"))
    assert row["stability_rate_all_pct"] == pytest.approx(25)


def test_a_sample_without_prompt_is_in_no_rate_of_prompts(tmp_path):
    """One missing prompt of eight must not empty the rates of the other seven."""
    rows = [(None, *rest) if i == 1 else (prompt, *rest) for i, (prompt, *rest) in enumerate(ROWS)]
    row = row_of(tmp_path, rows)
    assert (row["n_samples"], row["n_prompted"]) == (8, 7)
    assert row["formula_match_pct"] == pytest.approx(100 * 4 / 7)
    assert row["stability_rate_prompted_pct"] == pytest.approx(100 * 1 / 7)
    assert row["stability_rate_all_pct"] == pytest.approx(100 * 2 / 8)
    assert row["parse_rate_pct"] == pytest.approx(100 * 6 / 8)
    assert some_lack_a_prompt(pd.DataFrame([row]))
    for prompts in ([None] * 8, ["NaCl"] * 8):
        row = row_of(tmp_path, [(prompt, *rest) for prompt, (_, *rest) in zip(prompts, ROWS, strict=True)])
        assert not some_lack_a_prompt(pd.DataFrame([row]))


def test_ratio_interval_against_the_delta_method():
    rng = np.random.default_rng(0)
    denominator = (rng.random(4000) < 0.3).astype(float)
    numerator = denominator * (rng.random(4000) < 0.4)
    ratio, n = numerator.sum() / denominator.sum(), denominator.sum()
    half = 1.96 * math.sqrt(ratio * (1 - ratio) / n)
    low, high = ratio_interval(numerator, denominator, 7, 2000)
    assert low == pytest.approx(ratio - half, abs=0.1 * half)
    assert high == pytest.approx(ratio + half, abs=0.1 * half)
    assert all(map(math.isnan, ratio_interval(np.zeros(3), np.zeros(3), 7, 10)))


def test_script_and_ledger(tmp_path):
    paths = write_system(tmp_path, ROWS)
    (tmp_path / "empty").mkdir()
    empty = write_system(tmp_path / "empty", [])
    snakemake = SimpleNamespace(
        input=InputFiles(fromdict={name: [str(paths[name]), str(empty[name])] for name in paths}),
        params=SimpleNamespace(settings=SETTINGS, seed=3, systems=[SYSTEM, {"system": "rl", "label": "RL"}]),
        output=SimpleNamespace(csv=tmp_path / "t.csv", parquet=tmp_path / "t.parquet"),
        log=[None],
    )
    main(snakemake)
    csv, parquet = pd.read_csv(tmp_path / "t.csv"), pd.read_parquet(tmp_path / "t.parquet")
    assert list(csv.columns) == list(parquet.columns) and list(csv["n_relaxed"]) == [4, 0]
    assert np.allclose(csv.iloc[:, 3:], parquet.iloc[:, 3:], rtol=1e-5, equal_nan=True)
    assert csv["e_hull_mean_ev_per_atom"][0] == 0.0933333  # six significant digits

    frames = read_system(**paths)
    rows = ledger_rows("sft", frames, {"sevennet": frames})
    counts = {(row["step"], row["status"]): row["n"] for row in rows}
    assert counts["sample", "parse_failed"] == 2 and counts["hull", "no_reference"] == 1
    assert all(sum(n for (step, _), n in counts.items() if step == s) == len(ROWS) for s, _ in counts)
    none = read_system(**empty)
    assert {(row["step"], row["n"]) for row in ledger_rows("rl", none, {"sevennet": none})} == {
        (step, 0) for step in ("sample", "relax", "hull", "match", "novelty", "fingerprint")
    }


def test_foreign_children_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    paths, other = write_system(tmp_path, ROWS), write_system(tmp_path / "other", ROWS[:3])
    with pytest.raises(TableError, match="5 missing ids"):
        read_system(paths["samples"], hull=other["hull"])
