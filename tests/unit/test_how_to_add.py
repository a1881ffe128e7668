"""The recipes of CONTRIBUTING.md, followed in a copy of the workflow: each works, with at most three files."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_table1 import ROWS, write_system

ROOT = Path(__file__).parents[2]
LIBRARY = "workflow_scripts/hullseeker"


class Checkout:
    """A copy of the workflow, and the files in which it was edited."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.edited = folder, set()
        copied = ("workflow_scripts", "rules", "schemas", "Snakefile", "config.yaml")
        for name in copied:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        for path in ROOT.iterdir():
            if path.name not in (*copied, ".git", "results", "logs", "benchmarks", ".snakemake"):
                (folder / path.name).symlink_to(path)

    def edit(self, path: str, *changes: tuple[str, str]) -> None:
        """Replace texts of a file, each of which stands there once."""
        self.edited.add(path)
        text = (self.folder / path).read_text()
        for before, after in changes:
            assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times in {path}"
            text = text.replace(before, after)
        (self.folder / path).write_text(text)

    def write(self, path: str, text: str) -> None:
        self.edited.add(path)
        (self.folder / path).write_text(text)

    def run(self, *words: str) -> str:
        """Run a command in the copy and return what it prints."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "workflow_scripts")}
        done = subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def run_script(self, name: str, **parts: dict) -> None:
        """Run a script as Snakemake does, with what the rule would give it."""
        program = (
            "import importlib, json, sys\nfrom types import SimpleNamespace\n"
            "from snakemake.iocontainers import InputFiles, OutputFiles\nname, parts = json.loads(sys.argv[1])\n"
            "given = {key: SimpleNamespace(**part) for key, part in parts.items()}\n"
            "given['input'] = InputFiles(fromdict=parts['input'])\n"
            "given['output'] = OutputFiles(fromdict=parts['output'])\n"
            "importlib.import_module(name).main(SimpleNamespace(log=[None], threads=1, **given))\n"
        )
        self.run(sys.executable, "-c", program, json.dumps([name, parts], default=str))

    def check_config(self, **overlay: dict) -> None:
        """Check the config with an overlay of the sections named; a wrong one raises."""
        program = (
            "import json, sys, yaml\nfrom hullseeker.workflow.configuration import check_config\n"
            "config = yaml.safe_load(open('config.yaml'))\n"
            "for name, section in json.loads(sys.argv[1]).items():\n"
            "    config[name] = {**config[name], **section}\n"
            "check_config(config, 'schemas/config.schema.yaml')\n"
        )
        self.run(sys.executable, "-c", program, json.dumps(overlay))


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "checkout").mkdir()
    return Checkout(tmp_path / "checkout")


def check_recipe(title: str, edited: set[str]) -> None:
    """Raise where a recipe names more than three files, or an edited file is none of them."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    recipe = text[text.index(f"## How to add {title}\n") :].split("\n## ")[0]
    files = re.findall(r"^\d+\. `([^`]+)`", recipe, re.M)
    assert 0 < len(files) <= 3
    patterns = [re.sub(r"<\w+>", r"\\w+", name.replace(".", r"\.")) for name in files]
    foreign = {path for path in edited if not any(re.fullmatch(pattern, path) for pattern in patterns)}
    assert edited and not foreign


def test_a_table_1_metric(checkout, tmp_path):
    checkout.edit(
        f"{LIBRARY}/metrics/stability.py",
        ('\n    "evaluations_per_stable",\n)', '\n    "evaluations_per_stable",\n    "relaxed_rate_pct",\n)'),
        (
            '        "unreliable_hull_pct": (100.0 * is_unreliable(hull), drawn),\n',
            '        "unreliable_hull_pct": (100.0 * is_unreliable(hull), drawn),\n'
            '        "relaxed_rate_pct": (100.0 * relaxed, drawn),\n',
        ),
    )
    checkout.edit(
        f"{LIBRARY}/metrics/quantities.py",
        (
            "QUANTITIES = {\n",
            'QUANTITIES = {\n    "relaxed_rate_pct": Quantity("Relaxed, of all", "%", 2, "larger"),\n',
        ),
        ('    "table1": (\n', '    "table1": (\n        "relaxed_rate_pct",\n'),
    )
    check_recipe("a Table 1 metric", checkout.edited)
    tables = write_system(tmp_path, ROWS)
    table = {kind: tmp_path / f"table1.{kind}" for kind in ("csv", "parquet")}
    settings = {"stable_below_ev_per_atom": 0.1, "strict_below_ev_per_atom": 0.02, "n_bootstrap": 200}
    checkout.run_script(
        "make_table1",
        input={name: str(tables[name]) for name in ("samples", "relaxed", "hull", "matches")},
        output=table,
        params={"settings": settings, "systems": [{"system": "sft", "label": "SFT"}], "seed": 1},
    )
    (row,) = pd.read_csv(table["csv"]).to_dict("records")
    assert row["relaxed_rate_pct_ci_low"] < row["relaxed_rate_pct"] < row["relaxed_rate_pct_ci_high"]
    checkout.run_script(
        "render_tables",
        input={"table1": str(table["csv"]), "paper_tables": str(ROOT / "resources/paper_tables.csv")},
        output={kind: str(tmp_path / f"table1.{kind}") for kind in ("md", "tex", "html")},
        params={"table": "table1", "footnotes": {}},
    )
    assert f"Relaxed, of all (%)<br>`relaxed_rate_pct` | {row['relaxed_rate_pct']:.2f} [" in (
        tmp_path / "table1.md"
    ).read_text(encoding="utf-8")


