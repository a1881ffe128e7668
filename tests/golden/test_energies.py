"""Golden energies: our batched calls against each package's own calculator, and against numbers fixed here."""

import numpy as np
import pytest
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from hullseeker.potentials.interface import load_potential

# eV/atom, taken once with these versions (chgnet 0.4.2, model 0.3.0; sevenn 0.13.0, 7net-0).
CELLS = {
    "NaCl": bulk("NaCl", "rocksalt", a=5.64),
    "Cu": bulk("Cu", "fcc", a=3.61),
    "Si": bulk("Si", "diamond", a=5.43),
    "MgO": bulk("MgO", "rocksalt", a=4.21),
}
GOLDEN = {
    "chgnet": {"NaCl": -3.66643, "Cu": -4.08331, "Si": -5.31218, "MgO": -6.31022},
    "sevennet": {"NaCl": -3.38275, "Cu": -4.09619, "Si": -5.40083, "MgO": -5.97350},
}


@pytest.mark.parametrize("name", ["chgnet", "sevennet"])
def test_batched_energies(name):
    potential = load_potential(name)
    together = potential.energies(list(CELLS.values()))
    alone = np.array([potential.energies([cell])[0] for cell in CELLS.values()])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, [GOLDEN[name][cell] for cell in CELLS], atol=2e-4)


def test_chgnet_equals_predict_structure():
    from chgnet.model import CHGNet

    model = CHGNet.load(verbose=False, use_device="cpu")
    potential = load_potential("chgnet")
    for cell in CELLS.values():
        reference = model.predict_structure(AseAtomsAdaptor.get_structure(cell))
        ours = potential.evaluate([cell])[0]
        assert ours.energy_ev / len(cell) == pytest.approx(float(reference["e"]), abs=1e-5)
        np.testing.assert_allclose(ours.forces_ev_per_ang, reference["f"], atol=1e-4)


def test_sevennet_equals_its_calculator():
    from sevenn.calculator import SevenNetCalculator

    calculator, potential = SevenNetCalculator("7net-0", device="cpu"), load_potential("sevennet")
    for cell in CELLS.values():
        moved = cell.copy()
        moved.rattle(0.05, seed=1)
        ours = potential.evaluate([moved])[0]
        moved.calc = calculator
        assert ours.energy_ev == pytest.approx(moved.get_potential_energy(), abs=1e-4)
        np.testing.assert_allclose(ours.forces_ev_per_ang, moved.get_forces(), atol=1e-4)
        np.testing.assert_allclose(ours.stress_ev_per_ang3, moved.get_stress(voigt=False), atol=1e-5)
