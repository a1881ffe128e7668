"""Rewards: the paper's exactly, every term, and that no way of cheating pays under `stable`."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs import text_format
from hullseeker.language_model.crystal_text import parse_crystal
from hullseeker.metrics.matching import group_by_formula
from hullseeker.potentials.interface import Evaluation, load_potential
from hullseeker.rewards.packing import packing_fingerprint, same_packing
from hullseeker.rewards.presets import OPTIONS, RewardTerm, potentials_with_hull, reward_terms
from hullseeker.rewards.terms import TERMS, Reward, RewardContext, RewardPotentialError
from hullseeker.tables.structures import to_structure
from hullseeker.workflow.config_names import fill_names

ROOT = Path(__file__).parents[2]
PRESETS = yaml.safe_load((ROOT / "config.yaml").read_text())["grpo"]["rewards"]
ROCKSALT = "4.0 4.0 4.0\n60 60 60\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"
CESIUM_CHLORIDE = "3.3 3.3 3.3\n90 90 90\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"
ZINCBLENDE = "4.2 4.2 4.2\n60 60 60\nNa\n0.00 0.00 0.00\nCl\n0.25 0.25 0.25"
LAYERED = "3.4 3.4 6.5\n90 90 90\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.40"
OVERLAPPING = "4.0 4.0 4.0\n60 60 60\nNa\n0.00 0.00 0.00\nCl\n0.10 0.10 0.10"
COPPER = "2.6 2.6 2.6\n60 60 60\nCu\n0.00 0.00 0.00"
HULL = {"NaCl": -3.4, "Cu": -4.1}


class Stub:
    """A potential with energies by number of atoms, or by volume; one that raises on what it does not know."""

    name, covered_atomic_numbers, cutoff_ang = "stub", frozenset(range(1, 95)), 5.0

    def __init__(self, energies=None, by_volume=None):
        self.by_size, self.by_volume, self.n_evaluated = energies, by_volume, 0

    def energies(self, cells):
        self.n_evaluated += len(cells)
        if self.by_volume:
            return np.array([self.by_volume(cell.get_volume()) for cell in cells])
        return np.array([self.by_size[len(cell)] for cell in cells])

    def evaluate(self, cells):
        energies = self.energies(cells)
        return [
            Evaluation(e * len(c), np.zeros((len(c), 3)), np.zeros((3, 3)))
            for e, c in zip(energies, cells, strict=True)
        ]


class Drawn(Stub):
    """Energies handed out in order, whatever the cell."""

    def __init__(self, energies):
        super().__init__()
        self.drawn = iter(energies)

    def energies(self, cells):
        return np.array([next(self.drawn) for _ in cells])


def reward_of(preset, potential, **context):
    terms = reward_terms(PRESETS[preset] if isinstance(preset, str) else preset)
    hulls = context.pop("hulls", {potential.name: HULL})
    return Reward(
        terms, RewardContext(text_format(), {potential.name: potential}, hulls, **{"max_failure_share": 0.2} | context)
    )


def score(completions, formulas, potential, preset="paper", **context):
    return reward_of(preset, potential, **context).score(completions, formulas)


def advantages(rewards, group_size):
    groups = np.reshape(rewards, (-1, group_size))
    return (groups - groups.mean(axis=1, keepdims=True)).ravel()


def test_the_papers_reward_is_minus_the_energy_and_a_penalty_for_no_crystal():
    scores = score([ROCKSALT, "no crystal", COPPER], ["NaCl", "NaCl", "NaCl"], Stub({2: -3.4, 1: -4.1}))
    assert scores.rewards.tolist() == [3.4, -0.1, 4.1]
    assert scores.batch.is_answer.tolist() == [True, False, False]
    expected = {
        "parse_share": 2 / 3,
        "cut_share": 0.0,
        "formula_match_share": 1 / 3,
        "coincident_share": 0.0,
        "clipped_share": 0.0,
        "silence_paid_share": 0.0,
        "below_silence_share": 0.0,
        "energy_mean": pytest.approx(7.4 / 3),
        "energy_clipped_share": 0.0,
        "energy_failed_share": 0.0,
    }
    assert scores.summary() == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_a_cut_answer_earns_what_no_crystal_earns(preset):
    """Though what there is of it reads as a crystal of the prompted formula."""
    training = group_by_formula([("NaCl", to_structure(parse_crystal(ROCKSALT, text_format()).columns))])
    reward = reward_of(preset, Stub({2: -3.4}), training=training)
    scores = reward.score([ROCKSALT, ROCKSALT, "no crystal"], ["NaCl"] * 3, [False, True, False])
    assert scores.rewards[1] == scores.rewards[2] == scores.reward_without_crystal < scores.rewards[0]
    assert scores.batch.is_crystal.tolist() == scores.batch.is_answer.tolist() == [True, False, False]
    assert (scores.summary()["cut_share"], scores.summary()["parse_share"]) == (1 / 3, 1 / 3)
    with pytest.raises(ValueError):
        reward.score([ROCKSALT] * 2, ["NaCl"] * 2, [True])


def test_the_papers_reward_is_what_it_was_before_there_were_terms():
    """Against the plain formula: minus the energy, clipped to -15 to 5 eV/atom; -0.1 where there is no crystal."""
    drawn = np.random.default_rng(3).normal(-3.0, 9.0, 500)
    texts = ["", ROCKSALT] * 500
    found = score(texts, ["NaCl"] * 1000, Drawn(drawn)).rewards
    expected = [x for energy in drawn for x in (-0.1, -min(max(float(energy), -15.0), 5.0))]
    assert found.tolist() == expected


def test_energies_beyond_the_clip_are_clipped_and_counted():
    scores = score([ROCKSALT, COPPER], ["NaCl", "Cu"], Stub({2: -400.0, 1: 90.0}))
    assert scores.rewards.tolist() == [15.0, -5.0]
    assert scores.summary()["clipped_share"] == scores.summary()["energy_clipped_share"] == 1.0


def test_a_crystal_the_potential_cannot_take_gets_the_worst_reward_and_costs_no_other():
    scores = score([ROCKSALT] * 9 + [COPPER], ["NaCl"] * 10, Stub({2: -3.4}))
    assert scores.rewards.tolist() == [3.4] * 9 + [-5.0]
    scores = score([ROCKSALT] * 9 + [COPPER], ["NaCl"] * 10, Stub({2: -3.4, 1: math.nan}))
    assert scores.rewards[-1] == -5.0
    assert scores.summary()["clipped_share"] == scores.summary()["energy_failed_share"] == 0.1


def test_atoms_on_one_site_get_the_worst_reward_and_are_no_failure_of_the_potential():
    """Also where the site is written as its own image: 0.00 and 1.00."""
    image = "4.0 4.0 4.0\n60 60 60\nNa\n0.00 0.00 0.00\nCl\n1.00 0.00 0.00"
    scores = score([image] * 5, ["NaCl"] * 5, load_potential("chgnet"))
    assert scores.rewards.tolist() == [-5.0] * 5
    assert scores.summary()["coincident_share"] == scores.summary()["clipped_share"] == 1.0
    assert scores.summary()["energy_failed_share"] == 0.0


@pytest.mark.parametrize("preset", ["paper", "stable", {"relaxed_match": {"n_steps": 2}}])
def test_a_potential_that_dies_stops_the_run(preset):
    with pytest.raises(RewardPotentialError, match="failed on 2 of 2 crystals"):
        score([ROCKSALT, COPPER], ["NaCl", "Cu"], Stub({}), preset)


def test_no_crystal_at_all_is_no_failure_of_the_potential():
    assert score(["", ""], ["NaCl", "Cu"], Stub({})).rewards.tolist() == [-0.1, -0.1]
    assert score(["", ""], ["NaCl", "Cu"], Stub({}), "stable").rewards.tolist() == [0.0, 0.0]


# First fact: within a prompt the hull energy is a constant, and the baseline removes constants.
LINEAR = {"e_hull": {"shape": "linear", "clip": [-50.0, 50.0], "implausible_ev_per_atom": -50.0}}


def test_a_linear_hull_reward_has_the_advantages_of_the_energy():
    drawn = np.random.default_rng(5).normal(-3.0, 1.0, 32)
    texts, formulas = [ROCKSALT] * 16 + [COPPER] * 16, ["NaCl"] * 16 + ["Cu"] * 16
    of_energy = score(texts, formulas, Drawn(drawn)).rewards
    of_hull = score(texts, formulas, Drawn(drawn), LINEAR).rewards
    assert np.abs(of_energy - of_hull).min() > 1.0
    np.testing.assert_allclose(advantages(of_hull, 16), advantages(of_energy, 16), atol=1e-13)
    bounded = score(texts, formulas, Drawn(drawn), {"e_hull": {}}).rewards
    assert np.abs(advantages(bounded, 16) - advantages(of_energy, 16)).max() > 0.1


def test_they_differ_where_an_answer_switches_the_formula():
    potential, texts = Stub({2: -3.4, 1: -4.1}), [ROCKSALT] * 3 + [COPPER]
    of_energy = advantages(score(texts, ["NaCl"] * 4, potential).rewards, 4)
    of_hull = advantages(score(texts, ["NaCl"] * 4, potential, LINEAR).rewards, 4)
    assert of_energy[3] > 0 > of_hull[3]


def test_the_bounded_shape_pays_for_no_more_than_stability_and_compares_prompts():
    preset = {"e_hull": {"threshold_ev_per_atom": 0.1, "width_ev_per_atom": 0.5}}
    energies = [-3.4 - 0.3, -3.4, -3.4 + 0.1, -3.4 + 0.6, -3.4 + 2.1, -3.4 - 0.6]
    scores = score([ROCKSALT] * 6, ["NaCl"] * 6, Drawn(energies), preset)
    assert scores.rewards.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.2, 0.0])
    assert scores.terms["e_hull"].clipped.tolist() == [False] * 5 + [True]
    assert score([ROCKSALT, COPPER], ["NaCl", "Cu"], Stub({2: -3.4, 1: -4.1}), preset).rewards.tolist() == [1.0, 1.0]


# Second fact: silence pays under the paper's reward.
def test_silence_pays_under_the_papers_reward_and_not_under_stable():
    texts, formulas = ["", ROCKSALT, ROCKSALT, ZINCBLENDE], ["NaCl"] * 4
    potential = Stub(by_volume=lambda volume: 0.5 if volume < 48 else -1.0)
    paper, stable = (score(texts, formulas, potential, preset) for preset in ("paper", "stable"))
    assert paper.rewards[0] > paper.rewards[1]
    assert advantages(paper.rewards, 4)[0] > advantages(paper.rewards, 4)[1]
    assert (paper.summary()["silence_paid_share"], paper.summary()["below_silence_share"]) == (0.25, 0.5)
    assert stable.rewards[0] < stable.rewards[1:].min() - 1.0
    assert (stable.summary()["silence_paid_share"], stable.summary()["below_silence_share"]) == (0.0, 0.0)


def test_silence_is_compared_within_its_group_and_with_answers_of_the_formula_alone():
    potential = Stub({2: 0.5, 1: 0.5})
    assert score(["", ROCKSALT], ["Cu", "NaCl"], potential).summary()["silence_paid_share"] == 0.0
    assert score(["", ROCKSALT], ["Cu", "Cu"], potential).summary()["silence_paid_share"] == 0.0


# No way of cheating earns more than an honest answer. The honest one: rock salt in its own formula, 0.6 eV/atom above
# the hull as written, as a finetuned model's usual answer is.
HONEST = -3.4 + 0.6


def earned(cheat, honest, formula, potential, preset):
    """Return the mean reward of a group of cheats and of a group of honest answers, each in a batch of its own."""
    return tuple(
        float(np.mean(score(texts, [formula] * len(texts), potential, preset).rewards)) for texts in (cheat, honest)
    )


@pytest.mark.parametrize(
    ("cheat", "energy_ev_per_atom", "pays_under_paper"),
    [
        (OVERLAPPING, -14.0, True),  # an explosion
        (OVERLAPPING, -3.5, True),  # atoms too close, and a plausible energy all the same
        (OVERLAPPING, -1.0, False),
        (COPPER, -4.1, True),  # another formula with a deeper energy
        (COPPER, -14.0, True),
        (ROCKSALT.replace("4.0", "4.1"), -9.0, True),  # sound distances, a hole of the potential
        ("", 0.0, False),
        ("no crystal", 0.0, False),
    ],
)
def test_no_cheat_earns_more_than_an_honest_answer_under_stable(cheat, energy_ev_per_atom, pays_under_paper):
    volume = 4.0**3 / math.sqrt(2)
    same_cell = cheat == OVERLAPPING

    def energies(cells):
        return np.array([energy_ev_per_atom if is_cheat(cell) else HONEST for cell in cells])

    def is_cheat(cell):
        near = len(cell) == 2 and cell.get_distance(0, 1, mic=True) < 1.5
        return near if same_cell else abs(cell.get_volume() - volume) > 0.1

    potential = Stub({})
    potential.energies = energies
    cheated, honest = earned([cheat] * 4, [ROCKSALT] * 4, "NaCl", potential, "stable")
    assert cheated < honest
    cheated, honest = earned([cheat] * 4, [ROCKSALT] * 4, "NaCl", potential, "paper")
    assert (cheated > honest) == pays_under_paper


def test_chgnet_itself_pays_for_fused_atoms_under_paper_and_not_under_stable():
    """Carbon 0.2 Å from tungsten, against tungsten carbide written a fifth too long: numbers of the real potential."""
    fused = "2.5 2.5 2.5\n90 90 90\nW\n0.00 0.00 0.00\nC\n0.08 0.00 0.00"
    strained = "3.5 3.5 3.3\n90 90 120\nW\n0.00 0.00 0.00\nC\n0.33 0.67 0.50"
    potential, texts = load_potential("chgnet"), [fused, strained]
    hulls = {potential.name: {"WC": -10.9}}
    paper, stable = (score(texts, ["WC"] * 2, potential, name, hulls=hulls).rewards for name in ("paper", "stable"))
    assert paper[0] > paper[1]
    assert stable[0] < stable[1]


def test_a_policy_that_collapses_earns_less_than_one_that_varies():
    varied = [ROCKSALT, CESIUM_CHLORIDE, ZINCBLENDE, LAYERED]
    potential = Stub({2: HONEST})
    collapsed, honest = earned([ROCKSALT] * 4, varied, "NaCl", potential, "stable")
    # Half of the diversity's weight of 2; and 4mm and -43m have 8 and 24 of the 48 rotations that the others have.
    less_symmetric = (2 - (np.log(8) + np.log(24)) / np.log(48)) / 4
    assert honest - collapsed == pytest.approx(1.0 + 3 * less_symmetric)
    collapsed, honest = earned([ROCKSALT] * 4, varied, "NaCl", potential, "paper")
    assert honest == collapsed


def test_one_answer_to_every_prompt_earns_less_than_answers_to_the_prompts():
    potential, prompts = Stub({2: -3.4, 1: -2.0}), ["NaCl"] * 2 + ["Cu"] * 2
    hulls = {"stub": {"NaCl": -3.4, "Cu": -2.0}}
    for preset, honest_wins in (("stable", True), ("paper", False)):
        honest = score([ROCKSALT] * 2 + [COPPER] * 2, prompts, potential, preset, hulls=hulls).rewards.mean()
        collapsed = score([ROCKSALT] * 4, prompts, potential, preset, hulls=hulls).rewards.mean()
        assert (honest > collapsed) == honest_wins


def test_one_packing_for_all_prompts_is_remembered():
    preset, potential = {"diversity": {"n_recent": 6}}, Stub({2: -3.0})
    reward = reward_of(preset, potential)
    bromide, fluoride = (ROCKSALT.replace("Cl", x) for x in ("Br", "F"))
    assert reward.score([ROCKSALT] * 2, ["NaCl"] * 2).rewards.tolist() == [0.5, 0.5]
    assert reward.score([bromide, ZINCBLENDE], ["NaBr", "NaCl"]).rewards.tolist() == [0.5, 1.0]
    assert reward.score([fluoride], ["NaF"]).rewards.tolist() == [1 - 0.75 / 2]
    assert len(reward.context.recent) == 5
    reward.score([fluoride] * 4, ["NaF"] * 4)
    assert len(reward.context.recent) == 6


def test_stable_asks_the_potential_only_about_sound_answers():
    potential = Stub({2: -3.0, 1: -4.1})
    score([ROCKSALT, OVERLAPPING, COPPER, ""], ["NaCl"] * 4, potential, "stable")
    assert potential.n_evaluated == 1


def test_terms_share_energies():
    potential = Stub({2: -3.0})
    score([ROCKSALT] * 3, ["NaCl"] * 3, potential, {"energy": {"clip": [-5.0, 15.0]}, "e_hull": {}})
    assert potential.n_evaluated == 3


def test_a_prompt_without_a_hull_energy_is_counted_and_teaches_nothing():
    scores = score([ROCKSALT] * 2, ["NaCl"] * 2, Stub({2: -3.0}), {"e_hull": {}}, hulls={"stub": {}})
    assert scores.rewards.tolist() == [0.0, 0.0]
    assert scores.summary()["e_hull_failed_share"] == 1.0


def test_of_two_potentials_the_worse_counts():
    first, second = Stub({2: -3.4, 1: -3.0}), Stub({2: -2.4, 1: -4.1})
    second.name = "sevennet:7net-0"
    hulls = {"stub": HULL, second.name: HULL}
    terms = reward_terms({"ensemble": {"potential": "sevennet"}})
    context = RewardContext(text_format(), {"stub": first, second.name: second}, hulls, max_failure_share=0.2)
    found = Reward(terms, context).score([ROCKSALT, COPPER], ["NaCl", "Cu"]).rewards
    assert found.tolist() == pytest.approx([1 / 2.8, 1 / 3])


def test_a_known_crystal_is_known_however_it_is_written():
    """In another cell of the same crystal, and strained; not of another structure or another formula's crystal."""
    training = group_by_formula([("NaCl", to_structure(parsed(ROCKSALT))), ("Cu", to_structure(parsed(COPPER)))])
    cubic = "5.7 5.7 5.7\n90 90 90\nNa\n0.00 0.00 0.00\n0.00 0.50 0.50\n0.50 0.00 0.50\n0.50 0.50 0.00"
    cubic += "\nCl\n0.50 0.00 0.00\n0.00 0.50 0.00\n0.00 0.00 0.50\n0.50 0.50 0.50"
    displaced = "4.0 4.0 4.0\n60 60 60\nNa\n0.00 0.00 0.00\nCl\n0.53 0.50 0.48"
    texts = [ROCKSALT, cubic, displaced, CESIUM_CHLORIDE, COPPER, OVERLAPPING, ""]
    values = score(texts, ["NaCl"] * 7, Stub({}), {"known_match": {}}, training=training).rewards
    assert values[:2].tolist() == pytest.approx([1.0, 1.0])
    assert 0.5 < values[2] < 1.0
    assert values[3:].tolist() == [0.0] * 4
    assert score([ROCKSALT], ["Cu"], Stub({}), {"known_match": {}}, training=training).rewards.tolist() == [0.0]


