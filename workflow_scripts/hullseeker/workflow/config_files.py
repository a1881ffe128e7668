"""Read config files and `--config`, find syntax errors and duplicate keys, and recall how values were spelled.

Needs: pyyaml. The profiles call `refuse_unreadable` before Snakemake reads the files, which would end in a traceback.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import yaml

from hullseeker.runtime.credentials import without_secrets

# Key with which an overlay names its base file.
EXTENDS = "extends"
_OPTIONS = ("--configfile", "--configfiles")
_CONFIG = ("--config", "-C")
_SUFFIXES = (".yaml", ".yml", ".json")
_NAME = re.compile(r"[a-zA-Z_][\w-]*\w")


class CommandLineError(ValueError):
    """A `--config` option that cannot be read; the message says what to write instead."""


class BaseFileError(ValueError):
    """A config file whose `extends` cannot be followed; the message has the file, the line and the remedy."""


def with_bases(paths: Iterable[str | Path]) -> list[Path]:
    """Return overlays in the order in which they apply, each after the files that it extends, without repeated bases.

    Raises BaseFileError if `extends` does not name a readable config file, or if files extend each other.
    """
    ordered: list[Path] = []
    for path in map(Path, paths):
        bases = _bases_of(path)
        ordered += [base for base in bases if base.resolve() not in {other.resolve() for other in ordered}]
        ordered.append(path)
    return ordered


def _bases_of(path: Path) -> list[Path]:
    """Return all files that a file extends, directly or indirectly, the most distant first."""
    chain = [path]
    while (extended := _extended_by(chain[0])) is not None:
        base, line = extended
        where = f"the config file {_relative(chain[0])} extends {base} in line {line}"
        if not base.exists():
            close = difflib.get_close_matches(str(base), [str(file) for file in base.parent.glob("*.y*ml")], n=1)
            raise BaseFileError(
                f"{where}, which does not exist; "
                + (f"did you mean {close[0]}?" if close else "give the path relative to the checkout")
            )
        if problem := problem_with_file(base):
            raise BaseFileError(f"{where}: {problem}")
        if base.resolve() in {file.resolve() for file in chain}:
            raise BaseFileError(f"{where}, which leads back to {base}; remove one `extends` of that circle")
        chain.insert(0, base)
    return chain[:-1]


def _extended_by(path: Path) -> tuple[Path, int] | None:
    """Return the file that a config file extends and the line of the key; None if it extends none."""
    for key_path, _, value in _entries(_compose(path)):
        if key_path == (EXTENDS,):
            line = value.start_mark.line + 1
            if not isinstance(value, yaml.ScalarNode) or value.tag != "tag:yaml.org,2002:str" or not value.value:
                raise BaseFileError(
                    f"the config file {_relative(path)} has {EXTENDS} in line {line}, which is not the path of one "
                    f"config file; write {EXTENDS}: experiments/laptop.yaml, or remove it"
                )
            return Path(value.value), line
    return None


def files_on_command_line(words: Sequence[str]) -> list[str]:
    """Return the config files on a Snakemake command line; --configfile takes all words up to the next option."""
    return _taken_by(_OPTIONS, words)


def entries_on_command_line(words: Sequence[str]) -> list[str]:
    """Return the --config entries on a Snakemake command line."""
    return _taken_by(_CONFIG, words)


def _taken_by(options: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the arguments of the last of these options on a command line."""
    values, takes = [], False
    for word in words:
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            takes = option in options
            if takes and equals:
                values, takes = [value], False
            elif takes:
                values = []
        elif takes:
            values.append(word)
    return values


