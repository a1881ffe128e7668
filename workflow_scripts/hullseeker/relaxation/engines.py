"""The engines that the config may name: what relaxes many cells, its package and its environment.

Needs: the standard library. Loaders are named, not imported, so that every rule can read this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hullseeker.potentials.registry import EVALUATORS, imported_by_name

TORCH_SIM_ENV = "torch_sim.yaml"


@dataclass(frozen=True)
class Engine:
    """What relaxes many cells: module:function, called with potential, cells and settings."""

    loader: str
    package: str
    optimizers: tuple[str, ...]


# By relax.engine. torch-sim's BFGS stalls on a cell that shares the batch with larger ones.
ENGINES = {
    "per_cell": Engine("hullseeker.relaxation.per_cell:relax_batch", "ase", ("spring_bfgs", "lbfgs", "bfgs", "fire")),
    "torch_sim": Engine("hullseeker.relaxation.torch_sim:relax_in_flight", "torch-sim-atomistic", ("lbfgs", "fire")),
}


def load_engine(engine: str) -> Callable:
    """Import what relaxes many cells; RuntimeError where its package is not installed."""
    try:
        return imported_by_name(ENGINES[engine].loader)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"relax.engine is {engine!r}, and {error.name} is not installed here; run Snakemake with `--sdm conda`, "
            f"which builds envs/{TORCH_SIM_ENV}, or use relax.engine: per_cell"
        ) from error


def env_of(potential: str, engine: str) -> str:
    """Return the file in envs/ of the rules that relax."""
    return TORCH_SIM_ENV if engine == "torch_sim" else EVALUATORS[potential].env


def sources_of(potential: str, engine: str) -> list[str]:
    """Return the modules, as paths in workflow_scripts, that only this table names: their code counts too."""
    loaders = (EVALUATORS[potential].loader, ENGINES[engine].loader)
    return [loader.split(":")[0].replace(".", "/") + ".py" for loader in loaders]
