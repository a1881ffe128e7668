"""Import scripts, and all that they import anywhere, by the Python that runs this: python -I import_scripts.py JSON.

Needs: nothing but Python. The argument is {"scripts": paths in workflow_scripts, "excused": modules that may be
missing, "hidden": packages that are taken for missing, "energies": potentials to load and ask}. Prints a line per
failure and ends with status 1 where there is one.
"""

import ast
import importlib
import json
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS.parent / "workflow_scripts"))
sys.path.append(str(TESTS))

from rule_environments import imports, sources  # noqa: E402


def attempt(what: str, action) -> list[str]:
    """Return what an import failed with, as one line, or nothing."""
    try:
        with redirect_stdout(sys.stderr):  # where packages say what they like
            action()
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        return [f"{what}: {type(error).__name__}: {error}"]
    return []


def is_excused(name: str, excused: set[str]) -> bool:
    """Whether a module, or a package that it is in, may be missing."""
    return any(name == one or name.startswith(f"{one}.") for one in excused)


def failures_of_script(script: str, excused: set[str]) -> list[str]:
    """Return what fails of a script's own import, and of each import statement in it and in what it imports."""
    failures = attempt(script, lambda: importlib.import_module(script.removesuffix(".py").replace("/", ".")))
    for path, tree in sources(script).items():
        names = defaultdict(list)
        for node, name in imports(tree):
            names[node].append(name)
        for node in (node for node, found in names.items() if not is_excused(found[0], excused)):
            alone = compile(ast.Module([node], []), str(path), "exec")
            failures += attempt(f"{path.name} line {node.lineno}", lambda alone=alone: exec(alone, {}))
    return failures


def check_energy(potential: str) -> None:
    """Ask a potential for the energy of rock salt, with the weights of its package."""
    import ase.build

    from hullseeker.potentials.interface import load_potential

    (energy,) = load_potential(potential).energies([ase.build.bulk("NaCl", "rocksalt", a=5.64)])
    if not -4.0 < energy < -3.0:
        raise RuntimeError(f"{energy} eV/atom for rock salt")


def main() -> None:
    asked = json.loads(sys.argv[1])
    for name in asked.get("hidden", []):
        sys.modules[name] = None
    failures = []
    for script in asked["scripts"]:
        failures += failures_of_script(script, set(asked.get("excused", [])))
    for potential in asked.get("energies", []):
        failures += attempt(potential, lambda potential=potential: check_energy(potential))
    print("\n".join(dict.fromkeys(failures)))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
