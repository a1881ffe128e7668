"""GRPO under `accelerate launch` in two CPU processes, killed and resumed: the same curve and weights."""

import torch

from processes_examples import TWO_PROCESSES, curve, job, run, run_with_a_kill, weights


def test_grpo_in_two_processes_goes_on_alike_after_a_kill(tmp_path):
    changes = {"n_steps": 3, "device_batch_size": 4, **TWO_PROCESSES}
    undisturbed, killed = (job(tmp_path / name, "grpo", **changes) for name in ("undisturbed", "killed"))
    run(undisturbed, "grpo")
    run_with_a_kill(killed, "grpo", tmp_path / "faults")
    assert curve(killed) == curve(undisturbed)
    rewards = [row["value"] for row in curve(killed) if row["quantity"] == "reward_mean"]
    assert len(set(rewards)) == 3
    for name, expected in weights(undisturbed).items():
        assert torch.equal(weights(killed)[name], expected), name