def read_command_line(entries: Iterable[str]) -> dict:
    """Parse `--config` entries like a config file; Snakemake itself reads nested values as text.

    Raises CommandLineError if an entry is not a top-level key with a value, is not valid YAML, or has a key twice.
    """
    parsed: dict = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not equals:
            raise CommandLineError(
                f"--config has the entry {entry!r}, which is not key=value; write targets before --config"
            )
        if not _NAME.fullmatch(key):
            top, dot, rest = key.partition(".")
            remedy = (
                f"write --config {top}='{{{rest.replace('.', ': {')}: {text}{'}' * (rest.count('.') + 1)}'"
                if dot and _NAME.fullmatch(top)
                else "write --config key=value, with a key of config.yaml's top level"
            )
            raise CommandLineError(f"--config has {entry!r}, but takes only top-level keys; {remedy}")
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            key_paths = [key_path for key_path, name, _ in _entries(node) if name is not None]
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join((getattr(error, "problem", None) or str(error)).split())
            raise CommandLineError(f"--config {key}={text} is not valid YAML ({reason}); correct it") from None
        if duplicate := next((key_path for key_path in key_paths if key_paths.count(key_path) > 1), None):
            name = ".".join(map(str, (key, *duplicate)))
            raise CommandLineError(f"--config has the key {name} twice, of which YAML keeps only the last; remove one")
        both = isinstance(value, Mapping) and isinstance(parsed.get(key), Mapping)
        parsed[key] = merged(parsed[key], value) if both else value
    return parsed


