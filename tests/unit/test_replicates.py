"""Replicates: names, model chains and seeds."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hullseeker.workflow.replicates import chain_before, chain_of, replicates_of, training_seed, with_replicates

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


def test_the_papers_row_stands_beside_the_first_replicate_alone():
    found = with_replicates({"sft": {**SYSTEMS["sft"], "paper_row": "sft"}}, 3)
    assert [system.get("paper_row") for system in found.values()] == ["sft", None, None]


# Names that look like stages, replicates, shards and numbers of samples.
NAMES = st.lists(st.sampled_from(["a", "1", "-", "_2", "sft", "grpo", "-grpo", "000001"]), min_size=1, max_size=4).map(
    "".join
)


@given(NAMES, NAMES, st.sampled_from([["grpo"], ["sft", "grpo"]]), st.sampled_from([["grpo"], ["sft", "grpo"]]))
def test_no_two_systems_share_a_model_a_log_or_a_sample(one, other, stages, other_stages):
    assume(one != other and not one.startswith("-") and not other.startswith("-"))
    own = {"kind": "language_model", "grpo": {"reward": "stable"}}
    chains = [chain_of(one, {**own, "stages": stages}), chain_of(other, {**own, "stages": other_stages})]
    assert len({*chains, "sft", "grpo", "sft-grpo", "base", "cdvae"}) == 7
    assert [chain_before(chain, "grpo") for chain in chains] == [
        "-".join(before[:-1]) for before in (stages, other_stages)
    ]
    for form in ("{}-{:06d}", "{}-{}.log"):
        assert not {form.format(one, n) for n in range(3)} & {form.format(other, n) for n in range(3)}
