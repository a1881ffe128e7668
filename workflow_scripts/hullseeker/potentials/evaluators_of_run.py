"""The evaluators of an experiment: the potential of `relax` (primary) and those of `relax.cross_check`.

Needs: the standard library.

An evaluator's id appears in the paths and columns of its results. It is the potential's name in the config, with the
model appended if an earlier evaluator has the same potential (sevennet, chgnet, sevennet_7net_l3i5), and `_rattled`
appended if it rattles structures before relaxation (sevennet_rattled).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hullseeker.potentials.registry import name_in_rows


def evaluators_by_key(relax: Mapping) -> dict[str, dict]:
    """Return the relaxation settings of every evaluator by its key in the config, the primary (`relax`) first.

    A cross-check inherits the settings of `relax`, except for the model (default: that of its potential) and rattling
    (default: none).
    """
    primary = {name: value for name, value in relax.items() if name != "cross_check"}
    return {"relax": primary} | {
        f"relax.cross_check.{i}": {**primary, "model": None, "rattle_ang": 0.0, **cross_check}
        for i, cross_check in enumerate(relax["cross_check"])
    }


def evaluators(relax: Mapping) -> dict[str, dict]:
    """Return the relaxation settings of every evaluator by id, the primary first; assumes no repeated evaluators."""
    settings_by_id: dict[str, dict] = {}
    for settings in evaluators_by_key(relax).values():
        potential, suffix = settings["potential"], "_rattled" if settings["rattle_ang"] else ""
        short_id = potential + suffix
        long_id = _file_name(name_in_rows(potential, settings["model"])) + suffix
        settings_by_id[long_id if short_id in settings_by_id else short_id] = settings
    return settings_by_id


def repeated_evaluators(relax: Mapping) -> list[str]:
    """Return an error message per cross-check that repeats an earlier evaluator."""
    problems: list[str] = []
    key_of: dict[tuple[str, bool], str] = {}
    for key, settings in evaluators_by_key(relax).items():
        name = name_in_rows(settings["potential"], settings["model"])
        earlier = key_of.setdefault((_file_name(name), bool(settings["rattle_ang"])), key)
        if earlier != key:
            problems.append(
                f"{key} is {name}, and so is {earlier}; evaluators must differ: use another potential or model"
            )
    return problems


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "_", name, flags=re.ASCII)


def evaluator_label(settings: Mapping) -> str:
    """Return the display name of an evaluator: its potential, its model, and how far it rattles."""
    name = name_in_rows(settings["potential"], settings["model"]).replace(":", " ", 1)
    return f"{name}, rattled by {settings['rattle_ang']:g} Å" if settings["rattle_ang"] else name
