"""A UMA checkpoint with a small random network, built by fairchem's own classes: it loads where the released ones load.

Needs: fairchem-core, torch.
"""

from pathlib import Path

import hydra
import torch
from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint
from omegaconf import OmegaConf

UMA = "fairchem.core.models.uma"
UNIT = "fairchem.core.units.mlip_unit.mlip_unit"
MODULES = "fairchem.core.modules.normalization"
N_ELEMENTS = 100
CUTOFF_ANG = 5.0


def backbone(datasets: tuple[str, ...], channels: int) -> dict:
    """Return the config of a one-layer mixture-of-experts network whose forces and stress are gradients."""
    return {
        "model": f"{UMA}.escn_moe.eSCNMDMoeBackbone",
        "model_version": 1.1,
        "max_num_elements": N_ELEMENTS,
        "dataset_mapping": {name: name for name in datasets},
        # size
        "num_layers": 1,
        "lmax": 2,
        "mmax": 2,
        "sphere_channels": channels,
        "hidden_channels": channels,
        "edge_channels": channels,
        "num_distance_basis": 16,
        # experts
        "num_experts": 4,
        "moe_type": "so2",
        "moe_layer_type": "pytorch",
        "moe_dropout": 0.0,
        "moe_expert_coefficient_norm": "softmax",
        "use_composition_embedding": True,
        # graph
        "otf_graph": True,
        "cutoff": CUTOFF_ANG,
        "max_neighbors": 300,
        "use_pbc": True,
        "always_use_pbc": False,
        # blocks
        "distance_function": "gaussian",
        "norm_type": "rms_norm_sh",
        "act_type": "gate",
        "ff_type": "spectral",
        "chg_spin_emb_type": "rand_emb",
        "cs_emb_grad": False,
        "dataset_emb_grad": False,
        # outputs
        "direct_forces": False,
        "regress_forces": True,
        "regress_stress": True,
    }


def tasks(dataset: str, element_references: list[float] | None) -> list[dict]:
    """Return the configs of energy, forces and stress of one data set, in eV and Å as they come."""
    shapes = {"energy": ("system", [1]), "forces": ("atom", [3]), "stress": ("system", [1, 9])}
    found = []
    for quantity, (level, shape) in shapes.items():
        task = {
            "_target_": f"{UNIT}.Task",
            "name": f"{dataset}_{quantity}",
            "property": quantity,
            "level": level,
            "datasets": [dataset],
            "out_spec": {"_target_": f"{UNIT}.OutputSpec", "dim": shape, "dtype": "float32"},
            "normalizer": {"_target_": f"{MODULES}.normalizer.Normalizer", "mean": 0.0, "rmsd": 1.0},
        }
        if quantity == "energy" and element_references is not None:
            tensor = {"_target_": "torch.DoubleTensor", "_args_": [element_references]}
            target = f"{MODULES}.element_references.ElementReferences"
            task["element_references"] = {"_target_": target, "element_references": tensor}
        found.append(task)
    return found


def write_tiny_checkpoint(
    path: Path,
    datasets: tuple[str, ...] = ("omat",),
    channels: int = 16,
    element_references: list[float] | None = None,
    seed: int = 0,
) -> Path:
    """Write a checkpoint with random weights; element_references (eV by atomic number, from 0) mark what it covers."""
    torch.manual_seed(seed)
    head = {
        "module": f"{UMA}.escn_moe.DatasetSpecificMoEWrapper",
        "head_cls": f"{UMA}.escn_md.MLP_EFS_Head",
        "head_kwargs": {"wrap_property": False},
        "wrap_property": True,
        "dataset_mapping": {name: name for name in datasets},
    }
    config = {
        "_target_": "fairchem.core.models.base.HydraModel",
        "model_id": "TINY-RANDOM",  # a checkpoint without one is refused
        "backbone": backbone(datasets, channels),
        "heads": {"energyandforcehead": head},
        "otf_graph": True,
        "pass_through_head_outputs": True,
    }
    model = hydra.utils.instantiate(OmegaConf.create(config))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    checkpoint = MLIPInferenceCheckpoint(
        model_config=config,
        model_state_dict=model.state_dict(),
        ema_state_dict=averaged.state_dict(),
        tasks_config=[task for name in datasets for task in tasks(name, element_references)],
    )
    torch.save(checkpoint, path)
    return path
