"""Replicates: names, model chains and seeds."""

import pytest

from hullseeker.replicates import chain_before, chain_of, replicates_of, training_seed, with_replicates

SYSTEMS = {
    "base": {"kind": "language_model", "label": "Base", "stages": []},
    "sft": {"kind": "language_model", "label": "SFT", "stages": ["sft"]},
    "rl": {"kind": "language_model", "label": "RL", "stages": ["sft", "grpo"], "grpo": {"reward": "stable"}},
    "mine": {"kind": "samples", "label": "Mine", "path": "samples.csv"},
}


def test_only_what_is_trained_has_replicates():
    found = with_replicates(SYSTEMS, 2)
    assert list(found) == ["base", "sft", "sft_2", "rl", "rl_2", "mine"]
    assert found["rl_2"] == {**SYSTEMS["rl"], "label": "RL (2)", "replicate": 2}
    assert with_replicates(SYSTEMS, 1) == SYSTEMS
    assert replicates_of(SYSTEMS, 3) == {"sft": ["sft", "sft_2", "sft_3"], "rl": ["rl", "rl_2", "rl_3"]}


def test_a_replicate_starts_from_its_own_model():
    found = with_replicates(SYSTEMS, 2)
    chains = {name: chain_of(name, system) for name, system in found.items()}
    names = {"sft": "sft", "sft_2": "sft.2", "rl": "sft-grpo-rl", "rl_2": "sft-grpo-rl.2"}
    assert chains == {"base": "", "mine": "", **names}
    assert chain_before("sft-grpo-rl.2", "grpo") == "sft.2"
    assert chain_before("sft-grpo", "grpo") == "sft"
    assert chain_before("grpo-rl", "grpo") == ""
    assert chain_before("grpo-rl.2", "grpo") == ""


def test_a_name_that_a_replicate_needs_is_refused():
    with pytest.raises(ValueError, match="systems.sft_2 has the name of a replicate of sft; rename it"):
        with_replicates({**SYSTEMS, "sft_2": SYSTEMS["sft"]}, 2)


def test_seeds_differ_by_rule_stages_and_replicate_alone():
    seeds = [training_seed(1, "train_sft", chain) for chain in ("sft", "sft.2", "sft.3")]
    seeds += [training_seed(1, "train_grpo", chain) for chain in ("sft-grpo", "sft-grpo.2", "grpo")]
    assert len(set(seeds)) == 6
    assert training_seed(1, "train_grpo", "sft-grpo-rl.2") == training_seed(1, "train_grpo", "sft-grpo-other.2")
    assert training_seed(1, "train_sft", "sft") != training_seed(2, "train_sft", "sft")
