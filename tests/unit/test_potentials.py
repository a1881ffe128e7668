"""Loading of potentials from checkpoint files, rejected files and covered elements; energies are in tests/golden."""

import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from configs import relaxation_settings
from hullseeker.potentials.checkpoints import require_safe_checkpoint
from hullseeker.potentials.energy_scales import scale_of
from hullseeker.potentials.interface import load_potential
from hullseeker.potentials.registry import EVALUATORS, name_in_rows
from hullseeker.potentials.trained_elements import MPTRJ, OMAT24, uma_elements
from hullseeker.relaxation.per_cell import relax_batch


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
        require_safe_checkpoint(path)


def test_a_precision_that_a_potential_lacks_is_refused():
    for potential in ("sevennet", "chgnet"):
        with pytest.raises(ValueError, match=f"'float64'; {potential} runs in float32"):
            load_potential(potential, precision="float64")


def test_a_missing_package_is_named_with_its_environment(monkeypatch):
    def absent(*_):
        raise ModuleNotFoundError("No module named 'fairchem'", name="fairchem")

    monkeypatch.setattr("hullseeker.potentials.registry.imported_by_name", absent)
    with pytest.raises(RuntimeError, match="fairchem is not installed.*--sdm conda.*envs/uma.yaml.*fairchem-core"):
        load_potential("uma")


@pytest.mark.parametrize(("potential", "model"), [("chgnet", "0.3.0"), ("chgnet", "0.2.0"), ("sevennet", "7net-0")])
def test_what_mptrj_lacks_is_not_covered(potential, model):
    """MPtrj has 89 elements: H to Pu without Po, At, Rn, Fr and Ra."""
    loaded = load_potential(potential, model)
    assert loaded.covered_atomic_numbers == frozenset(range(1, 95)) - {84, 85, 86, 87, 88} == MPTRJ
    (outcome,) = relax_batch(loaded, [bulk("Po", "sc", a=3.35)], relaxation_settings())
    assert outcome.status == "relax_failed"
    assert outcome.error == f"{loaded.name} does not cover the elements with atomic numbers [84]"


def test_a_transferred_chgnet_covers_what_its_own_references_were_fitted_to(tmp_path):
    """The r2SCAN data lack Yb; a checkpoint with fitted reference energy of Po covers Po, an inherited one does not."""
    assert load_potential("chgnet", "r2scan").covered_atomic_numbers == MPTRJ - {70}
    checkpoint = torch.load(shipped_checkpoint("chgnet"), map_location="cpu", weights_only=False)
    references = checkpoint["model"]["state_dict"]["composition_model.fc.weight"]
    references[0, 83], references[0, 1] = -3.0, 0.0
    torch.save({"model": checkpoint["model"]}, tmp_path / "mine.pth.tar")
    mine = load_potential("chgnet", str(tmp_path / "mine.pth.tar"))
    assert mine.covered_atomic_numbers == (MPTRJ | {84}) - {2}


def test_uma_covers_omat24_whatever_its_references_say():
    """Reference energies of UMA's task omat in fairchem: 0 within rounding for Po to Fr, not 0 for Ra and Am to Es."""
    references = [
        1e-19,
        *[-3.0] * 83,
        7.8e-15,
        -1.1e-15,
        -1.1e-14,
        -1.3e-14,
        -1.65,
        *[-4.0] * 6,
        -2.9,
        -4.0,
        -3.2,
        -2.0,
        -1.4,
    ]
    assert len(references) == 100
    assert uma_elements(references, 100) == OMAT24 == frozenset(range(1, 95)) - {84, 85, 86, 87, 88}
    references[10] = math.nan  # in later checkpoints, NaN marks elements that were not fitted
    assert uma_elements(references, 100) == OMAT24 - {10}
    assert uma_elements(None, 100) == OMAT24
    assert uma_elements(None, 90) == OMAT24 - {90, 91, 92, 93, 94}


def test_default_models_are_known():
    for evaluator in EVALUATORS.values():
        assert evaluator.default_model in evaluator.models
        assert set(evaluator.other_scales) <= set(evaluator.models)