def test_low_symmetry_is_the_share_of_the_point_group_that_is_gone():
    skew = "4.0 4.1 4.3\n62 60 57\nNa\n0.00 0.00 0.00\nCl\n0.48 0.53 0.47"
    found = score([ROCKSALT, LAYERED, skew, OVERLAPPING, COPPER], ["NaCl"] * 5, Stub({}), {"low_symmetry": {}})
    # m-3m has 48 rotations, 4mm of the layered one has 8; the last two are unsound, and of another formula.
    expected = [0.0, 1 - np.log(8) / np.log(48), 1.0, 0.0, 0.0]
    assert found.rewards == pytest.approx(expected)


def test_validity_and_novelty():
    training = group_by_formula([("NaCl", to_structure(parsed(ROCKSALT)))])
    texts = [ROCKSALT, CESIUM_CHLORIDE, OVERLAPPING, COPPER, ""]
    scores = score(texts, ["NaCl"] * 5, Stub({}), {"validity": {}, "novelty": {}}, training=training)
    assert scores.terms["validity"].values.tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert scores.terms["novelty"].values.tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]


def test_a_crystal_that_is_left_out_of_training_is_not_new_and_not_aimed_at():
    left_out = group_by_formula([("NaCl", to_structure(parsed(ROCKSALT)))])
    how = {"novelty": {}, "known_match": {}}
    scores = score([ROCKSALT, CESIUM_CHLORIDE], ["NaCl"] * 2, Stub({}), how, left_out=left_out)
    assert scores.terms["novelty"].values.tolist() == [0.0, 1.0]
    assert scores.terms["known_match"].values.tolist() == [0.0, 0.0]


