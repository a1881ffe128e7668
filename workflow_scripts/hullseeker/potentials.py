"""Interatomic potentials behind one small interface: batched energies, forces and stresses.

Needs: the workflow environment (torch, ase; chgnet or sevenn for the potential that is asked for). UMA has a module
and an environment of its own. What the config may name stands in evaluators.py.

A potential declares its energy scale and the elements it covers. Energies are eV per cell
inside this module and eV per atom in every table.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from hullseeker.energy_scales import scale_of
from hullseeker.evaluators import EVALUATORS


@dataclass(frozen=True)
class Evaluation:
    """Energy (eV per cell), forces (n, 3; eV/Å) and stress (3, 3; eV/Å^3, ASE's sign) of one cell."""

    energy_ev: float
    forces_ev_per_ang: np.ndarray
    stress_ev_per_ang3: np.ndarray

    @property
    def is_finite(self) -> bool:
        return bool(
            math.isfinite(self.energy_ev)
            and np.isfinite(self.forces_ev_per_ang).all()
            and np.isfinite(self.stress_ev_per_ang3).all()
        )


def load_potential(
    potential: str, model: str | None = None, device: str = "cpu", precision: str | None = None
) -> Potential:
    """Load a potential by its config name, in float32 unless told otherwise; ValueError where it has no such thing."""
    if potential not in EVALUATORS:
        raise ValueError(f"relax.potential is {potential!r}; this version has {sorted(EVALUATORS)}")
    evaluator, precision = EVALUATORS[potential], precision or "float32"
    if precision not in evaluator.precisions:
        raise ValueError(f"relax.precision is {precision!r}; {potential} runs in {' or '.join(evaluator.precisions)}")
    require_device(device, "relax.device")
    keep_freed_memory()
    try:
        return evaluator.load(model, device, precision)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"relax.potential is {potential!r}, and {error.name} is not installed here; run Snakemake with "
            f"`--sdm conda`, which builds envs/{evaluator.env}, or install {evaluator.package}"
        ) from error


