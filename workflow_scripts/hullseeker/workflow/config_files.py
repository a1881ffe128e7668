"""Config files and `--config` as they are written: what cannot be read, keys that stand twice, how a value was spelled.

Needs: pyyaml. The profiles ask `refuse_unreadable` before Snakemake reads a file: it would end with a trace.
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

# The key with which an overlay names the file that it changes a few keys of.
EXTENDS = "extends"
_OPTIONS = ("--configfile", "--configfiles")
_CONFIG = ("--config", "-C")
_SUFFIXES = (".yaml", ".yml", ".json")
_NAME = re.compile(r"[a-zA-Z_][\w-]*\w")


class CommandLineError(ValueError):
    """A `--config` that cannot be read; the message says what to write."""


class BaseFileError(ValueError):
    """A config file that extends what it cannot; the message names file, line and remedy."""


def with_bases(paths: Iterable[str | Path]) -> list[Path]:
    """Return overlays in the order in which they apply: what a file extends stands before it, and is there once.

    BaseFileError where `extends` names no file, a file that cannot be read, or leads back to the file it stands in.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        bases = _bases_of(path)
        found += [base for base in bases if base.resolve() not in {one.resolve() for one in found}]
        found.append(path)
    return found


def _bases_of(path: Path) -> list[Path]:
    """Return what a file extends, directly or not, the farthest first."""
    chain = [path]
    while (named := _extended_by(chain[0])) is not None:
        base, line = named
        where = f"the config file {_shown(chain[0])} extends {base} in line {line}"
        if not base.exists():
            close = difflib.get_close_matches(str(base), [str(one) for one in base.parent.glob("*.y*ml")], n=1)
            raise BaseFileError(
                f"{where}, which does not exist; "
                + (f"did you mean {close[0]}?" if close else "give a path as seen from the checkout")
            )
        if problem := problem_with_file(base):
            raise BaseFileError(f"{where}: {problem}")
        if base.resolve() in {one.resolve() for one in chain}:
            raise BaseFileError(f"{where}, which leads back to {base}; remove one `extends` of that circle")
        chain.insert(0, base)
    return chain[:-1]


def _extended_by(path: Path) -> tuple[Path, int] | None:
    """Return the file that a config file extends and the line that says so; None where it extends none."""
    for place, _, value in _entries(_compose(path)):
        if place == (EXTENDS,):
            line = value.start_mark.line + 1
            if not isinstance(value, yaml.ScalarNode) or value.tag != "tag:yaml.org,2002:str" or not value.value:
                raise BaseFileError(
                    f"the config file {_shown(path)} has {EXTENDS} in line {line}, which is not the path of one config "
                    f"file; write {EXTENDS}: experiments/laptop.yaml, or remove it"
                )
            return Path(value.value), line
    return None


def files_on_command_line(words: Sequence[str]) -> list[str]:
    """Return the config files that Snakemake's command line names; the option takes every word up to the next one."""
    return _taken_by(_OPTIONS, words)


def entries_on_command_line(words: Sequence[str]) -> list[str]:
    """Return what Snakemake's command line gives with --config."""
    return _taken_by(_CONFIG, words)