def test_relaxation_in_a_few_steps_with_chgnet():
    """A strained crystal gains energy and keeps its structure; the relaxed energy is never above the first."""
    potential = load_potential("chgnet")
    strained = ROCKSALT.replace("4.0 4.0 4.0", "4.3 4.3 4.3")
    hulls = {potential.name: {"NaCl": -3.4}}
    for n_steps, lowest in ((0, 0.0), (4, 0.02)):
        preset = {"e_hull": {"shape": "linear", "clip": [-9.0, 9.0], "n_steps": n_steps}}
        value = score([strained], ["NaCl"], potential, preset, hulls=hulls).rewards[0]
        if n_steps == 0:
            first = value
        assert value - first >= lowest
    matched = score([ROCKSALT, strained], ["NaCl"] * 2, potential, {"relaxed_match": {"n_steps": 4}}).rewards
    assert 0.9 < matched.min() <= matched.max() <= 1.0


def test_an_element_that_the_potential_never_saw_is_a_failure_and_no_number():
    """As no number: the worst value, counted as failed, and no reason to stop the run. The potential is not asked."""
    polonium = ROCKSALT.replace("Na", "Mg").replace("Cl", "Po")
    potential = Stub({2: -3.4})
    potential.covered_atomic_numbers = frozenset(range(1, 84))
    context = {"hulls": {"stub": {"MgPo": -3.0, "NaCl": -3.4}}, "max_failure_share": 0.0}
    clipped = {"energy": {"clip": [-5.0, 15.0], "no_crystal": -0.1}}
    scores = score([polonium, ROCKSALT], ["MgPo", "NaCl"], potential, clipped, **context)
    assert scores.rewards.tolist() == [-5.0, 3.4]
    assert scores.summary()["energy_failed_share"] == 0.5 and potential.n_evaluated == 1
    for preset in ({"e_hull": {}}, {"e_hull": {"n_steps": 2}}, {"relaxed_match": {"n_steps": 2}}):
        (name,) = preset
        scores = score([polonium, ROCKSALT], ["MgPo", "NaCl"], potential, preset, **context)
        assert scores.terms[name].values[0] == 0.0 < scores.terms[name].values[1]
        assert scores.terms[name].failed.tolist() == [True, False]


