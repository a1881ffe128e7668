"""Registry of potentials: loader, models, energy scale and conda environment of each.

Needs: the standard library. Loaders are given by name and imported on use, so that every rule can read the registry.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class HubModels:
    """A gated Hugging Face repository, the file of a model in it, and where the loader's package caches it."""

    repository: str
    file: str
    cache_variable: str
    default_cache: str

    def cache_folder(self) -> Path:
        """Return the cache folder of the loader's package."""
        return Path(os.environ.get(self.cache_variable) or Path(self.default_cache).expanduser())


@dataclass(frozen=True)
class Evaluator:
    """A potential that the config can name.

    `loader` is module:class, called with model and device, and with the precision if there are several; `models` are
    its named models; the version of `package` determines the results; `other_scales` has the models whose scale is not
    `energy_scale`; `env` is a file in envs/.
    """

    loader: str
    default_model: str
    models: tuple[str, ...]
    package: str
    energy_scale: str
    env: str
    precisions: tuple[str, ...] = ("float32",)
    engines: tuple[str, ...] = ("per_cell",)
    other_scales: Mapping[str, str] = field(default_factory=dict)
    # Set if the models are on the Hugging Face hub, behind a licence.
    hub: HubModels | None = None

    def scale_of_model(self, model: str | None) -> str:
        """Return the energy scale of a model; a checkpoint path has the default scale of the potential."""
        return self.other_scales.get(model or self.default_model, self.energy_scale)


# The settings of an evaluator that are arguments of load_potential.
SETTINGS_OF_LOADING = ("potential", "model", "device", "precision")

# By name in the config.
EVALUATORS: dict[str, Evaluator] = {
    "uma": Evaluator(
        loader="hullseeker.potentials.uma:Uma",
        default_model="uma-s-1p1",
        # Models with the task omat, without those fine-tuned to other functionals.
        models=("uma-s-1p1", "uma-m-1p1", "uma-s-1p2", "uma-s-1p2p1"),
        package="fairchem-core",
        energy_scale="omat24",
        env="uma.yaml",
        precisions=("float32", "float64"),
        engines=("per_cell", "torch_sim"),
        hub=HubModels("facebook/UMA", "checkpoints/{model}.pt", "FAIRCHEM_CACHE_DIR", "~/.cache/fairchem"),
    ),
    "sevennet": Evaluator(
        loader="hullseeker.potentials.sevennet:SevenNet",
        default_model="7net-0",
        # Models without modalities; 7net-omat is downloaded, the others ship in the wheel.
        models=("7net-0", "7net-0_22may2024", "7net-l3i5", "7net-omat"),
        package="sevenn",
        energy_scale="mp_uncorrected",
        env="potentials.yaml",
        engines=("per_cell", "torch_sim"),
        other_scales={"7net-omat": "omat24"},
    ),
    "chgnet": Evaluator(
        loader="hullseeker.potentials.chgnet:Chgnet",
        default_model="0.3.0",
        models=("0.3.0", "0.2.0", "r2scan"),
        package="chgnet",
        energy_scale="mp_corrected",
        env="potentials.yaml",
        other_scales={"r2scan": "r2scan"},
    ),
}


def name_in_rows(potential: str, model: str | None) -> str:
    """Return the name of a potential in tables (sevennet:7net-0), without loading it."""
    return f"{potential}:{model or EVALUATORS[potential].default_model}"


def load_evaluator(potential: str, model: str | None, device: str, precision: str):
    """Load a potential (model None: the default); imports its package."""
    evaluator = EVALUATORS[potential]
    options = {"precision": precision} if len(evaluator.precisions) > 1 else {}
    return imported_by_name(evaluator.loader)(model or evaluator.default_model, device, **options)


def sources_of_env(env: str) -> list[str]:
    """Return the modules, as paths in workflow_scripts, of the potentials that use a conda environment in envs/."""
    loaders = [evaluator.loader for evaluator in EVALUATORS.values() if evaluator.env == env]
    return [loader.split(":")[0].replace(".", "/") + ".py" for loader in loaders]


def imported_by_name(name: str):
    """Import and return an object given as module:name."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
