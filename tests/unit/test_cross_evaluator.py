"""Cross-evaluator table: counted by hand; what an evaluator has no verdict on stays in the denominator."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from snakemake.iocontainers import InputFiles

import make_ledger
import make_table1
from hullseeker.metrics.cross_evaluator import row_of_system
from hullseeker.potentials.evaluators_of_run import evaluator_label, evaluators, repeated_evaluators
from hullseeker.tables.parquet import TableError, write_table
from hullseeker.tables.results import paths_by_evaluator
from make_cross_evaluator_table import main

SETTINGS = {"stable_below_ev_per_atom": 0.1, "strict_below_ev_per_atom": 0.02, "n_bootstrap": 500}
SYSTEM = {"system": "sft", "label": "SFT"}
RELAX = {
    "potential": "sevennet",
    "model": "7net-0",
    "device": "cuda",
    "max_steps": 50,
    "cross_check": [],
    "rattle_ang": 0.0,
}
CELL = {"lattice_ang": [4.0, 0, 0, 0, 4.0, 0, 0, 0, 4.0], "atomic_numbers": [11], "frac_coords": [0.0] * 3}

# E_hull under SevenNet and under CHGNet, or the status of a sample without one
ROWS = [
    (0.05, 0.02),
    (0.00, 0.30),
    (0.08, "not_converged"),
    (0.20, 0.05),
    (0.50, 0.90),
    ("relax_failed", 0.01),
    ("not_attempted", "not_attempted"),
    (0.10, 0.10),  # the threshold is strict
]


def row_of(rows, names=("sevennet", "chgnet"), seed=1, marks=None):
    columns = zip(*rows, strict=True)
    hulls = {
        name: pd.DataFrame(
            {
                "e_above_hull_ev_per_atom": [np.nan if isinstance(e, str) else e for e in column],
                "status": [e if isinstance(e, str) else "ok" for e in column],
                "unreliable": pd.Series([(marks or {}).get((name, i)) for i in range(len(column))], dtype=object),
            }
        )
        for name, column in zip(names, columns, strict=True)
    }
    return row_of_system(SYSTEM, hulls, SETTINGS, seed)


def test_rates_and_agreement_by_hand():
    row = row_of(ROWS)
    assert row["n_samples"] == 8
    assert row["sevennet_stable_pct"] == pytest.approx(100 * 3 / 8)
    assert row["chgnet_stable_pct"] == pytest.approx(100 * 3 / 8)
    assert row["all_stable_pct"] == pytest.approx(100 * 1 / 8)
    assert row["primary_only_stable_pct"] == pytest.approx(100 * 2 / 8)
    assert row["primary_confirmed_pct"] == pytest.approx(100 * 1 / 3)
    assert (row["n_primary_stable"], row["n_primary_stable_unjudged"], row["n_both_chgnet"]) == (3, 1, 5)
    # differences 0.03, 0.30, 0.15, 0.40, 0; rank differences 1, -3, 2, 0, 0: 1 - 6 * 14 / (5 * 24)
    assert row["chgnet_median_abs_difference_ev_per_atom"] == pytest.approx(0.15)
    assert row["chgnet_spearman_rho"] == pytest.approx(0.3)
    for name in row:
        if f"{name}_ci_low" in row:
            assert row[f"{name}_ci_low"] <= row[name] <= row[f"{name}_ci_high"]
            assert row[f"{name}_ci_low"] < row[f"{name}_ci_high"] or name.endswith("unreliable_hull_pct")


def test_what_an_unreliable_hull_says_is_no_verdict():
    """The second row has no compound beside it under both evaluators, the first lies too low under the second alone."""
    marks = {(name, 1): "no_competing_compound" for name in ("sevennet", "chgnet")}
    row = row_of(ROWS, marks=marks | {("chgnet", 0): "below_trusted_range"})
    assert (row["sevennet_stable_pct"], row["sevennet_unreliable_hull_pct"]) == (100 * 2 / 8, 100 * 1 / 8)
    assert (row["chgnet_stable_pct"], row["chgnet_unreliable_hull_pct"]) == (100 * 2 / 8, 100 * 2 / 8)
    assert row["all_stable_pct"] == 0
    assert (row["n_primary_stable"], row["n_primary_stable_unjudged"], row["n_both_chgnet"]) == (2, 2, 5)


def test_ties_get_the_mean_rank():
    row = row_of([(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
    assert row["chgnet_spearman_rho"] == pytest.approx(0.5)  # ranks 1.5, 1.5, 3 and 1, 2.5, 2.5
    assert math.isnan(row_of([(0.0, 0.0), (0.0, 1.0)])["chgnet_spearman_rho"])  # one value only: no order


def test_an_evaluator_that_fails_everywhere_confirms_nothing():
    row = row_of([(e, "relax_failed") for e, _ in ROWS])
    assert row["chgnet_stable_pct"] == row["all_stable_pct"] == row["primary_confirmed_pct"] == 0
    assert row["primary_only_stable_pct"] == row["sevennet_stable_pct"] == pytest.approx(100 * 3 / 8)
    assert (row["n_primary_stable"], row["n_primary_stable_unjudged"], row["n_both_chgnet"]) == (3, 3, 0)
    for name in ("chgnet_spearman_rho", "chgnet_median_abs_difference_ev_per_atom"):
        assert all(math.isnan(row[n]) for n in (name, f"{name}_ci_low", f"{name}_ci_high"))


def test_nothing_stable_under_the_primary_leaves_nothing_to_confirm():
    row = row_of([("relax_failed", e) for _, e in ROWS])
    assert row["sevennet_stable_pct"] == row["all_stable_pct"] == row["primary_only_stable_pct"] == 0
    assert row["chgnet_stable_pct"] == pytest.approx(100 * 3 / 8)
    assert all(math.isnan(row[f"primary_confirmed_pct{end}"]) for end in ("", "_ci_low", "_ci_high"))
    assert row_of([(0.5, 0.5)])["n_both_chgnet"] == 1


def test_three_evaluators():
    row = row_of([(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, "not_converged")], names=("uma", "sevennet", "chgnet"))
    assert (row["uma_stable_pct"], row["sevennet_stable_pct"], row["chgnet_stable_pct"]) == (100, 50, 25)
    # stable under the first two and not under the third is neither under all nor under the primary only
    assert (row["all_stable_pct"], row["primary_only_stable_pct"], row["primary_confirmed_pct"]) == (25, 50, 25)
    assert (row["n_both_sevennet"], row["n_both_chgnet"], row["n_primary_stable_unjudged"]) == (4, 3, 1)


def test_order_of_rows_does_not_matter():
    assert row_of(ROWS) == pytest.approx(row_of(ROWS[::-1]))
    assert row_of(ROWS, seed=1) != row_of(ROWS, seed=2)


def write_tables(folder):
    """Write the samples and each evaluator's tables of two systems, the second without samples; return their paths."""
    paths = {name: [] for name in ("samples", "novelty", "fingerprints", "relaxed", "hull", "matches")}
    ids = [f"sft-{i:06d}" for i in range(len(ROWS))]

    def put(name, place, rows):
        paths[name].append(str(folder / f"{name}-{place}.parquet"))
        write_table(paths[name][-1], rows, name)

    for system, n in (("sft", len(ROWS)), ("rl", 0)):
        about = {"status": "ok", "system": "sft", "formula": "Na", "prompt_formula": "Na"}
        put("samples", system, [{"structure_id": i, **about, **CELL} for i in ids[:n]])
        put("novelty", system, [{"structure_id": i, "status": "ok"} for i in ids[:n]])
        put("fingerprints", system, [{"structure_id": i, "status": "ok", "content_key": "c"} for i in ids[:n]])
    for place, evaluator in enumerate(("sevennet", "chgnet")):
        for system, n in (("sft", len(ROWS)), ("rl", 0)):
            outcomes = [
                {"structure_id": i, "status": e if isinstance(e, str) else "ok"}
                for i, e in zip(ids[:n], [row[place] for row in ROWS], strict=False)
            ]
            put("relaxed", f"{evaluator}-{system}", [{**row, "potential": evaluator} for row in outcomes])
            put("matches", f"{evaluator}-{system}", outcomes)
            energies = [None if isinstance(row[place], str) else row[place] for row in ROWS]
            hull = [{**row, "e_above_hull_ev_per_atom": e} for row, e in zip(outcomes, energies, strict=False)]
            put("hull", f"{evaluator}-{system}", hull)
    return paths


