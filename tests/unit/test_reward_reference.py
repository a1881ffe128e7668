"""The hull of the prompted formulas: of training crystals alone, at the reward potential's energies, each once."""

import logging

import numpy as np
import pytest

from hullseeker.potentials import evaluation
from hullseeker.potentials.evaluation import cached_energies
from hullseeker.rewards.reference import phases_of_training, reference_rows
from hullseeker.rewards.terms import RewardContext
from hullseeker.tables.parquet import write_table
from train_grpo import KeepRecentAnswers, hull_energies

LOG = logging.getLogger()
SETTINGS = {"potential": "chgnet", "model": None, "device": "cpu"}


def row(name, formula, numbers, split="train", length=4.0):
    cell = [length, 0, 0, 0, length, 0, 0, 0, length]
    sites = [x / len(numbers) for x in range(len(numbers)) for _ in range(3)]
    columns = {"lattice_ang": cell, "atomic_numbers": numbers, "frac_coords": sites}
    return {"structure_id": name, "formula": formula, "split": split, **columns}


ELEMENTS = [row("na", "Na", [11], None), row("cl", "Cl2", [17, 17], None), row("cu", "Cu", [29], None)]


def test_no_test_crystal_is_a_competing_phase():
    materials = [row("a", "NaCl", [11, 17]), row("b", "NaCl3", [11, 17, 17, 17], "test"), row("c", "Cu", [29], "val")]
    assert [r["structure_id"] for r in phases_of_training(materials, ELEMENTS)] == ["a", "na", "cl"]


def test_a_crystal_that_is_left_out_competes_and_is_no_prompt():
    materials = [
        row("a", "NaCl", [11, 17]),
        row("b", "Na3Cl", [11, 11, 11, 17]) | {"left_out": "too_large"},
        row("c", "NaCl3", [11, 17, 17, 17], "test") | {"left_out": "too_large"},
    ]
    rows = phases_of_training(materials, ELEMENTS)
    assert [r["structure_id"] for r in rows] == ["a", "b", "na", "cl"]
    # NaCl at −0.1 eV/atom of formation decomposes to Na3Cl at −1.0 and Cl: half of each gives −0.667.
    (found,) = reference_rows(rows, [-1.1, -2.0, -1.0, -1.0], "chgnet:0.3.0")
    assert found["formula"] == "NaCl"
    assert found["hull_energy_ev_per_atom"] == pytest.approx(-1 - 2 / 3)


def test_hull_energies_by_hand():
    """NaCl at −1 eV/atom of formation carries Na3Cl, which at −0.4 lies 0.1 above half NaCl and half Na."""
    rows = [row("a", "NaCl", [11, 17]), row("b", "Na3Cl", [11, 11, 11, 17]), row("c", "NaBr", [11, 35]), *ELEMENTS[:2]]
    energies = [-1.0 - 1.0, -1.0 - 0.4, -2.5, -1.0, -1.0]
    found = {r["formula"]: r for r in reference_rows(rows, energies, "chgnet:0.3.0")}
    assert found["NaCl"]["hull_energy_ev_per_atom"] == pytest.approx(-2.0)
    assert found["Na3Cl"]["hull_energy_ev_per_atom"] == pytest.approx(-1.5)
    assert found["Na3Cl"]["lowest_energy_ev_per_atom"] == pytest.approx(-1.4)
    assert found["NaBr"]["status"] == "no_reference" and "Br" in found["NaBr"]["error"]
    assert set(found) == {"NaCl", "Na3Cl", "NaBr"}


def test_a_crystal_without_an_energy_is_no_phase_and_its_formula_still_has_a_hull():
    rows = [row("a", "NaCl", [11, 17]), *ELEMENTS[:2]]
    (found,) = reference_rows(rows, ["chgnet: no", -1.0, -2.0], "chgnet:0.3.0")
    assert (found["hull_energy_ev_per_atom"], found["lowest_energy_ev_per_atom"]) == (-1.5, None)


class Counting:
    name, covered_atomic_numbers, n_evaluated = "chgnet:0.3.0", frozenset(range(1, 95)), 0

    def energies(self, cells):
        Counting.n_evaluated += len(cells)
        return np.array([-cell.get_volume() / 100 for cell in cells])


def test_every_crystal_is_evaluated_once_whatever_the_experiment(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "load_potential", lambda *_: Counting())
    rows = [row("a", "NaCl", [11, 17]), row("b", "NaCl", [11, 17]), row("c", "NaCl", [11, 17], length=5.0)]
    first = cached_energies(SETTINGS, rows, str(tmp_path), LOG)
    assert first == pytest.approx([-0.64, -0.64, -1.25])
    assert Counting.n_evaluated == 2
    again = cached_energies(SETTINGS, [*rows[::-1], row("d", "Na", [11])], str(tmp_path), LOG)
    assert again == pytest.approx([-1.25, -0.64, -0.64, -0.64])
    assert Counting.n_evaluated == 3


def test_too_many_prompts_without_a_hull_end_the_run(tmp_path, caplog):
    path = str(tmp_path / "chgnet.parquet")
    rows = [
        {"formula": f, "status": status, "error": None, "hull_energy_ev_per_atom": e, "potential": "chgnet:0.3.0"}
        for f, status, e in (("NaCl", "ok", -3.0), ("Fr", "no_reference", None))
    ]
    write_table(path, rows, "reward_reference")
    with pytest.raises(ValueError, match=r"no hull energy of 1 of 2 prompts \(Fr\)"):
        hull_energies([path], {"NaCl", "Fr"}, 0.2, LOG)
    assert hull_energies([path], {"NaCl", "Fr"}, 0.5, LOG) == {"chgnet:0.3.0": {"NaCl": -3.0}}
    assert "1 of 2 prompts" in caplog.text
    assert hull_energies([], {"NaCl"}, 0.2, LOG) == {}


def test_what_diversity_remembers_goes_on_from_a_checkpoint(tmp_path):
    class Args:
        output_dir = str(tmp_path)

    class State:
        global_step, is_world_process_zero = 10, True

    (tmp_path / "checkpoint-10").mkdir()
    before, after = RewardContext(None, {}, max_failure_share=0.2), RewardContext(None, {}, max_failure_share=0.2)
    before.recent.extend(np.arange(6.0).reshape(3, 2))
    KeepRecentAnswers(before, None).on_save(Args, State, None)
    KeepRecentAnswers(after, str(tmp_path / "checkpoint-10"))
    assert np.array_equal(np.array(after.recent), np.array(before.recent))
    KeepRecentAnswers(RewardContext(None, {}, max_failure_share=0.2), str(tmp_path))
