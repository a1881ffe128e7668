"""Names that the schema of the config takes from the tables that have them, where it says `names_of`.

Needs: the standard library.
"""

from __future__ import annotations

from collections.abc import Collection

from hullseeker.potentials.registry import EVALUATORS
from hullseeker.relaxation.engines import ENGINES
from hullseeker.rewards.presets import OPTIONS

# The keys of a system of each kind, beside kind and label: those it needs, and those it may have.
KEYS_OF_KIND = {
    "language_model": (("stages",), ("grpo",)),
    "samples": (("path",), ()),
    "cdvae": ((), ()),
}
_NAMES: dict[str, Collection[str]] = {"potentials": EVALUATORS, "engines": ENGINES, "kinds": KEYS_OF_KIND}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def fill_names(schema: object) -> None:
    """Write the known names into every part of a schema that has `names_of`: an enum, or the keys of reward terms.

    The schema bounds the options of a term where it describes the term; those of others are held to their types alone.
    """
    if isinstance(schema, dict):
        table = schema.get("names_of")
        if table == "reward_terms":
            for name, options in OPTIONS.items():
                schema["properties"].setdefault(name, _schema_of_term(options))
        elif table:
            schema["enum"] = list(_NAMES[table])
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for part in parts:
        fill_names(part)


def _schema_of_term(options: dict) -> dict:
    """Return the schema of a term by the types of its defaults; an option without a default may be anything."""
    numbers = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    properties: dict[str, dict] = {"weight": {"type": "number"}, "clip": numbers}
    for name, default in options.items():
        properties[name] = {"type": _TYPES[type(default)]} if type(default) in _TYPES else {}
    return {"type": "object", "additionalProperties": False, "properties": properties}