def require_device(device: str, key: str) -> None:
    """Raise RuntimeError, naming the config key, where a GPU is asked for and there is none."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(
            f"{key} is {device!r}, but torch finds no GPU on this machine; run it on one, or set {key}: cpu"
        )


# What a checkpoint's pickle may name beside the tensors and containers that torch itself takes for safe.
_HARMLESS = frozenset(
    [
        "numpy.ndarray",
        "numpy.dtype",
        *(f"numpy.{core}.multiarray.{what}" for core in ("core", "_core") for what in ("_reconstruct", "scalar")),
    ]
)


def require_harmless(checkpoint: str | Path) -> None:
    """Raise ValueError where loading a checkpoint would call anything but what builds arrays; nothing is called here.

    The packages themselves load any pickle (weights_only=False).
    """
    import torch

    key = f"relax.model is {str(checkpoint)!r}"
    try:
        named = set(torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint)) - _HARMLESS
    except Exception as error:
        raise ValueError(
            f"relax.model is {str(checkpoint)!r}, which torch cannot read as a checkpoint: {error}"
        ) from error
    if named:
        raise ValueError(
            f"{key}, and loading it would call {', '.join(sorted(named))}; save the model's state as tensors, numbers "
            "and arrays alone"
        )


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: giving it back after every batch nearly halves the speed of a potential."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library
        return
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    libc.mallopt(m_top_pad, 1 << 28)


class Potential(Protocol):
    """What the workflow asks of a potential."""

    name: str
    energy_scale: str
    covered_atomic_numbers: frozenset[int]
    cutoff_ang: float

    def energies(self, cells: Sequence[Atoms]) -> np.ndarray:
        """Return the energies (eV per atom) of the cells, in order; shape (len(cells),)."""

    def evaluate(self, cells: Sequence[Atoms]) -> list[Evaluation]:
        """Return energy, forces and stress of each cell, in order."""


class SevenNet:
    """SevenNet (Park et al. 2024) with weights that ship in its wheel or a checkpoint path."""

    def __init__(self, model: str = "7net-0", device: str = "cpu") -> None:
        import sevenn._keys as key
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import unlabeled_atoms_to_graph
        from sevenn.util import load_checkpoint
        from torch_geometric.loader.dataloader import Collater

        if Path(model).is_file():
            require_harmless(model)
        checkpoint = load_checkpoint(model)
        self._model = checkpoint.build_model()
        self._model.set_is_batch_data(True)
        # Frozen parameters keep the backward pass to the positions: about a third less time per call.
        self._model.to(device).eval().requires_grad_(False)
        self._key, self.cutoff_ang, self._device = key, float(checkpoint.config[key.CUTOFF]), device
        self._graph = lambda cell: AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(cell, self.cutoff_ang))
        self._collate = Collater([], follow_batch=None, exclude_keys=None)
        self.name = f"sevennet:{model}"
        self.energy_scale = scale_of(self.name)
        self.covered_atomic_numbers = frozenset(int(z) for z in checkpoint.config[key.TYPE_MAP])

    def energies(self, cells: Sequence[Atoms]) -> np.ndarray:
        return np.array([e.energy_ev / len(c) for e, c in zip(self.evaluate(cells), cells, strict=True)])

    def evaluate(self, cells: Sequence[Atoms]) -> list[Evaluation]:
        key = self._key
        batch = self._collate([self._graph(cell) for cell in cells]).to(self._device)
        output = self._model(batch)
        energies = output[key.PRED_TOTAL_ENERGY].detach().cpu().numpy().reshape(-1)
        forces = output[key.PRED_FORCE].detach().cpu().numpy()
        # SevenNet orders stress xx, yy, zz, xy, yz, zx and with the opposite sign of ASE.
        stresses = -output[key.PRED_STRESS].detach().cpu().numpy().reshape(-1, 6)[:, [0, 1, 2, 4, 5, 3]]
        ends = np.cumsum([len(cell) for cell in cells])
        return [
            Evaluation(float(energy), forces_of_cell, voigt_6_to_full_3x3_stress(stress))
            for energy, forces_of_cell, stress in zip(energies, np.split(forces, ends[:-1]), stresses, strict=True)
        ]

    def torch_sim_model(self):
        """Return the model as torch-sim takes it, with geometries in float64."""
        from sevenn.torchsim import Float64Wrapper, SevenNetModel

        return Float64Wrapper(SevenNetModel(self._model, device=self._device))


class Chgnet:
    """CHGNet (Deng et al. 2023); its energies are on the scale of the corrected MP energies."""

    def __init__(self, model: str = "0.3.0", device: str = "cpu") -> None:
        from chgnet.graph import CrystalGraphConverter
        from chgnet.model import CHGNet

        if Path(model).is_file():
            require_harmless(model)
            self._model = CHGNet.from_file(model).to(device)
        else:
            self._model = CHGNet.load(model_name=model, use_device=device, verbose=False)
        self._model.eval()
        self._model.graph_converter = CrystalGraphConverter(
            atom_graph_cutoff=self._model.graph_converter.atom_graph_cutoff,
            bond_graph_cutoff=self._model.graph_converter.bond_graph_cutoff,
            on_isolated_atoms="ignore",
            algorithm="fast",
            verbose=False,
        )
        self._device = device
        self.cutoff_ang = float(self._model.graph_converter.atom_graph_cutoff)
        self.name = f"chgnet:{model}"
        self.energy_scale = scale_of(self.name)
        self.covered_atomic_numbers = frozenset(range(1, 95))

    def _predict(self, cells: Sequence[Atoms], task: str) -> list[dict]:
        from pymatgen.io.ase import AseAtomsAdaptor

        graphs = [self._model.graph_converter(AseAtomsAdaptor.get_structure(cell)) for cell in cells]
        predictions = self._model.predict_graph(graphs, task=task, batch_size=16)
        return predictions if isinstance(predictions, list) else [predictions]

    def energies(self, cells: Sequence[Atoms]) -> np.ndarray:
        import torch

        with torch.no_grad():  # the same numbers, a tenth sooner
            return np.array([float(p["e"]) for p in self._predict(cells, "e")])

    def evaluate(self, cells: Sequence[Atoms]) -> list[Evaluation]:
        return [
            # CHGNet predicts energy per atom and stress in GPa.
            Evaluation(float(p["e"]) * len(cell), np.asarray(p["f"]), np.asarray(p["s"]) * GPa)
            for p, cell in zip(self._predict(cells, "efs"), cells, strict=True)
        ]
