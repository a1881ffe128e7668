"""Write the comments of config.yaml into the schema as descriptions: python schemas/copy_descriptions.py (make schema).

The comments are the one place where a key is explained; error messages quote the schema.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "schemas" / "config.schema.yaml"
LINE = re.compile(r"^( *)(\w+):.*?(?:\s+# (.*))?$")


def comments(config_text: str) -> dict[str, str | None]:
    """Return the comment of every key by its dotted name, None where it has none."""
    found, sections = {}, []
    for match in filter(None, map(LINE.match, config_text.splitlines())):
        sections = [*sections[: len(match[1]) // 2], match[2]]
        found[".".join(sections)] = match[3]
    return found


def properties(schema: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """Yield every key of the schema by its dotted name, with what the schema says of it."""
    for name, inner in schema.get("properties", {}).items():
        yield path + name, inner
        yield from properties(inner, f"{path}{name}.")


def out_of_step(schema: dict, config_text: str) -> dict[str, str]:
    """Return the comments that the schema does not have as its descriptions."""
    wanted = comments(config_text)
    return {n: wanted[n] for n, inner in properties(schema) if wanted.get(n) and inner.get("description") != wanted[n]}


def main() -> None:
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 1000, True
    yaml.indent(mapping=2, sequence=2, offset=0)
    schema = yaml.load(SCHEMA)
    changed = out_of_step(schema, (ROOT / "config.yaml").read_text())
    for name, inner in properties(schema):
        if name in changed:
            inner["description"] = changed[name]
    if changed:
        with open(SCHEMA, "w") as handle:
            yaml.dump(schema, handle)
    print(f"{len(changed)} descriptions changed")


if __name__ == "__main__":
    main()
