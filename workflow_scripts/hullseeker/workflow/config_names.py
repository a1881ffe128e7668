"""Fill names of potentials, engines, kinds and reward terms into the config schema wherever it has `names_of`.

Needs: the standard library.
"""

from __future__ import annotations

from collections.abc import Collection

from hullseeker.potentials.registry import EVALUATORS
from hullseeker.relaxation.engines import ENGINES
from hullseeker.rewards.presets import OPTIONS

# Required and optional keys of a system of each kind, besides kind and label.
KEYS_OF_KIND = {
    "language_model": (("stages",), ("grpo",)),
    "samples": (("path",), ()),
    "cdvae": ((), ()),
}
_NAMES: dict[str, Collection[str]] = {"potentials": EVALUATORS, "engines": ENGINES, "kinds": KEYS_OF_KIND}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def fill_names(schema: object) -> None:
    """Fill the allowed names into every part of a schema that has `names_of`: as an enum, or as keys of reward terms.

    Options of terms that the schema does not describe are checked by type only.
    """
    if isinstance(schema, dict):
        table = schema.get("names_of")
        if table == "reward_terms":
            for name, options in OPTIONS.items():
                schema["properties"].setdefault(name, _schema_of_term(options))
        elif table:
            schema["enum"] = list(_NAMES[table])
    children = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for part in children:
        fill_names(part)


def _schema_of_term(options: dict) -> dict:
    """Return the schema of a term from the types of its defaults; an option without a default may have any type."""
    numbers = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    properties: dict[str, dict] = {"weight": {"type": "number"}, "clip": numbers}
    for name, default in options.items():
        properties[name] = {"type": _TYPES[type(default)]} if type(default) in _TYPES else {}
    return {"type": "object", "additionalProperties": False, "properties": properties}
