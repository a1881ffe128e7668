"""The evaluators of an experiment: the potential of `relax`, which the tables are of, and those that cross-check it.

Needs: the standard library.

An evaluator's id is in the paths and columns of what it yields: the potential's name in the config, with the
model's behind it where another evaluator has the potential already (sevennet, chgnet, sevennet_7net_l3i5). One that
rattles what it relaxes says so: sevennet_rattled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hullseeker.potentials.registry import name_in_rows


def evaluators_by_key(relax: Mapping) -> dict[str, dict]:
    """Return the relaxation settings of every evaluator by its key in the config, the primary (`relax`) first.

    A cross-check inherits all but the model, which is its potential's default unless it names one, and the rattling.
    """
    primary = {name: value for name, value in relax.items() if name != "cross_check"}
    return {"relax": primary} | {
        f"relax.cross_check.{place}": {**primary, "model": None, "rattle_ang": 0.0, **further}
        for place, further in enumerate(relax["cross_check"])
    }


def evaluators(relax: Mapping) -> dict[str, dict]:
    """Return the relaxation settings of every evaluator by its id, the primary first; ids as `repeated` wants them."""
    found: dict[str, dict] = {}
    for settings in evaluators_by_key(relax).values():
        potential, rattles = settings["potential"], "_rattled" if settings["rattle_ang"] else ""
        plain = potential + rattles
        full = _file_name(name_in_rows(potential, settings["model"])) + rattles
        found[full if plain in found else plain] = settings
    return found


def repeated(relax: Mapping) -> list[str]:
    """Return a line per cross-check that is an evaluator already named, in words for the user."""
    problems: list[str] = []
    seen: dict[tuple[str, bool], str] = {}
    for key, settings in evaluators_by_key(relax).items():
        name = name_in_rows(settings["potential"], settings["model"])
        earlier = seen.setdefault((_file_name(name), bool(settings["rattle_ang"])), key)
        if earlier != key:
            problems.append(
                f"{key} is {name}, and so is {earlier}; an evaluator comes once: take another potential or model"
            )
    return problems


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "_", name, flags=re.ASCII)


def evaluator_label(settings: Mapping) -> str:
    """Return the name of an evaluator for people: its potential and its model, and how far it rattles."""
    name = name_in_rows(settings["potential"], settings["model"]).replace(":", " ", 1)
    return f"{name}, rattled by {settings['rattle_ang']:g} Å" if settings["rattle_ang"] else name
