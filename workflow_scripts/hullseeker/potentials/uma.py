"""UMA (Wood et al. 2025) as a Potential (interface.py), with fairchem; the evaluator of the paper.

Needs: envs/uma.yaml (fairchem-core, torch, ase).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from fairchem.core.calculate import pretrained_mlip
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
from fairchem.core.units.mlip_unit import load_predict_unit
from fairchem.core.units.mlip_unit.api.inference import inference_settings_batch

from hullseeker.potentials.energy_scales import scale_of
from hullseeker.potentials.interface import Evaluation
from hullseeker.potentials.registry import EVALUATORS
from hullseeker.potentials.trained_elements import uma_elements

# The task for inorganic crystals: DFT settings of OMat24.
TASK = "omat"


class Uma:
    """UMA with the task for inorganic crystals, from a name on the Hugging Face hub or a checkpoint path.

    A checkpoint is a pickle whose config names the classes to instantiate: load trusted files only.
    """

    def __init__(self, model: str = "uma-s-1p1", device: str = "cpu", precision: str = "float32") -> None:
        settings = inference_settings_batch()
        settings.base_precision_dtype = precision
        settings.__post_init__()  # converts the precision to a torch dtype
        self._settings = settings
        self._checkpoint = checkpoint_path(model)
        self._predictor = load_predict_unit(self._checkpoint, settings, device=device)
        if TASK not in self._predictor.dataset_to_tasks:
            raise ValueError(
                f"the checkpoint {model} has the tasks {sorted(self._predictor.dataset_to_tasks)}, and {TASK} is "
                "needed; give a UMA checkpoint as relax.model"
            )
        self._device = device
        self.name = f"uma:{model}"
        self.energy_scale = scale_of(self.name)
        self.covered_atomic_numbers = covered_atomic_numbers(self._predictor)
        self.cutoff_ang = float(self._predictor.model.module.backbone.cutoff)

    def _predict(self, cells: Sequence[Atoms]) -> dict:
        dtype = self._settings.base_precision_dtype
        data = [AtomicData.from_ase(cell, task_name=TASK, target_dtype=dtype) for cell in cells]
        predicted = self._predictor.predict(atomicdata_list_to_batch(data))
        return {name: values.detach().cpu().numpy() for name, values in predicted.items()}

    def energies(self, cells: Sequence[Atoms]) -> np.ndarray:
        # Energies alone are not cheaper: the model always computes forces.
        return np.array([e.energy_ev / len(c) for e, c in zip(self.evaluate(cells), cells, strict=True)])

    def evaluate(self, cells: Sequence[Atoms]) -> list[Evaluation]:
        predicted = self._predict(cells)
        ends = np.cumsum([len(cell) for cell in cells])[:-1]
        return [
            Evaluation(float(energy), forces, stress)
            for energy, forces, stress in zip(
                predicted["energy"].reshape(-1),
                np.split(predicted["forces"], ends),
                predicted["stress"].reshape(-1, 3, 3),
                strict=True,
            )
        ]

    def torch_sim_model(self):
        """Return the model for torch-sim, with positions and cells in float64."""
        from fairchem.core.calculate.torchsim_interface import FairChemModel

        device = torch.device(self._device)
        model = FairChemModel(self._checkpoint, device=device, dtype=torch.float64, compute_stress=True, task_name=TASK)
        model.predictor = self._predictor  # FairChemModel's own predictor is always in float32
        return model


def checkpoint_path(model: str) -> str:
    """Return the checkpoint file of a model: a path unchanged, a hub name from fairchem's cache or downloaded.

    Raises ValueError if `model` is neither, RuntimeError if the download fails.
    """
    if model not in EVALUATORS["uma"].models:
        if Path(model).is_file():
            return model
        raise ValueError(
            f"relax.model is {model!r}, which is neither a file nor one of {', '.join(EVALUATORS['uma'].models)}"
        )
    hub = EVALUATORS["uma"].hub
    assert hub is not None
    try:
        return pretrained_mlip.pretrained_checkpoint_path_from_name(model)
    except Exception as error:  # noqa: BLE001  the hub's client raises many exception types
        # `from None`, because the headers of the request contain the token.
        raise RuntimeError(
            f"{model} cannot be downloaded from the Hugging Face hub ({type(error).__name__}); accept the licence "
            f"on the page of {hub.repository}, log in with `hf auth login` or HF_TOKEN, and let this machine reach "
            "the hub once, or give the path of a checkpoint as relax.model"
        ) from None


def covered_atomic_numbers(predictor) -> frozenset[int]:
    """Return the atomic numbers that the loaded checkpoint covers (`uma_elements`)."""
    (energy,) = (task for task in predictor.dataset_to_tasks[TASK] if task.property == "energy")
    module = energy.element_references
    references = None if module is None else module.element_references.cpu().numpy()
    return uma_elements(references, predictor.model.module.backbone.max_num_elements)