def job(folder, paths, **params):
    systems = [SYSTEM, {"system": "rl", "label": "RL"}]
    return SimpleNamespace(
        input=InputFiles(fromdict=paths),
        params=SimpleNamespace(settings=SETTINGS, seed=3, systems=systems, **params),
        output=SimpleNamespace(csv=folder / "t.csv", parquet=folder / "t.parquet"),
        log=[None],
    )


def test_script_and_table1s_interval(tmp_path):
    paths = write_tables(tmp_path)
    main(job(tmp_path, {n: paths[n] for n in ("samples", "hull")}, evaluators=["sevennet", "chgnet"]))
    frame = pd.read_csv(tmp_path / "t.csv").set_index("system")
    assert frame.loc["sft", "chgnet_spearman_rho"] == pytest.approx(0.3)
    assert frame.loc["rl", "n_samples"] == 0
    assert frame.loc["rl"].drop(["label", "n_samples"]).filter(regex="pct|rho|difference").isna().all()
    primary = {n: paths[n][:2] for n in ("samples", "relaxed", "hull", "matches")}
    make_table1.main(job(tmp_path, primary))
    table1 = pd.read_csv(tmp_path / "t.csv").set_index("system")
    for end in ("", "_ci_low", "_ci_high"):
        assert frame.loc["sft", f"sevennet_stable_pct{end}"] == table1.loc["sft", f"stability_rate_all_pct{end}"]


