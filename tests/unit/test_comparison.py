"""Comparison: pooled values, differences and ratios against hand computation and a plain loop."""

import numpy as np
import pandas as pd
import pytest

from hullseeker.metrics.comparison import Measured, compared, comparison_rows, draw_prompts, draw_replicates, values_of
from hullseeker.report.comparison_table import columns_of

PROMPTS = np.array(["NaCl", "NaCl", "KBr", "KBr"], dtype=object)


def measured(flags, prompts=PROMPTS, **distances) -> Measured:
    flags = np.asarray(flags, dtype=float)
    return Measured(np.asarray(prompts, dtype=object), {"rate_pct": (100 * flags, np.ones(len(flags)))}, distances)


def test_the_first_draw_is_the_data():
    draws = draw_prompts(["KBr", "NaCl"], seed=1, n_resamples=3)
    counts = draw_replicates(2, seed=2, n_resamples=3)
    values = values_of([measured([1, 0, 0, 0]), measured([1, 1, 1, 0])], "rate_pct", draws, counts)
    assert values[0] == pytest.approx(50.0)
    assert draws.counts.sum(axis=1).tolist() == [2] * 4
    assert counts.sum(axis=1).tolist() == [2] * 4


def test_resamples_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    prompts = np.array(sorted(["NaCl", "KBr", "MgO", "CsCl"] * 3), dtype=object)
    names = sorted(set(prompts))
    some = [measured(rng.integers(0, 2, 12), prompts) for _ in range(2)]
    points = rng.normal(size=(12, 3))
    rows = np.array([0, 2, 3, 7, 9, 11])
    matrix = np.linalg.norm(points[rows, None] - points[None, rows], axis=-1)
    some = [Measured(one.prompts, one.ratios, {"diversity": (matrix, rows)}) for one in some]
    draws, counts = draw_prompts(names, 3, 20), draw_replicates(2, 4, 20)
    rates, diversities = (values_of(some, name, draws, counts) for name in ("rate_pct", "diversity"))
    for k in range(21):
        drawn = [name for name, n in zip(names, draws.counts[k], strict=True) for _ in range(int(n))]
        flags, pairs = [], []
        for one, n in zip(some, counts[k], strict=True):
            for _ in range(int(n)):
                flags += [one.ratios["rate_pct"][0][i] for name in drawn for i in np.flatnonzero(prompts == name)]
                picked = [j for name in drawn for j in range(6) if prompts[rows[j]] == name]
                own = [matrix[a, b] for a in picked for b in picked if a != b]
                pairs.append(np.mean(own) if own else np.nan)
        assert rates[k] == pytest.approx(np.mean(flags))
        assert diversities[k] == pytest.approx(np.mean(pairs), nan_ok=True)


def test_difference_and_ratio_are_paired():
    """Two systems of which one is always 10 points above have a difference without scatter."""
    draws = draw_prompts(["KBr", "NaCl"], 5, 200)
    once = draw_replicates(1, 6, 200)
    low = values_of([measured([0, 1, 0, 0])], "rate_pct", draws, once)
    found = compared(low + 10.0, low)
    assert (found["_difference"], found["_difference_ci_low"], found["_difference_ci_high"]) == pytest.approx((10,) * 3)
    assert found["_ratio"] == pytest.approx(35 / 25)
    assert found["_ci_low"] < found[""] < found["_ci_high"]
    assert np.isnan(compared(np.ones(3), np.zeros(3))["_ratio"])


def test_rows_per_system_and_replicate():
    settings = {"n_bootstrap": 100}
    some = {"sft": [measured([1, 0, 0, 0]), measured([1, 1, 0, 0])], "rl": [measured([1, 1, 1, 0])] * 2}
    rows = comparison_rows(some, "sft", settings, seed=7)
    assert [(row["system"], row["replicate"], row["n_samples"]) for row in rows] == [
        *(("sft", None, 8), ("sft", 1, 4), ("sft", 2, 4)),
        *(("rl", None, 8), ("rl", 1, 4), ("rl", 2, 4)),
    ]
    assert rows[0]["rate_pct"] == pytest.approx(37.5)
    assert rows[0]["rate_pct_difference"] == 0.0
    assert rows[3]["rate_pct_difference"] == pytest.approx(37.5)
    assert rows[3]["rate_pct_ratio"] == pytest.approx(2.0)
    assert rows == comparison_rows(some, "sft", settings, seed=7)


def test_other_prompts_cannot_be_compared():
    some = {"sft": [measured([1, 0, 0, 0])], "rl": [measured([1, 0], ["NaCl", "MgO"])]}
    with pytest.raises(ValueError, match="have different prompts"):
        comparison_rows(some, "sft", {"n_bootstrap": 10}, seed=1)


def test_printed_lines():
    some = {"sft": [measured([1, 0, 0, 0]), measured([1, 1, 0, 0])], "rl": [measured([0, 0, 0, 0])] * 2}
    frame = pd.DataFrame(comparison_rows(some, "sft", {"n_bootstrap": 50}, seed=7))
    frame.columns = [name.replace("rate_pct", "parse_rate_pct") for name in frame.columns]
    frame.insert(1, "label", frame["system"].str.upper())
    columns = {column.heading: column.cells for column in columns_of(frame, "sft")}
    assert columns["System"] == [("SFT", ""), ("RL", "")]
    assert columns["Is a crystal, of all (%) ↑"][0][0] == "37.5"
    assert columns["by seed"][0][0] == "25.0, 50.0"
    assert columns["difference from SFT"][0] == ("", "")
    assert columns["difference from SFT"][1][0] == "−37.5"
    assert columns["ratio to SFT"][1][0] == "0.00"
