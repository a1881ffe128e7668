"""The paper's reward, and that failures of the potential never become rewards."""

import math

import numpy as np
import pytest

from hullseeker.crystal_text import TextFormat
from hullseeker.potentials import load_potential
from hullseeker.rewards import RewardPotentialError, score_completions, summarise

ROCKSALT = "4.0 4.0 4.0\n60 60 60\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"
COPPER = "2.6 2.6 2.6\n60 60 60\nCu\n0.00 0.00 0.00"


class Stub:
    """A potential with energies by number of atoms; one that raises on what it does not know, as real ones do."""

    name = "stub"

    def __init__(self, energies):
        self.by_size = energies

    def energies(self, cells):
        return np.array([self.by_size[len(cell)] for cell in cells])


def score(completions, formulas, potential, **changes):
    settings = {"invalid_reward": -0.1, "energy_clip_ev_per_atom": (-15.0, 5.0), "max_failure_share": 0.2, **changes}
    return score_completions(completions, formulas, potential, TextFormat(), **settings)


def test_reward_is_minus_the_energy_and_a_penalty_for_no_crystal():
    scored = score([ROCKSALT, "no crystal", COPPER], ["NaCl", "NaCl", "NaCl"], Stub({2: -3.4, 1: -4.1}))
    assert [s.reward for s in scored] == [3.4, -0.1, 4.1]
    assert [s.obeys_formula for s in scored] == [True, False, False]
    assert summarise(scored) == {
        "parse_share": 2 / 3,
        "formula_match_share": 1 / 3,
        "coincident_share": 0.0,
        "clipped_share": 0.0,
    }


def test_energies_beyond_the_clip_are_clipped_and_counted():
    scored = score([ROCKSALT, COPPER], ["NaCl", "Cu"], Stub({2: -400.0, 1: 90.0}))
    assert [s.reward for s in scored] == [15.0, -5.0]
    assert summarise(scored)["clipped_share"] == 1.0


def test_a_crystal_the_potential_cannot_take_gets_the_worst_reward_and_costs_no_other():
    scored = score([ROCKSALT] * 9 + [COPPER], ["NaCl"] * 10, Stub({2: -3.4}))
    assert [s.reward for s in scored] == [3.4] * 9 + [-5.0]
    scored = score([ROCKSALT] * 9 + [COPPER], ["NaCl"] * 10, Stub({2: -3.4, 1: math.nan}))
    assert scored[-1].reward == -5.0
    assert scored[-1].was_clipped


def test_atoms_on_one_site_get_the_worst_reward_and_are_no_failure_of_the_potential():
    """Also where the site is written as its own image: 0.00 and 1.00."""
    image = "4.0 4.0 4.0\n60 60 60\nNa\n0.00 0.00 0.00\nCl\n1.00 0.00 0.00"
    scored = score([image] * 5, ["NaCl"] * 5, load_potential("chgnet"))
    assert [s.reward for s in scored] == [-5.0] * 5
    assert summarise(scored)["coincident_share"] == summarise(scored)["clipped_share"] == 1.0


def test_a_potential_that_dies_stops_the_run():
    with pytest.raises(RewardPotentialError, match="failed on 2 of 2 crystals"):
        score([ROCKSALT, COPPER], ["NaCl", "Cu"], Stub({}))


def test_no_crystal_at_all_is_no_failure_of_the_potential():
    assert [s.reward for s in score(["", ""], ["NaCl", "Cu"], Stub({}))] == [-0.1, -0.1]
