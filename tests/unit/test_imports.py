"""Who imports whom: no script another script, no sub-package of the library one above it; for types too."""

import ast
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow_scripts"
# From the lowest up: each may import those before it.
SUB_PACKAGES = (
    *("runtime", "tables", "data", "potentials", "relaxation", "metrics"),
    *("language_model", "rewards", "cdvae", "report", "workflow"),
)


def imported(path: Path) -> set[str]:
    """Return the modules that a file names in imports, in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        # Loaders are named in texts: module:name.
        elif isinstance(node, ast.Constant) and str(node.value).startswith("hullseeker.") and ":" in node.value:
            found.add(node.value.partition(":")[0])
    return found


def test_no_script_imports_another():
    scripts = {path.stem: path for path in SCRIPTS.glob("*.py")}
    within = list(SCRIPTS.rglob("*.py"))
    found = {path.name: names for path in within if (names := imported(path) & scripts.keys())}
    assert len(scripts) > 40
    assert found == {}


def test_sub_packages_import_downwards_only():
    library = SCRIPTS / "hullseeker"
    assert {path.name for path in library.iterdir() if (path / "__init__.py").is_file()} == {*SUB_PACKAGES}
    upwards = []
    for place, name in enumerate(SUB_PACKAGES):
        allowed = {*SUB_PACKAGES[: place + 1]}
        for path in (library / name).rglob("*.py"):
            targets = {one.split(".")[1] for one in imported(path) if one.startswith("hullseeker.")}
            upwards += [f"{path.relative_to(library)} imports {target}" for target in sorted(targets - allowed)]
    assert upwards == []


def test_every_script_has_a_guarded_main():
    for path in SCRIPTS.glob("*.py"):
        tree = ast.parse(path.read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body), path
        assert path.read_text().count('if __name__ == "__main__":') == 1, path
