"""CHGNet as a Potential (interface.py).

Needs: chgnet, torch, ase, pymatgen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import GPa

from hullseeker.potentials.checkpoints import require_safe_checkpoint
from hullseeker.potentials.energy_scales import scale_of
from hullseeker.potentials.interface import Evaluation
from hullseeker.potentials.trained_elements import chgnet_elements


class Chgnet:
    """CHGNet (Deng et al. 2023), a shipped model or a checkpoint path; 0.3.0 predicts corrected MP energies."""

    def __init__(self, model: str = "0.3.0", device: str = "cpu") -> None:
        from chgnet.graph import CrystalGraphConverter
        from chgnet.model import CHGNet

        if Path(model).is_file():
            require_safe_checkpoint(model)
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
        references_ev = self._model.composition_model.fc.weight.detach().cpu().numpy()
        self.covered_atomic_numbers = chgnet_elements(references_ev)

    def _predict(self, cells: Sequence[Atoms], task: str) -> list[dict]:
        from pymatgen.io.ase import AseAtomsAdaptor

        graphs = [self._model.graph_converter(AseAtomsAdaptor.get_structure(cell)) for cell in cells]
        predictions = self._model.predict_graph(graphs, task=task, batch_size=16)
        return predictions if isinstance(predictions, list) else [predictions]

    def energies(self, cells: Sequence[Atoms]) -> np.ndarray:
        import torch

        with torch.no_grad():  # 10% faster, same results
            return np.array([float(p["e"]) for p in self._predict(cells, "e")])

    def evaluate(self, cells: Sequence[Atoms]) -> list[Evaluation]:
        return [
            # CHGNet predicts energy per atom and stress in GPa.
            Evaluation(float(p["e"]) * len(cell), np.asarray(p["f"]), np.asarray(p["s"]) * GPa)
            for p, cell in zip(self._predict(cells, "efs"), cells, strict=True)
        ]
