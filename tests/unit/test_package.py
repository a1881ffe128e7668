"""Metadata of the package: ranges hold the pins of the lock, imports are declared, the changelog has the version."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pin import SHARED_LOCK, read_lock

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# In environments of their own (envs/), with locks or pins of their own.
ELSEWHERE = {"fairchem", "torch_sim", "vllm"}


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for texts in (PROJECT["dependencies"], *extras) for text in texts]


def test_ranges_hold_the_locked_versions():
    lock = read_lock(SHARED_LOCK)
    for requirement in declared():
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)].split("==")[1]), requirement


def imported_packages() -> set[str]:
    names = set()
    for path in (ROOT / "workflow_scripts" / "hullseeker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"hullseeker"}


def test_every_import_of_the_library_is_declared():
    owners = metadata.packages_distributions()
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    for package in sorted(imported_packages() - ELSEWHERE):
        distributions = {canonicalize_name(name) for name in owners[package]}
        # pymatgen's modules lie in pymatgen-core, a package of the same release.
        assert names & (distributions | {name.removesuffix("-core") for name in distributions}), package


def test_the_version_is_the_last_of_the_changelog():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", PROJECT["version"]]


def test_every_page_of_the_documentation_is_in_its_index():
    index = (ROOT / "docs" / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)]+)\)", index))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked
    assert all((ROOT / "docs" / link).exists() for link in linked)