POTENTIAL = '''"""Argon-like atoms, whatever their element."""

import numpy as np
from ase.calculators.lj import LennardJones
from ase.stress import voigt_6_to_full_3x3_stress

from hullseeker.potentials.energy_scales import scale_of
from hullseeker.potentials.interface import Evaluation


class Argon:
    def __init__(self, model="lj", device="cpu"):
        self.name, self.cutoff_ang = f"argon:{model}", 9.0
        self.energy_scale, self.covered_atomic_numbers = scale_of(self.name), frozenset(range(1, 95))

    def energies(self, cells):
        return np.array([one.energy_ev / len(cell) for one, cell in zip(self.evaluate(cells), cells, strict=True)])

    def evaluate(self, cells):
        return [self._evaluate(cell.copy()) for cell in cells]

    def _evaluate(self, cell):
        cell.calc = LennardJones(sigma=3.2, epsilon=0.05, rc=9.0, smooth=True)
        stress = voigt_6_to_full_3x3_stress(cell.get_stress())
        return Evaluation(float(cell.get_potential_energy()), cell.get_forces(), stress)
'''
ENTRY = """EVALUATORS: dict[str, Evaluator] = {
    "argon": Evaluator(
        loader="hullseeker.potentials.argon:Argon",
        default_model="lj",
        models=("lj",),
        package="ase",
        energy_scale="argon",
        env="potentials.yaml",
    ),
"""


def test_a_potential(checkout, tmp_path):
    checkout.write(f"{LIBRARY}/potentials/argon.py", POTENTIAL)
    checkout.edit(f"{LIBRARY}/potentials/registry.py", ("EVALUATORS: dict[str, Evaluator] = {\n", ENTRY))
    check_recipe("a potential", checkout.edited)
    relax = yaml.safe_load((ROOT / "config.yaml").read_text())["relax"] | {
        "potential": "argon",
        "model": None,
        "device": "cpu",
        "precision": "float32",
        "engine": "per_cell",
        "optimizer": "spring_bfgs",
        "cross_check": [],
        "rattle_ang": 0.02,
    }
    checkout.check_config(relax=relax)
    settings = {name: value for name, value in relax.items() if name != "cross_check"}
    structures = write_system(tmp_path, ROWS[:2])["samples"]
    checkout.run_script(
        "relax_structures",
        input={"structures": str(structures)},
        output={"relaxed": str(tmp_path / "relaxed.parquet")},
        wildcards={"system": "sft", "shard": "0"},
        params={"settings": settings, "schema": "samples", "n_shards": 1, "seed": 1},
    )
    relaxed = pd.read_parquet(tmp_path / "relaxed.parquet")
    assert relaxed["status"].tolist() == ["ok", "ok"] and set(relaxed["potential"]) == {"argon:lj"}
    assert (relaxed["energy_ev_per_atom"] < relaxed["initial_energy_ev_per_atom"]).all()


