"""Schema of the config: types and bounds from its file, descriptions of keys from the comments in config.yaml.

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
    """Read a schema and make every key in it required."""
    schema = yaml.safe_load(Path(path).read_text())
    for _, part in [((), schema), *_parts(schema)]:
        if "properties" in part:
            part["required"] = list(part["properties"])
    return schema


def comments(config_path: str | Path) -> dict[tuple, str]:
    """Return the comment of each line of a config file, keyed by the path of the first key in that line."""
    lines = Path(config_path).read_text(encoding="utf-8-sig").split("\n")
    first_keys: dict[int, tuple] = {}
    for key_path, line in keys_with_lines(config_path):
        first_keys.setdefault(line, key_path)
    matches = {key_path: _COMMENT.search(lines[line - 1]) for line, key_path in first_keys.items()}
    return {key_path: match[1] for key_path, match in matches.items() if match}


def describe(schema: dict, config_path: str | Path) -> None:
    """Add the comments of a config file to a schema as descriptions of its keys."""
    descriptions = comments(config_path)
    for key_path, part in _parts(schema):
        if key_path in descriptions:
            part["description"] = descriptions[key_path]


def _parts(schema: Mapping, key_path: tuple = ()) -> Iterator[tuple[tuple, dict]]:
    """Yield the path and the subschema of every key in a schema."""
    for name, part in schema.get("properties", {}).items():
        yield (*key_path, name), part
        yield from _parts(part, (*key_path, name))
