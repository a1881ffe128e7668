"""UMA (Wood et al. 2025) through fairchem: the evaluator of the paper.

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

# Inorganic crystals, with the settings of OMat24.
TASK = "omat"


class Uma:
    """UMA's inorganic-crystal task, from a hub name or a checkpoint path.

    A checkpoint is a pickle whose config names the classes to build: load only files that you trust.
    """

    def __init__(self, model: str = "uma-s-1p1", device: str = "cpu", precision: str = "float32") -> None:
        settings = inference_settings_batch()
        settings.base_precision_dtype = precision
        settings.__post_init__()  # turns the name of the precision into torch's
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
        # The model's forces are gradients that it takes in the same call: there is no cheaper one.
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
        """Return the model as torch-sim takes it, with geometries in float64."""
        from fairchem.core.calculate.torchsim_interface import FairChemModel

        device = torch.device(self._device)
        model = FairChemModel(self._checkpoint, device=device, dtype=torch.float64, compute_stress=True, task_name=TASK)
        model.predictor = self._predictor  # its own is always in float32
        return model


def checkpoint_path(model: str) -> str:
    """Return the file of a model: a path as it is, a hub name from fairchem's cache or from the hub.

    Raises ValueError for a name that is neither, RuntimeError where the hub does not hand the file out.
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
    except Exception as error:  # noqa: BLE001  whatever the hub's client raises
        # The cause is left out of the chain: a request's headers hold the token.
        raise RuntimeError(
            f"the hub does not hand out {model} ({type(error).__name__}); accept the licence on the page of "
            f"{hub.repository}, log in with `hf auth login` or HF_TOKEN, and let this machine reach "
            "the hub once, or give the path of a checkpoint as relax.model"
        ) from None


def covered_atomic_numbers(predictor) -> frozenset[int]:
    """Return the elements of OMat24 that the checkpoint embeds and, where it has reference energies, has one for."""
    (energy,) = (task for task in predictor.dataset_to_tasks[TASK] if task.property == "energy")
    found = energy.element_references
    references = None if found is None else found.element_references.cpu().numpy()
    return uma_elements(references, predictor.model.module.backbone.max_num_elements)
