"""Potentials from the user's own files, and what they refuse; their numbers are in tests/golden."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from hullseeker.energy_scales import scale_of
from hullseeker.evaluators import EVALUATORS, name_in_rows
from hullseeker.potentials import load_potential, require_harmless


def shipped_checkpoint(potential):
    if potential == "sevennet":
        from sevenn.util import pretrained_name_to_path

        return pretrained_name_to_path("7net-0")
    import chgnet

    (path,) = Path(chgnet.__file__).parent.glob("pretrained/0.3.0/*.tar")
    return path


@pytest.mark.parametrize("potential", ["sevennet", "chgnet"])
def test_a_file_is_the_model_of_the_name(potential, tmp_path):
    path = tmp_path / "mine.pth"
    shutil.copy(shipped_checkpoint(potential), path)
    mine, named = load_potential(potential, str(path)), load_potential(potential)
    assert mine.name == name_in_rows(potential, str(path))
    assert named.name == name_in_rows(potential, None)
    assert mine.energy_scale == named.energy_scale == scale_of(mine.name)
    cells = [bulk("NaCl", "rocksalt", a=5.6), bulk("Cu")]
    assert mine.energies(cells) == pytest.approx(named.energies(cells), abs=1e-6)


class Calls:
    def __reduce__(self):
        return os.mkdir, ("called",)


@pytest.mark.parametrize("potential", ["sevennet", "chgnet"])
def test_a_checkpoint_that_would_run_code_is_refused_unrun(potential, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Calls()}, "bad.pth")
    with pytest.raises(ValueError, match=r"relax.model is 'bad.pth', and loading it would call .*mkdir"):
        load_potential(potential, "bad.pth")
    assert not Path("called").exists()


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "text.pth"
    path.write_text("no checkpoint")
    with pytest.raises(ValueError, match="text.pth.*cannot read as a checkpoint"):
        require_harmless(path)


def test_a_precision_that_a_potential_lacks_is_refused():
    for potential in ("sevennet", "chgnet"):
        with pytest.raises(ValueError, match=f"'float64'; {potential} runs in float32"):
            load_potential(potential, precision="float64")


def test_a_missing_package_is_named_with_its_environment(monkeypatch):
    def absent(*_):
        raise ModuleNotFoundError("No module named 'fairchem'", name="fairchem")

    monkeypatch.setattr("hullseeker.evaluators._imported", absent)
    with pytest.raises(RuntimeError, match="fairchem is not installed.*--sdm conda.*envs/uma.yaml.*fairchem-core"):
        load_potential("uma")


def test_default_models_are_known():
    for evaluator in EVALUATORS.values():
        assert evaluator.default_model in evaluator.models
        assert set(evaluator.other_scales) <= set(evaluator.models)
