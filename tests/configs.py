"""The configs of the experiments in experiments/, and settings as config.yaml has them, for tests."""

from contextlib import chdir
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def config_of(*overlays: str) -> dict:
    """Return config.yaml with overlays of experiments/ on top, named without their suffix."""
    from hullseeker.workflow.configuration import read_config  # needs packages that not every environment has

    with chdir(ROOT):
        return read_config(*(f"experiments/{name}.yaml" for name in overlays))


@cache
def _defaults() -> dict:
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def text_format(**changes):
    """Return the form of crystal texts by config.yaml, and what is changed."""
    from hullseeker.language_model.crystal_text import TextFormat

    return TextFormat(**_defaults()["crystal_text"] | changes)


def relaxation_settings(**changes):
    """Return when a relaxation ends by config.yaml, and what is changed."""
    from hullseeker.relaxation.per_cell import RelaxSettings

    return RelaxSettings.from_config(_defaults()["relax"] | changes)
