"""SevenNet as a Potential (interface.py).

Needs: sevenn, torch, ase.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from hullseeker.potentials.checkpoints import require_safe_checkpoint
from hullseeker.potentials.energy_scales import scale_of
from hullseeker.potentials.interface import Evaluation


class SevenNet:
    """SevenNet (Park et al. 2024), a named model or a checkpoint path."""

    def __init__(self, model: str = "7net-0", device: str = "cpu") -> None:
        import sevenn._keys as key
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import unlabeled_atoms_to_graph
        from sevenn.util import load_checkpoint
        from torch_geometric.loader.dataloader import Collater

        if Path(model).is_file():
            require_safe_checkpoint(model)
        checkpoint = load_checkpoint(model)
        self._model = checkpoint.build_model()
        self._model.set_is_batch_data(True)
        # Without parameter gradients, the backward pass takes about a third less time per call.
        self._model.to(device).eval().requires_grad_(False)
        self._key, self.cutoff_ang, self._device = key, float(checkpoint.config[key.CUTOFF]), device
        self._graph = lambda cell: AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(cell, self.cutoff_ang))
        self._collate = Collater([], follow_batch=None, exclude_keys=None)
        self.name = f"sevennet:{model}"
        self.energy_scale = scale_of(self.name)
        # SevenNet embeds exactly the elements of its training data.
        self.covered_atomic_numbers = frozenset(int(z) for z in checkpoint.config[key.TYPE_MAP])

    def energies(self, cells: Sequence[Atoms]) -> np.ndarray:
        return np.array([e.energy_ev / len(c) for e, c in zip(self.evaluate(cells), cells, strict=True)])

    def evaluate(self, cells: Sequence[Atoms]) -> list[Evaluation]:
        key = self._key
        batch = self._collate([self._graph(cell) for cell in cells]).to(self._device)
        output = self._model(batch)
        energies = output[key.PRED_TOTAL_ENERGY].detach().cpu().numpy().reshape(-1)
        forces = output[key.PRED_FORCE].detach().cpu().numpy()
        # SevenNet's stress is xx, yy, zz, xy, yz, zx, with the opposite sign of ASE's.
        stresses = -output[key.PRED_STRESS].detach().cpu().numpy().reshape(-1, 6)[:, [0, 1, 2, 4, 5, 3]]
        ends = np.cumsum([len(cell) for cell in cells])
        return [
            Evaluation(float(energy), forces_of_cell, voigt_6_to_full_3x3_stress(stress))
            for energy, forces_of_cell, stress in zip(energies, np.split(forces, ends[:-1]), stresses, strict=True)
        ]

    def torch_sim_model(self):
        """Return the model for torch-sim, with positions and cells in float64."""
        from sevenn.torchsim import Float64Wrapper, SevenNetModel

        return Float64Wrapper(SevenNetModel(self._model, device=self._device))
