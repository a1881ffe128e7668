"""Settings and crystals for the tests of CDVAE."""

import numpy as np
import torch
from pymatgen.core import Lattice, Structure

from hullseeker.cdvae.data import BondGraph, bonds_of_crystals, collate, join_bonds, niggli_crystal
from hullseeker.tables.structures import from_structure

BOUNDS = {
    "min_length_ang": 1.0,
    "max_length_ang": 60.0,
    "min_angle_deg": 15.0,
    "max_angle_deg": 165.0,
    "min_volume_per_atom_ang3": 2.0,
    "max_volume_per_atom_ang3": 500.0,
}


def settings(**changes) -> dict:
    """Return settings of a small model, updated with `changes`; mappings are merged into their section."""
    base = {
        "device": "cpu",
        "graph": "radius",
        "max_atoms": 8,
        "latent_size": 16,
        "head_hidden_size": 32,
        "encoder": {
            "hidden_channels": 16,
            "n_blocks": 2,
            "interaction_embedding": 8,
            "basis_embedding": 4,
            "output_embedding": 16,
            "n_spherical": 3,
            "n_radial": 4,
            "cutoff_ang": 5.0,
            "max_neighbours": 12,
            "envelope_exponent": 5,
            "n_output_layers": 1,
        },
        "decoder": {"hidden_channels": 32, "n_blocks": 2, "n_radial": 32, "cutoff_ang": 5.0, "max_neighbours": 12},
        "noise": {
            "n_levels": 10,
            "coordinate_sigma_max_ang": 1.0,
            "coordinate_sigma_min_ang": 0.02,
            "type_sigma_max": 5.0,
            "type_sigma_min": 0.01,
        },
        "loss_weights": {
            "n_atoms": 1.0,
            "lattice": 10.0,
            "composition": 1.0,
            "coordinates": 10.0,
            "types": 1.0,
            "kl": 0.01,
        },
        "training": {
            "n_epochs": 4,
            "batch_size": 8,
            "learning_rate": 2.0e-3,
            "plateau_factor": 0.6,
            "plateau_patience_epochs": 1,
            "min_learning_rate": 1.0e-4,
            "gradient_clip": 0.5,
            "teacher_forcing_epochs": 2,
            "save_every_epochs": 1,
        },
        "sampling": {"n_levels": 10, "steps_per_level": 10, "step_size_ang2": 2.0e-4, "batch_size": 8},
    }
    for name, value in changes.items():
        base[name] = base[name] | value if isinstance(value, dict) else value
    return base


def make(structure: Structure, name: str = "a-0"):
    """Return a structure as a Niggli-reduced crystal, the input of CDVAE."""
    return niggli_crystal({"structure_id": name, **from_structure(structure)})


def some_structures() -> dict[str, Structure]:
    """Return crystals of high and low symmetry, one of them with a single atom in a cell smaller than the cut-offs."""
    rng = np.random.default_rng(3)
    fcc = [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    return {
        "rocksalt": Structure(Lattice(np.array(fcc) * 5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        "copper": Structure(Lattice(np.array(fcc) * 3.61), ["Cu"], [[0, 0, 0]]),
        "perovskite": Structure(
            Lattice.cubic(3.9),
            ["Sr", "Ti", "O", "O", "O"],
            [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        ),
        "triclinic": Structure(
            Lattice.from_parameters(3.6, 4.4, 5.3, 71, 84, 65), ["Fe", "S", "S", "O"], rng.random((4, 3))
        ),
    }


def graph_of(crystals, config: dict, dtype=torch.float64) -> tuple:
    """Return a batch of crystals and the bonds for the encoder."""
    batch = collate(crystals)
    bonds = bonds_of_crystals(
        crystals, config["graph"], config["encoder"]["cutoff_ang"], config["encoder"]["max_neighbours"]
    )
    graph: BondGraph = join_bonds(bonds, batch.n_atoms)
    return batch.to("cpu", dtype), graph.to("cpu", dtype)
