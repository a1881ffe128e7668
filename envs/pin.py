"""Pin every package of the environment files from the lock files: python envs/pin.py (make envs).

Packages that scripts import are listed by hand, above MARK. Below MARK this program lists their dependencies, so that a
conda environment has the versions that were tested. Versions are those of requirements.lock, or of an environment's own
lock (requirements-uma.lock for uma.yaml), of which all packages but the test tools are listed.
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
    """Return the pins (name==version) of a lock file by canonical name."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(line.split("==")[0]): line for line in lines}


def lock_of(env: str) -> Path:
    """Return the lock file of an environment, given its name (uma): its own if there is one, else the shared one."""
    own = ROOT / f"requirements-{env.replace('_', '-')}.lock"
    return own if own.is_file() else SHARED_LOCK


def direct_requirements(text: str) -> list[re.Match]:
    """Return the packages listed above MARK in an environment file, as matches of PIN."""
    return list(filter(None, map(PIN.match, text.split(MARK)[0].splitlines())))


def requirements_of(package: str, extras: frozenset[str]) -> Iterable[Requirement]:
    """Yield the requirements of an installed package for this platform; metadata.PackageNotFoundError if missing."""
    for line in metadata.requires(package) or []:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement


def closure(packages: Mapping[str, frozenset[str]], get_requirements: Callable = requirements_of) -> set[str]:
    """Return the canonical names of packages (given with their extras) and of all their dependencies."""
    pending, seen = list(packages.items()), set()
    while pending:
        name, extras = pending.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        pending += [(canonicalize_name(r.name), frozenset(r.extras)) for r in get_requirements(name, extras)]
    return {name for name, _ in seen}


def pinned(env: str, text: str) -> str:
    """Return the text of an environment file with all versions from its lock file.

    Raises KeyError for a package that the lock file does not have.
    """
    lock_path, listed = lock_of(env), direct_requirements(text)
    lock = read_lock(lock_path)
    extras_of = {canonicalize_name(m["name"]): frozenset(re.findall(r"\w+", m["extras"] or "")) for m in listed}
    installed = extras_of.keys() & lock.keys()
    if lock_path != SHARED_LOCK:
        installed = lock.keys() - TEST_TOOLS
    elif extras_of.keys() <= lock.keys():
        installed = closure(extras_of)
    if missing := (extras_of.keys() | installed) - lock.keys():
        raise KeyError(
            f"envs/{env}.yaml needs {', '.join(sorted(missing))}, which {lock_path.name} does not pin; add it there"
        )
    versions = [lock[canonicalize_name(m["name"])].split("==")[1] for m in listed]
    pins = [
        f"      - {m['name']}{m['extras'] or ''}=={version}{m['comment'] or ''}"
        for m, version in zip(listed, versions, strict=True)
    ]
    head = text[: text.index(listed[0].string)]
    dependencies = [f"      - {lock[name]}" for name in sorted(installed - extras_of.keys())]
    return head + "\n".join([*pins, MARK, *dependencies]) + "\n"


def main() -> None:
    changed = []
    for path in sorted((ROOT / "envs").glob("*.yaml")):
        text = path.read_text()
        if (updated := pinned(path.stem, text)) != text:
            path.write_text(updated)
            changed.append(path.name)
    print(f"updated files: {', '.join(changed) or 'none'}")


if __name__ == "__main__":
    main()
