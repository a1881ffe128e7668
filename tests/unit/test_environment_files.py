"""The files in envs/: pinned as the locks are, and each with what its rules' scripts import, no more and no less."""

from collections import defaultdict
from functools import cache
from importlib import metadata

import pytest
import yaml
from packaging.utils import canonicalize_name

from pin import direct_requirements, pinned
from rule_environments import OF_OTHER_EVALUATORS, ROOT, SCRIPTS, all_pairs, foreign_packages

ENVS = sorted(ROOT.glob("envs/*.yaml"))
# Scripts that no rule runs: make does.
NOT_OF_A_RULE = {"print_results.py"}
# Packages whose import name no installed distribution tells here: these have environments of their own.
DISTRIBUTIONS = {"fairchem": "fairchem-core", "torch_sim": "torch-sim-atomistic"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return all_pairs(tmp_path_factory.mktemp("overlays"))


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_files_agree_with_the_locks(path):
    text = path.read_text()
    assert pinned(path.stem, text) == text, "envs/ and the locks have drifted apart; repair: make envs"
    assert pinned(path.stem, text.replace("numpy==2", "numpy==1")) == text


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_everything_is_pinned_exactly(path):
    env = yaml.safe_load(path.read_text())
    *of_conda, of_pip = env["dependencies"]
    assert env["channels"] == ["conda-forge"]
    assert [word.split("=")[0] for word in of_conda] == ["python", "pip"]
    assert all(word.count("=") == 1 and word.split("=")[1].count(".") >= 1 for word in of_conda)
    assert of_conda[0].count(".") == 2, "give python's patch version too"
    for requirement in of_pip["pip"]:
        name, equals, version = requirement.partition("==")
        assert equals and version and "/" not in name and "+" not in version, requirement


def test_a_package_that_no_lock_has_is_refused():
    text = ENVS[0].read_text().replace("      - numpy==", "      - emt==1.0\n      - numpy==")
    with pytest.raises(KeyError, match="needs emt, which requirements.lock does not pin; add it there"):
        pinned(ENVS[0].stem, text)


def test_every_script_has_a_rule_with_an_environment(pairs):
    scripts = {path.name for path in SCRIPTS.glob("*.py")} - NOT_OF_A_RULE
    assert {pair.script for pair in pairs} == scripts
    assert {pair.env for pair in pairs} == {path.name for path in ENVS}


@cache
def installed() -> dict[str, list[str]]:
    return {name: [*map(canonicalize_name, found)] for name, found in metadata.packages_distributions().items()}


def distribution_of(name: str, listed: set[str]) -> str:
    """Return what to install for an import: of several distributions the one that is listed."""
    found = [DISTRIBUTIONS[name]] if name in DISTRIBUTIONS else installed().get(name, [name])
    return next((distribution for distribution in found if distribution in listed), found[0])


def test_each_environment_is_what_its_scripts_import(pairs):
    needed = defaultdict(set)
    for pair in pairs:
        imported = foreign_packages(pair.script, *pair.loaded_by_name)
        needed[pair.env] |= imported - OF_OTHER_EVALUATORS.get(pair.env, set())
    for path in ENVS:
        lines = direct_requirements(path.read_text())
        listed = {canonicalize_name(line["name"]) for line in lines}
        asked_for_by_others = {canonicalize_name(line["name"]) for line in lines if line["comment"]}
        imported = {distribution_of(name, listed) for name in needed[path.name]}
        assert imported - listed == set(), f"{path.name} lacks what its scripts import"
        assert listed - imported - asked_for_by_others == set(), f"{path.name} has what none of its scripts imports"


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_no_path_of_a_host(path):
    for requirement in yaml.safe_load(path.read_text())["dependencies"][-1]["pip"]:
        assert not any(word in requirement for word in ("/", "file:", "-r ", "--"))
