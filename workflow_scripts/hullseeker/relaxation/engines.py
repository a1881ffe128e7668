"""Registry of relaxation engines (`relax.engine`): function, package, optimizers and conda environment.

Needs: the standard library. Loaders are given by name and imported on use, so that every rule can read the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hullseeker.potentials.registry import EVALUATORS, imported_by_name

TORCH_SIM_ENV = "torch_sim.yaml"


@dataclass(frozen=True)
class Engine:
    """A relaxation engine; `loader` is module:function, called with potential, cells and settings."""

    loader: str
    package: str
    optimizers: tuple[str, ...]


# By relax.engine. Without torch-sim's BFGS, which stalls on cells that share a batch with larger ones.
ENGINES = {
    "per_cell": Engine("hullseeker.relaxation.per_cell:relax_batch", "ase", ("spring_bfgs", "lbfgs", "bfgs", "fire")),
    "torch_sim": Engine("hullseeker.relaxation.torch_sim:relax_in_flight", "torch-sim-atomistic", ("lbfgs", "fire")),
}


def load_engine(engine: str) -> Callable:
    """Import the function of an engine; raises RuntimeError if its package is not installed."""
    try:
        return imported_by_name(ENGINES[engine].loader)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"relax.engine is {engine!r}, and {error.name} is not installed here; run Snakemake with `--sdm conda`, "
            f"which builds envs/{TORCH_SIM_ENV}, or use relax.engine: per_cell"
        ) from error


def env_of(potential: str, engine: str) -> str:
    """Return the conda environment (a file in envs/) of the rules that relax with this potential and engine."""
    return TORCH_SIM_ENV if engine == "torch_sim" else EVALUATORS[potential].env


def sources_of(potential: str, engine: str) -> list[str]:
    """Return the modules, as paths in workflow_scripts, of a potential and an engine, for the code hash of rules."""
    loaders = (EVALUATORS[potential].loader, ENGINES[engine].loader)
    return [loader.split(":")[0].replace(".", "/") + ".py" for loader in loaders]