def test_a_reward_term(checkout):
    checkout.edit(
        f"{LIBRARY}/rewards/terms.py",
        (
            "TERMS: dict[str, Callable[..., TermValues]] = {\n",
            "def few_atoms(batch: Batch, *, n_atoms: int) -> TermValues:\n"
            "    sizes = [len(c['atomic_numbers']) if c else math.inf for c in batch.crystals]\n"
            "    return _plain(np.array(sizes) <= n_atoms)\n\n\n"
            'TERMS: dict[str, Callable[..., TermValues]] = {\n    "few_atoms": few_atoms,\n',
        ),
    )
    checkout.edit(
        f"{LIBRARY}/rewards/presets.py",
        ("OPTIONS: dict[str, dict] = {\n", 'OPTIONS: dict[str, dict] = {\n    "few_atoms": {"n_atoms": 4},\n'),
    )
    check_recipe("a reward term", checkout.edited)
    grpo = yaml.safe_load((ROOT / "config.yaml").read_text())["grpo"]
    grpo["rewards"]["mine"] = {"few_atoms": {"weight": 2.0, "n_atoms": 2}, "formula_match": {}}
    checkout.check_config(grpo=grpo)
    grpo["rewards"]["mine"]["few_atoms"]["n_atoms"] = "two"
    with pytest.raises(AssertionError, match=r"grpo\.rewards\.mine\.few_atoms\.n_atoms is 'two'"):
        checkout.check_config(grpo=grpo)
    crystal_text = yaml.safe_load((ROOT / "config.yaml").read_text())["crystal_text"]
    program = (
        f"from hullseeker.language_model.crystal_text import TextFormat\ntext_format = TextFormat(**{crystal_text!r})\n"
        "from hullseeker.rewards.presets import reward_terms\n"
        "from hullseeker.rewards.terms import Reward, RewardContext\n"
        "terms = reward_terms({'few_atoms': {'weight': 2.0, 'n_atoms': 2}, 'formula_match': {}})\n"
        "text = '4.0 4.0 4.0\\n60 60 60\\nNa\\n0.00 0.00 0.00\\nCl\\n0.50 0.50 0.50'\n"
        "context = RewardContext(text_format, {}, max_failure_share=0.2)\n"
        "print(Reward(terms, context).score([text, 'none'], ['NaCl', 'NaCl']).rewards.tolist())"
    )
    assert checkout.run(sys.executable, "-c", program).strip() == "[3.0, 0.0]"


SCRIPT = '''"""Rocksalt of every draw."""

from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import write_table


def main(snakemake) -> None:
    cell = {"lattice_ang": [4.0, 0, 0, 0, 4.0, 0, 0, 0, 4.0], "atomic_numbers": [11, 17], "frac_coords": [0.0] * 3 + [0.5] * 3}
    about = {"system": snakemake.wildcards.system, "formula": "NaCl", "status": "ok"}
    rows = [{"structure_id": f"{about['system']}-{i:06d}", **about, **cell} for i in range(snakemake.params.n_samples)]
    write_table(snakemake.output.samples, rows, "samples", describe_run({}))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
'''  # noqa: E501
RULE = """

rule draw_rocksalt:
    output:
        samples=f"{RESULTS}/samples/{{system}}.parquet",
    wildcard_constraints:
        system=of_kinds("rocksalt"),
    params:
        n_samples=lookup("sampling/n_samples", within=config),
        code=code("draw_rocksalt.py"),
    script:
        "../workflow_scripts/draw_rocksalt.py"
"""


def test_a_kind_of_system(checkout):
    checkout.write("workflow_scripts/draw_rocksalt.py", SCRIPT)
    checkout.edit(
        f"{LIBRARY}/workflow/config_names.py", ("KEYS_OF_KIND = {\n", 'KEYS_OF_KIND = {\n    "rocksalt": ((), ()),\n')
    )
    checkout.write("rules/sample.smk", (ROOT / "rules/sample.smk").read_text() + RULE)
    check_recipe("a kind of system", checkout.edited)
    overlay = yaml.safe_load((ROOT / "experiments/test.yaml").read_text())
    overlay |= {"systems": {"mine": {"kind": "rocksalt", "label": "Mine"}}, "comparison": {"baseline": None}}
    (checkout.folder / "mine.yaml").write_text(yaml.safe_dump(overlay))
    snakemake = [str(Path(sys.executable).with_name("snakemake")), "--cores", "1", "--configfile", "mine.yaml"]
    table = "results/test/samples/mine.parquet"
    checkout.run(*snakemake, "--", table)
    samples = pd.read_parquet(checkout.folder / table)
    assert len(samples) == overlay["sampling"]["n_samples"] and set(samples["formula"]) == {"NaCl"}
    assert "make_table1" in checkout.run(*snakemake, "--dry-run", "--", "results/test/tables/table1.csv")
