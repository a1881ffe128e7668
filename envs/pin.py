"""Pin every package of the environment files from the locks: python envs/pin.py (make envs).

A file names by hand, above MARK, what its scripts import. Below MARK stands what those packages bring in turn, so that
a conda environment is the one that was tested. Versions are those of requirements.lock, or of a lock of the file's own
(requirements-uma.lock for uma.yaml), of which it takes all but the test tools.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
MARK = "      # What these bring, pinned from the lock by `make envs`:"
SHARED_LOCK = ROOT / "requirements.lock"
TEST_TOOLS = {"pytest", "iniconfig", "pluggy"}
PIN = re.compile(r"^ {6}- (?P<name>[\w.-]+)(?P<extras>\[[\w,]+\])?(?:==(?P<version>\S+))?(?P<comment>\s+#.*)?$")


def read_lock(path: Path) -> dict[str, str]:
    """Return the pins of a lock by canonical name, as they are spelled there."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(line.split("==")[0]): line for line in lines}


def lock_of(env: str) -> Path:
    """Return the lock of an environment, by its name without a suffix."""
    own = ROOT / f"requirements-{env.replace('_', '-')}.lock"
    return own if own.is_file() else SHARED_LOCK


def direct(text: str) -> list[re.Match]:
    """Return the lines of a file that were written by hand, as matches of PIN."""
    return list(filter(None, map(PIN.match, text.split(MARK)[0].splitlines())))


def requirements_of(package: str, extras: frozenset[str]) -> Iterable[Requirement]:
    """Yield what an installed package asks for on this machine; metadata.PackageNotFoundError where it is not."""
    for line in metadata.requires(package) or []:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in {"", *extras}):
            yield requirement


def closure(packages: Mapping[str, frozenset[str]], ask: Callable = requirements_of) -> set[str]:
    """Return the canonical names of these packages (with their extras) and of all they bring."""
    pending, seen = list(packages.items()), set()
    while pending:
        name, extras = pending.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        pending += [(canonicalize_name(r.name), frozenset(r.extras)) for r in ask(name, extras)]
    return {name for name, _ in seen}


def pinned(env: str, text: str) -> str:
    """Return the text of an environment file with every version from its lock.

    Raises KeyError for a package that the lock does not have.
    """
    lock_path, by_hand = lock_of(env), direct(text)
    lock = read_lock(lock_path)
    named = {canonicalize_name(m["name"]): frozenset(re.findall(r"\w+", m["extras"] or "")) for m in by_hand}
    brought = named.keys() & lock.keys()
    if lock_path != SHARED_LOCK:
        brought = lock.keys() - TEST_TOOLS
    elif named.keys() <= lock.keys():
        brought = closure(named)
    if missing := (named.keys() | brought) - lock.keys():
        raise KeyError(
            f"envs/{env}.yaml needs {', '.join(sorted(missing))}, which {lock_path.name} does not pin; add it there"
        )
    versions = [lock[canonicalize_name(m["name"])].split("==")[1] for m in by_hand]
    pins = [
        f"      - {m['name']}{m['extras'] or ''}=={version}{m['comment'] or ''}"
        for m, version in zip(by_hand, versions, strict=True)
    ]
    head = text[: text.index(by_hand[0].string)]
    return head + "\n".join([*pins, MARK, *(f"      - {lock[name]}" for name in sorted(brought - named.keys()))]) + "\n"


def main() -> None:
    changed = []
    for path in sorted((ROOT / "envs").glob("*.yaml")):
        text = path.read_text()
        if (wanted := pinned(path.stem, text)) != text:
            path.write_text(wanted)
            changed.append(path.name)
    print(f"changed: {', '.join(changed) or 'nothing'}")


if __name__ == "__main__":
    main()