def merged(old: Mapping, new: Mapping) -> dict:
    """Merge two mappings: nested mappings are merged at every level, other values are replaced by the new ones."""
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def problem_with_file(path: str | Path) -> str | None:
    """Return why a config file cannot be read, in one sentence, or None."""
    path = Path(path)
    if path.is_dir():
        return f"the config file {path} is a folder; name a YAML file"
    if not path.exists():
        return (
            f"the config file {path} does not exist; correct the path, and write targets before --configfile, which "
            "takes every word after it as a file"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        return f"the config file {path} cannot be read ({error.strerror}); change its permissions"
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        return f"the config file {path} is not UTF-8 text (line {line}); save it as UTF-8"
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        problem = next(filter(None, map(_problem_with_node, _nodes(node))), None)
        if problem:
            return f"the config file {path} has {problem}"
    except RecursionError:
        return f"the config file {path} is nested too deeply, or refers to itself with & and *; write the values out"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = " ".join((getattr(error, "problem", None) or str(error)).split())
        return f"the config file {path} is not valid YAML ({where}{reason}); correct it"
    if node is None:
        return f"the config file {path} is empty; give it keys of config.yaml, or leave it out"
    if not isinstance(node, yaml.MappingNode):
        return f"the config file {path} has no keys at its top level; write `key: value` lines, as in config.yaml"
    return None


def _problem_with_node(node: yaml.Node) -> str | None:
    """Return why a YAML node cannot be read, as the end of a sentence, or None."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                return f"a list or mapping as a key in line {key.start_mark.line + 1}; keys must be text, so quote it"
    if not isinstance(node, yaml.ScalarNode):
        known = node.tag in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
        return None if known else f"the tag {node.tag} in line {line}, which no config needs; remove it"
    if node.tag == "tag:yaml.org,2002:merge":
        return None
    try:
        yaml.SafeLoader("").construct_object(node)
    except yaml.constructor.ConstructorError:
        return f"the tag {node.tag} in line {line}, which no config needs; remove it"
    except (ValueError, OverflowError):
        kind = "date" if node.tag.endswith(":timestamp") else "number"
        return f'{node.value} in line {line}, which YAML cannot read as a {kind}; quote it: "{node.value}"'
    return None


def _nodes(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield all nodes of a file, keys included. Raises RecursionError if a node contains itself."""
    if node is None:
        return
    yield node
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for part in pair:
                yield from _nodes(part)
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield from _nodes(part)


def targets_among(files: Sequence[str]) -> list[str]:
    """Return the arguments of `--configfile` that are targets instead of config files: names, or files in results/."""
    return [
        path
        for path in files
        if Path(path).suffix not in _SUFFIXES and (not Path(path).exists() or Path(path).parts[:1] == ("results",))
    ]


def refuse_unreadable(words: Sequence[str]) -> None:
    """Exit with one sentence if a config file or `--config` on a command line cannot be read."""
    defaults = ["config.yaml"] if Path("config.yaml").exists() else []
    files = files_on_command_line(words)
    if targets := targets_among(files):
        configs = " ".join(path for path in files if path not in targets) or "mine.yaml"
        raise SystemExit(
            f"--configfile takes every word after it as a config file, and {', '.join(targets)} is not one; write "
            f"targets first: snakemake {' '.join(targets)} --configfile {configs}"
        )
    for path in [*defaults, *files]:
        if problem := problem_with_file(path):
            raise SystemExit(problem)
    try:
        with_bases(files_on_command_line(words))
    except BaseFileError as error:
        raise SystemExit(without_secrets(str(error))) from None
    try:
        read_command_line(entries_on_command_line(words))
    except CommandLineError as error:
        raise SystemExit(without_secrets(str(error))) from None


class Spellings:
    """Keys and values as spelled in config files, by path (a tuple of keys and indices); later files win."""

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.keys: dict[tuple, str] = {}
        self.values: dict[tuple, str] = {}
        self.repeated: list[str] = []
        for path in paths:
            seen: dict[tuple, int] = {}
            duplicates: set[tuple] = set()
            for key_path, key, value in _entries(_compose(path)):
                if key is not None:
                    line = key.start_mark.line + 1
                    # Keys inside a duplicate mapping are not reported again.
                    if key_path in seen and key_path[:-1] not in duplicates:
                        name = ".".join(map(str, key_path))
                        self.repeated.append(
                            f"{_relative(path)} has the key {name} twice, in lines {seen[key_path]} and {line}, and "
                            "YAML keeps only the last; rename or remove one"
                        )
                    if key_path in seen:
                        duplicates.add(key_path)
                    seen[key_path] = line
                    self.keys[key_path] = key.value
                if isinstance(value, yaml.ScalarNode) and value.style is None:
                    self.values[key_path] = value.value

    def remedy_for_key(self, key_path: tuple) -> str:
        """Return why the last key of a path was not read as text, and what to do."""
        return _remedy(key_path[-1], self.keys.get(key_path))

    def remedy_for_value(self, key_path: tuple, value: object) -> str:
        """Return why a value was not read as text, and what to do; empty if quotes would not help."""
        return _remedy(value, self.values.get(key_path)) if isinstance(value, (bool, int, float, date)) else ""


def keys_with_lines(path: str | Path) -> Iterator[tuple[tuple, int]]:
    """Yield the path and the line of every key in a config file."""
    for key_path, key, _ in _entries(_compose(path)):
        if key is not None:
            yield key_path, key.start_mark.line + 1


def _remedy(value: object, spelled: str | None) -> str:
    if spelled is not None and yaml.safe_load(spelled) == value:
        return f'this is how YAML reads {spelled}; quote it: "{spelled}"'
    if isinstance(value, bool):
        return f"this is how YAML reads {'YES, yes, on and true' if value else 'NO, no, off and false'}; quote it"
    if isinstance(value, (int, float)):
        return "YAML reads text that looks like a number as a number; quote it"
    if isinstance(value, date):
        return "YAML reads text that looks like a date as a date; quote it"
    return "a key must be text; quote it"


def _relative(path: str | Path) -> str:
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else str(path)


def _compose(path: str | Path) -> yaml.Node | None:
    return yaml.compose(Path(path).read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)


def _entries(node: yaml.Node | None, key_path: tuple = ()) -> Iterator[tuple[tuple, yaml.Node | None, yaml.Node]]:
    """Yield (path, node of the key or None in a list, node of the value) for every entry of a config file."""
    if isinstance(node, yaml.MappingNode):
        loader = yaml.SafeLoader("")
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = loader.construct_object(key, deep=True)
            entry_path = (*key_path, name if name.__hash__ else str(name))
            yield entry_path, key, value
            yield from _entries(value, entry_path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key_path, index), None, value
            yield from _entries(value, (*key_path, index))
