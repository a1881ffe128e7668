"""Configs of the experiments in experiments/, and settings with the defaults of config.yaml, for tests."""

from contextlib import chdir
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def config_of(*overlays: str) -> dict:
    """Return config.yaml merged with overlays from experiments/, given by their names without suffix."""
    from hullseeker.workflow.configuration import (
        read_config,
    )  # imported here because not every environment has its packages

    with chdir(ROOT):
        return read_config(*(f"experiments/{name}.yaml" for name in overlays))


@cache
def _defaults() -> dict:
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def text_format(**changes):
    """Return the crystal text format of config.yaml, updated with `changes`."""
    from hullseeker.language_model.crystal_text import TextFormat

    return TextFormat(**_defaults()["crystal_text"] | changes)


def relaxation_settings(**changes):
    """Return the relaxation settings of config.yaml, updated with `changes`."""
    from hullseeker.relaxation.per_cell import RelaxSettings

    return RelaxSettings.from_config(_defaults()["relax"] | changes)


def settle_settings(**changes):
    """Return the settings of settling in config.yaml, with changes."""
    from hullseeker.relaxation.settling import SettleSettings

    return SettleSettings.from_config({"settle": _defaults()["relax"]["settle"] | changes})


def relax_section(**changes) -> dict:
    """Return the section `relax` of config.yaml, as an evaluator has it, with changes."""
    return {name: value for name, value in _defaults()["relax"].items() if name != "cross_check"} | changes
