"""Crystals of the elements in the Materials Project, and their energies, read from the package matcalc.

Needs: numpy, pymatgen; pip for the download.

matcalc (BSD-3-Clause) ships, for 88 elements, the elemental entries of the Materials Project (Jain et al., APL Mater.
1, 011002 (2013), CC BY 4.0) with their density-functional energies (PBE and PBE+U, uncorrected): the scale of
potentials trained on MPtrj. An element's reference is its ground state among them, not what a search would find.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import numpy as np
from pymatgen.core import Structure

from hullseeker.runtime.package_index import download_sdist
from hullseeker.runtime.provenance import sha256_of_file
from hullseeker.tables.structures import from_structure

PACKAGE, VERSION = "matcalc", "0.7.0"
SDIST_SHA256 = "4e3f9ed95dc828afc1f7fa3278cc2014cc4aa16de3f02d97cf61f8ff1f1e90e5"
_MEMBER = "src/matcalc/elemental_refs/MP-PBE-Element-Refs.json.gz"


def elemental_crystals(sdist: str | Path) -> list[dict]:
    """Return (symbol, rank, energy_ev_per_atom, structure columns) of every entry, by element and rising energy.

    Raises ValueError where the file is not the one whose SHA-256 is known.
    """
    found = sha256_of_file(Path(sdist))
    if found != SDIST_SHA256:
        raise ValueError(
            f"{sdist} has the SHA-256 {found}, and {PACKAGE} {VERSION} has {SDIST_SHA256}; delete it and run again"
        )
    with tarfile.open(sdist) as archive:
        member = archive.extractfile(f"{PACKAGE}-{VERSION}/{_MEMBER}")
        assert member is not None
        by_element = json.loads(gzip.decompress(member.read()))
    rows = []
    for symbol, entries in sorted(by_element.items()):
        energies = np.array(entries["energy_per_atom"])
        for rank, index in enumerate(np.argsort(energies, kind="stable")):
            structure = Structure.from_dict(entries["structure"][index])
            rows.append(
                {
                    "symbol": symbol,
                    "rank": rank,
                    "energy_ev_per_atom": float(energies[index]),
                    **from_structure(structure),
                }
            )
    return rows


def download_elemental_crystals(folder: str | Path) -> list[dict]:
    """Return the entries, their package downloaded into a folder; RuntimeError where pip cannot get it."""
    return elemental_crystals(download_sdist(PACKAGE, VERSION, SDIST_SHA256, folder))
