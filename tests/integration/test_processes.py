"""SFT under `accelerate launch` in two CPU processes: same results as in one, also after a kill."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

import train_sft
from hullseeker.language_model.generation import load_tokenizer
from hullseeker.potentials.interface import load_potential
from hullseeker.rewards.workers import SharedPotential
from hullseeker.tables.parquet import read_table
from hullseeker.tables.structures import to_atoms
from processes_examples import ROOT, TWO_PROCESSES, job, run_with_a_kill, weights


def test_sft_in_two_processes_is_sft_in_one(tmp_path):
    """With a small random model of Qwen2.5's architecture and vocabulary; the run in two processes is killed once."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(ROOT / "resources" / "base_model")
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    changes = {"n_epochs": 1, "batch_size": 8, "device_batch_size": 4, "autocast_bf16": False}
    two = job(tmp_path / "two", "sft", tmp_path / "model", **changes, **TWO_PROCESSES)
    run_with_a_kill(two, "sft", tmp_path / "faults")
    single = job(tmp_path / "one", "sft", tmp_path / "model", **changes)
    train_sft.main(single)
    before, of_one, of_two = load_file(tmp_path / "model" / "model.safetensors"), weights(single), weights(two)
    for name, expected in of_one.items():
        torch.testing.assert_close(of_two[name], expected, atol=1e-5, rtol=0)
    assert max((before[name] - of_one[name]).abs().max() for name in of_one) > 1e-3
    assert "estimate: at most" in Path(two.log[0]).read_text()


@pytest.fixture
def one_thread():
    """Set one thread, like the workers have; sums over more threads differ in the last digits."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def test_energies_do_not_depend_on_who_computes_them(one_thread):  # noqa: ARG001
    rows = read_table(ROOT / "resources" / "demo_materials.parquet", "materials").to_pylist()[:18]
    cells = [to_atoms(row) for row in rows]
    alone, shared = load_potential("chgnet"), SharedPotential("chgnet", None, "cpu", 1)
    assert shared.name == alone.name
    assert shared.covered_atomic_numbers == alone.covered_atomic_numbers
    assert np.array_equal(shared.energies(cells), alone.energies(cells))
    for mine, theirs in zip(shared.evaluate(cells[:2]), alone.evaluate(cells[:2]), strict=True):
        assert mine.energy_ev == theirs.energy_ev
        assert np.array_equal(mine.forces_ev_per_ang, theirs.forces_ev_per_ang)
        assert np.array_equal(mine.stress_ev_per_ang3, theirs.stress_ev_per_ang3)
    broken = cells[0].copy()
    broken.numbers[:] = 118
    mixed = shared.energies([*cells[:2], broken])
    assert np.isfinite(mixed[:2]).all() and np.isnan(mixed[2])
    with pytest.raises(RuntimeError):
        shared.evaluate([broken])