def test_the_ledger_counts_every_evaluators_steps(tmp_path):
    paths = write_tables(tmp_path)
    make_ledger.main(job(tmp_path, paths, evaluators=["sevennet", "chgnet"]))
    ledger = pd.read_csv(tmp_path / "t.csv")
    n = ledger.fillna({"evaluator": "none"}).set_index(["system", "step", "evaluator", "status"])["n"]
    assert n["sft", "relax", "sevennet", "relax_failed"] == 1
    assert n["sft", "hull", "chgnet", "not_converged"] == 1
    assert n["sft", "sample", "none", "ok"] == len(ROWS)
    totals = n["sft"].groupby(["step", "evaluator"]).sum()
    assert len(totals) == 3 + 3 * 2
    assert (totals == len(ROWS)).all()
    one = {name: tables if len(tables) == 2 else tables[:2] for name, tables in paths.items()}
    make_ledger.main(job(tmp_path, one, evaluators=["sevennet"]))
    assert list(pd.read_csv(tmp_path / "t.csv")) == ["system", "step", "status", "n"]


def test_a_table_of_another_evaluator_is_not_taken_for_a_systems(tmp_path):
    paths = write_tables(tmp_path)
    with pytest.raises(ValueError, match="3 tables for 2 evaluators of 2 systems"):
        paths_by_evaluator(paths["hull"][:3], ["sevennet", "chgnet"], 2)
    swapped = {"samples": paths["samples"], "hull": paths["hull"][::-1]}
    with pytest.raises(TableError, match="missing ids"):
        main(job(tmp_path, swapped, evaluators=["sevennet", "chgnet"]))


def test_an_evaluator_that_rattles_has_a_name_of_its_own():
    further = [{"potential": "sevennet", "rattle_ang": 0.1}, {"potential": "chgnet"}]
    found = evaluators(RELAX | {"cross_check": further})
    assert list(found) == ["sevennet", "sevennet_rattled", "chgnet"]
    assert [settings["rattle_ang"] for settings in found.values()] == [0.0, 0.1, 0.0]
    assert evaluator_label(found["sevennet_rattled"]) == "sevennet 7net-0, rattled by 0.1 Å"
    assert [settings["rattle_ang"] for settings in evaluators(RELAX | {"rattle_ang": 0.2}).values()] == [0.2]
    assert repeated_evaluators(RELAX | {"cross_check": further}) == []
    assert len(repeated_evaluators(RELAX | {"cross_check": further[:1] * 2})) == 1


def test_a_cross_check_inherits_all_but_the_model():
    further = [{"potential": "chgnet", "device": "cpu"}, {"potential": "sevennet", "model": "my/7net-l3i5.pth"}]
    found = evaluators(RELAX | {"cross_check": further})
    shared = {"potential": "sevennet", "model": "7net-0", "device": "cuda", "max_steps": 50, "rattle_ang": 0.0}
    assert found == {
        "sevennet": shared,
        "chgnet": shared | {"potential": "chgnet", "model": None, "device": "cpu"},
        "sevennet_my_7net_l3i5_pth": shared | {"model": "my/7net-l3i5.pth"},
    }
    assert list(found)[0] == "sevennet"
    labels = ["sevennet 7net-0", "chgnet 0.3.0", "sevennet my/7net-l3i5.pth"]
    assert [evaluator_label(settings) for settings in found.values()] == labels
