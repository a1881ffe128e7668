"""The evaluators of an experiment: the potential of `relax`, which the tables are of, and those that cross-check it.

Needs: the standard library.

An evaluator's id is in the paths and columns of what it yields: the potential's name in the config, with the
model's behind it where another evaluator has the potential already (sevennet, chgnet, sevennet_7net_l3i5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping


def evaluators(relax: Mapping) -> dict[str, dict]:
    """Return the relaxation settings of every evaluator by its id, the primary first; `relax` as in the config.

    A cross-check inherits all but the model, which is its potential's default unless it names one. Ids are unique
    where `repeated` finds nothing.
    """
    primary = {key: value for key, value in relax.items() if key != "cross_check"}
    found = {primary["potential"]: primary}
    for further in relax["cross_check"]:
        settings = {**primary, "model": None, **further}
        found[_id_beside(found, settings)] = settings
    return found


def _id_beside(found: Mapping[str, Mapping], settings: Mapping) -> str:
    potential = settings["potential"]
    return f"{potential}_{_file_name(str(settings['model']))}" if potential in found else potential


def repeated(relax: Mapping) -> list[str]:
    """Return a line per cross-check that is, or may be, an evaluator already named, in words for the user."""
    problems, seen = [], [("relax", relax)]
    for place, further in enumerate(relax["cross_check"]):
        key = f"relax.cross_check.{place}"
        for earlier_key, earlier in seen:
            models = [one.get("model") for one in (further, earlier)]
            # null is the potential's default, which may well be the model that the other one names.
            same_model = None in models or len(set(map(_file_name, models))) == 1
            if further["potential"] == earlier["potential"] and same_model:
                own, other = ("null" if model is None else repr(model) for model in models)
                problems.append(
                    f"{key}.potential is {further['potential']!r} with model {own}, and so is {earlier_key}.potential, "
                    f"with model {other}; an evaluator comes once: take another potential, or name a different model "
                    "in each"
                )
        seen.append((key, further))
    return problems


def _file_name(model: str) -> str:
    return re.sub(r"\W+", "_", model, flags=re.ASCII)


def evaluator_label(settings: Mapping) -> str:
    """Return the name of an evaluator for people: its potential, and its model where the config names one."""
    return f"{settings['potential']} {settings.get('model') or ''}".strip()
