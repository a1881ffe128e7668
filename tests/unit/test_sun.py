"""S.U.N. and the reward audit against loops that count row by row."""

import math

import numpy as np
import pandas as pd
import pytest

from hullseeker.metrics.audit import changes_by_rl
from hullseeker.metrics.audit import row_of_system as audit_row
from hullseeker.metrics.sun import row_of_system as sun_row

SYSTEM = {"system": "rl", "label": "RL"}
SETTINGS = {"stable_below_ev_per_atom": 0.1, "strict_below_ev_per_atom": 0.02, "n_bootstrap": 200}


def random_frames(seed, n):
    rng = np.random.default_rng(seed)
    e_hull = rng.choice([-0.1, 0.0, 0.05, 0.1, 0.5, np.nan], n)
    flags = [[None if x == 2 else bool(x) for x in rng.integers(0, 3, n)] for _ in range(2)]
    marks = np.array([None, None, None, "no_competing_compound", "below_trusted_range"], dtype=object)[
        rng.integers(0, 5, n)
    ]
    frames = {
        "samples": pd.DataFrame(index=range(n)),
        "hull": pd.DataFrame({"e_above_hull_ev_per_atom": e_hull, "unreliable": marks}),
        "novelty": pd.DataFrame({"is_unique": flags[0], "is_novel": flags[1]}, dtype=object),
    }
    trusted = np.where([mark is None for mark in marks], e_hull, np.nan)
    return frames, list(zip(trusted, *flags, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_against_counting(seed):
    n = 400
    frames, rows = random_frames(seed, n)
    row = sun_row(SYSTEM, frames, SETTINGS, 5)
    stable = sum(1 for e, unique, novel in rows if not math.isnan(e) and e < 0.1 and unique and novel)
    on_hull = sum(1 for e, unique, novel in rows if not math.isnan(e) and e <= 0 and unique and novel)
    assert 0 < on_hull < stable
    assert row["sun_pct"] == pytest.approx(100 * stable / n)
    assert row["sun_on_hull_pct"] == pytest.approx(100 * on_hull / n)
    assert row["unique_pct"] == pytest.approx(100 * sum(1 for _, unique, _ in rows if unique) / n)
    marked = sum(1 for mark in frames["hull"]["unreliable"] if mark is not None)
    assert row["unreliable_hull_pct"] == pytest.approx(100 * marked / n)
    assert row["novel_pct"] == pytest.approx(100 * sum(1 for *_, novel in rows if novel) / n)
    names = [k for k in row if k not in ("system", "label", "n_samples")]
    assert names == [
        f"{k}{end}"
        for k in ("sun_pct", "sun_on_hull_pct", "unique_pct", "novel_pct", "unreliable_hull_pct")
        for end in ("", "_ci_low", "_ci_high")
    ]
    assert row["sun_pct_ci_low"] <= row["sun_pct"] <= row["sun_pct_ci_high"]


def test_no_samples():
    row = sun_row(SYSTEM, random_frames(0, 0)[0], SETTINGS, 5)
    assert row["n_samples"] == 0
    assert all(math.isnan(row[k]) for k in ("sun_pct", "sun_pct_ci_low", "unique_pct", "novel_pct_ci_high"))


AUDIT = [
    "chgnet_energy",
    "chgnet_reference_energy",
    "e_above_hull",
    "chgnet_formation_energy",
    "evaluator_formation_energy",
]


def audit_frame(rows):
    frame = pd.DataFrame(rows, columns=[f"{name}_ev_per_atom" for name in AUDIT], dtype=float)
    return frame.assign(unreliable=pd.Series([None] * len(frame), dtype=object))


def test_audit_by_hand():
    nan = float("nan")
    frame = audit_frame(
        [
            (-5.0, -4.0, 0.30, -2.0, 0.5),  # better by reward, unstable
            (-5.0, -4.0, 0.05, -1.0, -0.5),  # better by reward, stable
            (-3.0, -4.0, 0.30, 0.0, 0.25),  # worse by reward
            (-5.0, nan, 0.30, -0.5, 0.0),  # not in the data set
            (-5.0, -4.0, nan, nan, nan),  # not relaxed: the evaluator says nothing
        ]
    )
    row = audit_row(SYSTEM, frame, SETTINGS, 5)
    assert (row["n_samples"], row["n_audited"], row["n_with_reference"]) == (5, 4, 4)
    assert row["fooled_pct"] == pytest.approx(20)
    assert row["mean_gap_ev_per_atom"] == pytest.approx((-2.5 - 0.5 - 0.25 - 0.5) / 4)
    assert row["median_gap_ev_per_atom"] == pytest.approx(-0.5)
    assert row["chgnet_median_formation_energy_ev_per_atom"] == pytest.approx(-0.75)
    assert row["evaluator_median_formation_energy_ev_per_atom"] == pytest.approx(0.125)
    assert row["unreliable_hull_pct"] == 0
    marked = frame.assign(unreliable=["no_competing_compound", "below_trusted_range", None, None, None])
    on_no_hull = audit_row(SYSTEM, marked, SETTINGS, 5)
    # What lies above a hull of elements alone lies above any other: still fooled.
    assert (on_no_hull["fooled_pct"], on_no_hull["unreliable_hull_pct"]) == pytest.approx((20, 40))
    # ranks 1 2 4 3 and 4 1 3 2: 1 - 6 (9 + 1 + 1 + 1) / (4 * 15) = -0.2
    assert row["spearman_rho"] == pytest.approx(-0.2)


def test_audit_of_nothing():
    row = audit_row(SYSTEM, audit_frame([]), SETTINGS, 5)
    assert row["n_samples"] == 0 and math.isnan(row["spearman_rho"]) and math.isnan(row["fooled_pct"])
    assert math.isnan(audit_row(SYSTEM, audit_frame([(-1, -1, 0, 0, 0)]), SETTINGS, 5)["spearman_rho"])


def test_what_rl_changed_is_after_minus_before():
    """Before: none of 40 fooled, gap -0.5, ranks agree. After: half fooled, gap -1.5, ranks reversed."""
    before = audit_frame([(-3.0, -4.0, 0.3, e - 0.5, e) for e in range(40)])
    after = audit_frame([(-5.0, -4.0, 0.3 * (e % 2), 37.0 - e, e) for e in range(40)])
    row = changes_by_rl(SYSTEM, before, after, SETTINGS, 5)
    assert row["fooled_change_pct"] == pytest.approx(50)
    assert row["spearman_rho_change"] == pytest.approx(-2)
    assert row["median_gap_change_ev_per_atom"] == pytest.approx(-2 + 0.5)
    assert 30 < row["fooled_change_pct_ci_low"] < 50 < row["fooled_change_pct_ci_high"] < 70
    assert row == changes_by_rl(SYSTEM, before.iloc[::-1], after.iloc[::-1], SETTINGS, 5)
    assert all(math.isnan(value) for value in changes_by_rl(SYSTEM, None, after, SETTINGS, 5).values())
    nothing = changes_by_rl(SYSTEM, audit_frame([]), after, SETTINGS, 5)
    assert len(nothing) == 9 and all(math.isnan(value) for value in nothing.values())
