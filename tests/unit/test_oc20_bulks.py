"""Reading the bulk crystals of the Open Catalyst data set from a pickle without running what it may say."""

import importlib
import os
import pickle
import zipfile

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from hullseeker.data.oc20_bulks import _MEMBER, bulks_of_wheel, read_bulks


def sodium_chloride() -> Atoms:
    atoms = Atoms("NaCl", cell=np.diag([4.0, 4.0, 5.0]), scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.25]], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    return atoms


def test_cells_elements_and_coordinates_are_read():
    (row,) = read_bulks(pickle.dumps([{"src_id": "mp-1", "atoms": sodium_chloride(), "bulk_sampling_str": "1/1"}]))
    assert row["source_id"] == "mp-1"
    assert row["atomic_numbers"] == [11, 17]
    assert np.allclose(row["lattice_ang"], np.diag([4.0, 4.0, 5.0]).ravel())
    assert np.allclose(row["frac_coords"], [0, 0, 0, 0.5, 0.5, 0.25])


class _Command:
    def __init__(self, call, *arguments):
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "payload",
    [
        lambda path: _Command(os.system, f"touch {path}"),
        lambda path: _Command(open, str(path), "w"),
        lambda path: _Command(eval, f"open({str(path)!r}, 'w')"),
        lambda _: _Command(importlib.import_module, "os"),
        lambda path: _Command(np.save, str(path), np.zeros(1)),
    ],
    ids=["os.system", "open", "eval", "import of a module", "numpy.save"],
)
def test_a_pickle_that_calls_anything_is_refused_and_runs_nothing(tmp_path, payload):
    marker = tmp_path / "marker"
    stream = pickle.dumps([{"src_id": "mp-1", "atoms": payload(marker)}], protocol=4)
    with pytest.raises(pickle.UnpicklingError, match="nothing was run"):
        read_bulks(stream)
    assert not list(tmp_path.iterdir())


def test_getattr_reads_no_attribute_of_anything_but_a_stand_in():
    """`getattr` is among what the file names; by it a pickle could reach `ndarray.tofile` or a class's `__base__`."""
    stream = pickle.dumps([{"src_id": "mp-1", "atoms": _Command(getattr, np.ndarray, "tofile")}], protocol=4)
    with pytest.raises(pickle.UnpicklingError, match="reads the attribute 'tofile'"):
        read_bulks(stream)


def test_an_entry_without_positions_is_named():
    atoms = sodium_chloride()
    del atoms.arrays["positions"]
    with pytest.raises(ValueError, match="entry mp-1 has no cell"):
        read_bulks(pickle.dumps([{"src_id": "mp-1", "atoms": atoms}]))


def test_another_wheel_is_refused(tmp_path):
    wheel = tmp_path / "fairchem_data_oc-0.0.1-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(_MEMBER, pickle.dumps([]))
    with pytest.raises(ValueError, match=r"has the SHA-256 .*, and fairchem-data-oc 0\.0\.1 has ddb770e3"):
        bulks_of_wheel(wheel)