def parsed(text):
    from hullseeker.language_model.crystal_text import parse_crystal

    return parse_crystal(text, text_format()).columns


def test_packing_knows_neither_cell_nor_element_nor_size():
    cubic = "5.6 5.6 5.6\n90 90 90\nK\n0.00 0.00 0.00\n0.00 0.50 0.50\n0.50 0.00 0.50\n0.50 0.50 0.00"
    cubic += "\nBr\n0.50 0.00 0.00\n0.00 0.50 0.00\n0.00 0.00 0.50\n0.50 0.50 0.50"
    texts = [ROCKSALT, cubic, CESIUM_CHLORIDE, ZINCBLENDE, LAYERED]
    prints = np.array([packing_fingerprint(parsed(text)) for text in texts])
    expected = np.eye(5, dtype=bool)
    expected[0, 1] = expected[1, 0] = True
    assert (same_packing(prints, prints) == expected).all()


def test_a_group_of_rounded_copies_counts_as_one_structure():
    copies = [ROCKSALT.replace("4.0", x) for x in ("3.9", "4.0", "4.2")]
    prints = np.array([packing_fingerprint(parsed(text)) for text in copies])
    assert same_packing(prints, prints).all()


def test_every_term_is_documented_with_its_options():
    text = (ROOT / "docs" / "rewards.md").read_text()
    assert set(TERMS) == set(OPTIONS)
    schema = yaml.safe_load((ROOT / "schemas" / "config.schema.yaml").read_text())
    fill_names(schema)
    in_schema = schema["properties"]["grpo"]["properties"]["rewards"]["additionalProperties"]["properties"]
    for name, options in OPTIONS.items():
        assert f"| `{name}` |" in text
        assert set(in_schema[name]["properties"]) == {"weight", "clip", *options}
        for option in options:
            assert f"`{option}`" in text


