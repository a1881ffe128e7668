"""The schema of the config: types and bounds from its file, which names all keys, meanings from config.yaml.

Needs: pyyaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from hullseeker.workflow.config_files import keys_with_lines

_COMMENT = re.compile(r"\s#\s+(.*\S)")


def closed_schema(path: str | Path) -> dict:
    """Return the schema in which every key that config.yaml gives must be there."""
    schema = yaml.safe_load(Path(path).read_text())
    for _, part in [((), schema), *_parts(schema)]:
        if "properties" in part:
            part["required"] = list(part["properties"])
    return schema


def comments(config_path: str | Path) -> dict[tuple, str]:
    """Return what a config file's comments say, by the place of the key: the first one in the comment's line."""
    lines = Path(config_path).read_text(encoding="utf-8-sig").split("\n")
    places: dict[int, tuple] = {}
    for place, line in keys_with_lines(config_path):
        places.setdefault(line, place)
    found = {place: _COMMENT.search(lines[line - 1]) for line, place in places.items()}
    return {place: match[1] for place, match in found.items() if match}


def describe(schema: dict, config_path: str | Path) -> None:
    """Write into a schema's keys, as descriptions, what the comments of a config file say of them."""
    said = comments(config_path)
    for place, part in _parts(schema):
        if place in said:
            part["description"] = said[place]


def _parts(schema: Mapping, place: tuple = ()) -> Iterator[tuple[tuple, dict]]:
    """Yield every key that a schema names, by its place, with what the schema says of it."""
    for name, part in schema.get("properties", {}).items():
        yield (*place, name), part
        yield from _parts(part, (*place, name))
