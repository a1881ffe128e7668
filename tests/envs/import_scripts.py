"""Import scripts and everything that they import in any function: python -I import_scripts.py JSON.

Needs: only Python. The argument is {"scripts": paths in workflow_scripts, "excused": modules that may be missing,
"hidden": packages that are treated as missing, "energies": potentials to load and evaluate}. Prints one line per
failure, and exits with status 1 if there is any.
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


def attempt(description: str, action) -> list[str]:
    """Run an action and return its error as one line, or nothing."""
    try:
        with redirect_stdout(sys.stderr):  # packages may print messages
            action()
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        return [f"{description}: {type(error).__name__}: {error}"]
    return []


def is_excused(name: str, excused: set[str]) -> bool:
    """Whether a module, or a package that contains it, may be missing."""
    return any(name == module or name.startswith(f"{module}.") for module in excused)


def failures_of_script(script: str, excused: set[str]) -> list[str]:
    """Return the failures of importing a script, and of each import statement in it and in the modules it imports."""
    failures = attempt(script, lambda: importlib.import_module(script.removesuffix(".py").replace("/", ".")))
    for path, tree in sources(script).items():
        names = defaultdict(list)
        for node, name in imports(tree):
            names[node].append(name)
        for node in (node for node, modules in names.items() if not is_excused(modules[0], excused)):
            statement = compile(ast.Module([node], []), str(path), "exec")
            failures += attempt(f"{path.name} line {node.lineno}", lambda statement=statement: exec(statement, {}))
    return failures


def check_energy(potential: str) -> None:
    """Check the energy of rock salt under a potential with the weights of its package."""
    import ase.build

    from hullseeker.potentials.interface import load_potential

    (energy,) = load_potential(potential).energies([ase.build.bulk("NaCl", "rocksalt", a=5.64)])
    if not -4.0 < energy < -3.0:
        raise RuntimeError(f"rock salt has {energy} eV/atom; expected between -4 and -3")


def main() -> None:
    request = json.loads(sys.argv[1])
    for name in request.get("hidden", []):
        sys.modules[name] = None
    failures = []
    for script in request["scripts"]:
        failures += failures_of_script(script, set(request.get("excused", [])))
    for potential in request.get("energies", []):
        failures += attempt(potential, lambda potential=potential: check_energy(potential))
    print("\n".join(dict.fromkeys(failures)))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