@pytest.mark.parametrize(
    ("name", "about", "words"),
    [
        ("enrgy", {}, "'enrgy' is not a reward term; choose from energy"),
        ("energy", {}, "energy has no clip"),
        ("energy", {"clip": (5.0, -5.0)}, r"energy.clip is \[5.0, -5.0\]; give the lower bound first"),
        ("e_hull", {"options": {"shape": "linear"}}, "e_hull has no clip"),
        ("e_hull", {"options": {"shape": "round"}}, "e_hull.shape is 'round'; choose bounded or linear"),
        ("e_hull", {"options": {"with": 1}}, "e_hull.with is not an option; it has shape"),
        ("validity", {"weight": math.nan}, "validity.weight is nan"),
        ("ensemble", {"options": {"potential": "emt"}}, "ensemble.potential is 'emt'"),
        ("ensemble", {"options": {"potential": "chgnet", "model": "0.3.0"}}, "the first potential itself"),
    ],
)
def test_a_term_that_cannot_be_is_refused(name, about, words):
    with pytest.raises(ValueError, match=words):
        RewardTerm(name, **about)


def test_the_hulls_that_a_preset_needs():
    assert potentials_with_hull(PRESETS["paper"]) == {}
    assert potentials_with_hull(PRESETS["stable"]) == {"chgnet": ("chgnet", None)}
    both = {"ensemble": {"potential": "chgnet", "model": "0.2.0"}}
    assert potentials_with_hull(both) == {"chgnet": ("chgnet", None), "chgnet_0.2.0": ("chgnet", "0.2.0")}