def _taken_by(options: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the words that the last of these options takes."""
    found, takes = [], False
    for word in words:
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            takes = option in options
            if takes and equals:
                found, takes = [value], False
            elif takes:
                found = []
        elif takes:
            found.append(word)
    return found


def read_command_line(entries: Iterable[str]) -> dict:
    """Return what `--config` gives, read as a config file would be; Snakemake reads all within an entry as text.

    CommandLineError where an entry is no key of the top level with a value, is no YAML, or has a key twice.
    """
    found: dict = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not equals:
            raise CommandLineError(
                f"--config has {entry!r}, and takes every word after it for key=value; name targets before it"
            )
        if not _NAME.fullmatch(key):
            top, dot, rest = key.partition(".")
            remedy = (
                f"write --config {top}='{{{rest.replace('.', ': {')}: {text}{'}' * (rest.count('.') + 1)}'"
                if dot and _NAME.fullmatch(top)
                else "write --config key=value, with a key of config.yaml's top level"
            )
            raise CommandLineError(f"--config has {entry!r}, and takes keys of the top level alone; {remedy}")
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            places = [place for place, name, _ in _entries(node) if name is not None]
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            what = " ".join((getattr(error, "problem", None) or str(error)).split())
            raise CommandLineError(f"--config {key}={text} is not valid YAML ({what}); correct it") from None
        if twice := next((place for place in places if places.count(place) > 1), None):
            name = ".".join(map(str, (key, *twice)))
            raise CommandLineError(f"--config has the key {name} twice, and YAML keeps the last one alone; remove one")
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


def merged(old: Mapping, new: Mapping) -> dict:
    """Return a mapping with another's entries put in: mappings are merged at every level, all else is replaced."""
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def problem_with_file(path: str | Path) -> str | None:
    """Return why a config file cannot be read, in one sentence; None where it can."""
    path = Path(path)
    if path.is_dir():
        return f"the config file {path} is a folder; name a YAML file"
    if not path.exists():
        return (
            f"the config file {path} does not exist; --configfile takes every word after it for a file, so name "
            "targets before it"
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
        return f"the config file {path} refers to itself (& and *), or is nested too deep; write it out"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        what = " ".join((getattr(error, "problem", None) or str(error)).split())
        return f"the config file {path} is not valid YAML ({where}{what}); correct it"
    if node is None:
        return f"the config file {path} is empty; give it keys of config.yaml, or leave it out"
    if not isinstance(node, yaml.MappingNode):
        return f"the config file {path} holds no keys; write it as `key: value`, as config.yaml is"
    return None


def _problem_with_node(node: yaml.Node) -> str | None:
    """Return why a part of a file has no value in YAML, as the rest of a sentence; None where it has one."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                return f"a key that is a list or a mapping, in line {key.start_mark.line + 1}; a key is text, quote it"
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
        return f'{node.value} in line {line}, which YAML takes for a {kind} and cannot read; quote it: "{node.value}"'
    return None


def _nodes(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield all parts of a file, keys too; RecursionError where one is in itself."""
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
    """Return the words behind `--configfile` that are no config files but targets: names, and files of results."""
    return [
        path
        for path in files
        if Path(path).suffix not in _SUFFIXES and (not Path(path).exists() or Path(path).parts[:1] == ("results",))
    ]


def refuse_unreadable(words: Sequence[str]) -> None:
    """End the process with one sentence where a config file or `--config` of a command line cannot be read."""
    own = ["config.yaml"] if Path("config.yaml").exists() else []
    files = files_on_command_line(words)
    if targets := targets_among(files):
        configs = " ".join(path for path in files if path not in targets) or "mine.yaml"
        raise SystemExit(
            f"--configfile takes every word after it for a config file, and {', '.join(targets)} is none; name targets "
            f"first: snakemake {' '.join(targets)} --configfile {configs}"
        )
    for path in [*own, *files]:
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
    """How config files spell keys and values, by their place (a tuple of keys and indices); later files win."""

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.keys: dict[tuple, str] = {}
        self.values: dict[tuple, str] = {}
        self.repeated: list[str] = []
        for path in paths:
            seen: dict[tuple, int] = {}
            twice: set[tuple] = set()
            for place, key, value in _entries(_compose(path)):
                if key is not None:
                    line = key.start_mark.line + 1
                    # Of what stands twice, what is in it stands twice as well.
                    if place in seen and place[:-1] not in twice:
                        name = ".".join(map(str, place))
                        self.repeated.append(
                            f"{_shown(path)} has the key {name} twice, in lines {seen[place]} and {line}; YAML keeps "
                            "the last one alone: rename or remove one"
                        )
                    if place in seen:
                        twice.add(place)
                    seen[place] = line
                    self.keys[place] = key.value
                if isinstance(value, yaml.ScalarNode) and value.style is None:
                    self.values[place] = value.value

    def remedy_for_key(self, place: tuple) -> str:
        """Return why the last key of a place is no text, and what to do."""
        return _remedy(place[-1], self.keys.get(place))

    def remedy_for_value(self, place: tuple, value: object) -> str:
        """Return why a value is no text, and what to do; empty where quotes would not help."""
        return _remedy(value, self.values.get(place)) if isinstance(value, (bool, int, float, date)) else ""


def keys_with_lines(path: str | Path) -> Iterator[tuple[tuple, int]]:
    """Yield the place and the line of every key in a config file."""
    for place, key, _ in _entries(_compose(path)):
        if key is not None:
            yield place, key.start_mark.line + 1


def _remedy(value: object, spelled: str | None) -> str:
    if spelled is not None and yaml.safe_load(spelled) == value:
        return f'YAML reads {spelled} so, quote it: "{spelled}"'
    if isinstance(value, bool):
        return f"YAML reads {'YES, yes, on and true' if value else 'NO, no, off and false'} so, quote it"
    if isinstance(value, (int, float)):
        return "YAML reads what looks like a number as one, quote it"
    if isinstance(value, date):
        return "YAML reads what looks like a date as one, quote it"
    return "a key is text, quote it"


def _shown(path: str | Path) -> str:
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else str(path)


def _compose(path: str | Path) -> yaml.Node | None:
    return yaml.compose(Path(path).read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)


def _entries(node: yaml.Node | None, place: tuple = ()) -> Iterator[tuple[tuple, yaml.Node | None, yaml.Node]]:
    """Yield the place, the key's node (None in a list) and the value's node of everything in a config file."""
    if isinstance(node, yaml.MappingNode):
        loader = yaml.SafeLoader("")
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = loader.construct_object(key, deep=True)
            here = (*place, name if name.__hash__ else str(name))
            yield here, key, value
            yield from _entries(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), None, value
            yield from _entries(value, (*place, index))
