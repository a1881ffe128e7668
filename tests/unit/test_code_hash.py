"""A rule runs again when code that it reaches has changed, and only then."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hullseeker.workflow.code_hash import hash_of_code, reached_code

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow_scripts"
# Those that read or write a table whose name the rule gives.
BY_RULE = {"featurize_structures.py", "merge_shards.py", "relax_structures.py"}


@pytest.fixture
def copy(tmp_path) -> Path:
    """The scripts and the library, to be changed."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "scripts"


def hashes(folder: Path) -> dict[str, str]:
    return {path.stem: hash_of_code(path) for path in sorted(folder.glob("*.py"))}


def changed(folder: Path, before: dict[str, str]) -> set[str]:
    return {name for name, value in hashes(folder).items() if value != before[name]}


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


def with_other_docstrings(text: str) -> str:
    """Return a module with a word more in each docstring, a comment in each function, and all of it moved down."""
    lines = text.splitlines(keepends=True)
    found = []
    for node in ast.walk(ast.parse(text)):
        first = node.body[0] if isinstance(getattr(node, "body", None), list) and node.body else None
        is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        if is_docstring and isinstance(first.value.value, str):
            found.append(first)
    for docstring in sorted(found, key=lambda one: -one.lineno):
        place = docstring.lineno - 1
        start = lines[place].index('"""') + 3
        lines[place] = lines[place][:start] + "Reworded. " + lines[place][start:]
        lines.insert(docstring.end_lineno, " " * docstring.col_offset + "# A comment.\n")
    return "".join(lines) + "\n\n# The end.\n"


def test_other_docstrings_and_comments_have_nothing_run_again(copy):
    before, n_changed = hashes(copy), 0
    for path in copy.rglob("*.py"):
        text = path.read_text()
        path.write_text(with_other_docstrings(text))
        n_changed += path.read_text().count("Reworded. ")
    assert n_changed > 400
    assert changed(copy, before) == set()


def test_a_function_has_run_again_what_reaches_it_and_no_more(copy):
    before = hashes(copy)
    rewrite(copy / "hullseeker" / "metrics" / "hull.py", "def why_unreliable(", "_ADDED = 1\n\n\ndef why_unreliable(")
    assert changed(copy, before) == set()
    rewrite(copy / "hullseeker" / "language_model" / "training.py", "def curve_rows(", "@cache\ndef curve_rows(")
    assert changed(copy, before) == {"train_sft", "train_grpo"}
    before = hashes(copy)
    devices = copy / "hullseeker" / "runtime" / "devices.py"
    rewrite(devices, 'device.startswith("cuda") and not', 'device.startswith("gpu") and not')
    # What loads a model or a potential asks it for the device; nothing that only reads tables does.
    on_devices = changed(copy, before)
    assert on_devices >= {"train_sft", "train_grpo", "sample_structures", "relax_structures", "audit_rewards"}
    assert not on_devices & {"make_table1", "make_table2", "compute_hull", "split_materials", "check_prompts"}
    before = hashes(copy)
    rewrite(copy / "hullseeker" / "potentials" / "interface.py", 'precision or "float32"', 'precision or "float64"')
    of_models = {"train_sft", "sample_structures", "prepare_base_model", "train_base_model"}
    assert changed(copy, before) == on_devices - of_models


def test_the_code_of_a_potential_has_run_again_what_names_it(copy):
    before = hashes(copy)
    rewrite(copy / "hullseeker" / "potentials" / "chgnet.py", '"0.3.0"', '"0.2.0"')
    # The others are given the potential of the config with their params.
    assert changed(copy, before) >= {"train_grpo", "audit_rewards", "evaluate_references"}
    assert not changed(copy, before) & {"compute_hull", "build_reference", "make_table1", "sample_structures"}
    # What a module of the library imports counts as well.
    potential = hash_of_code(copy / "hullseeker" / "potentials" / "chgnet.py")
    elements = copy / "hullseeker" / "potentials" / "trained_elements.py"
    rewrite(elements, "def chgnet_elements(", "@cache\ndef chgnet_elements(")
    assert hash_of_code(copy / "hullseeker" / "potentials" / "chgnet.py") != potential
    named = hash_of_code(copy / "relax_structures.py", "sevennet", "per_cell")
    before = hashes(copy)
    rewrite(copy / "hullseeker" / "potentials" / "sevennet.py", '"7net-0"', '"7net-1"')
    assert changed(copy, before) == set()
    assert hash_of_code(copy / "relax_structures.py", "sevennet", "per_cell") != named


def test_a_column_has_run_again_what_reads_or_writes_its_table(copy):
    before = hashes(copy)
    rewrite(
        copy / "hullseeker" / "tables" / "schemas.py",
        '_required("value", pa.float64())',
        '_required("value", pa.float32())',
    )
    assert changed(copy, before) == {"train_cdvae", "train_grpo", "train_sft", "plot_training_curves"}
    before = hashes(copy)
    hull = '    "hull": pa.schema(\n        [\n'
    rewrite(copy / "hullseeker" / "tables" / "schemas.py", hull, f'{hull}            pa.field("new", pa.float64()),\n')
    found = changed(copy, before)
    assert found >= {"compute_hull", "make_table1", "make_sun", "make_ledger", "plot_hull_distribution"}
    assert not found & {"train_sft", "train_grpo", "train_cdvae", "sample_structures", "split_materials", "make_table2"}


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_tables_are_named_where_they_are_read_and_written(script):
    """A table whose name comes from elsewhere would be missing in the hash."""
    unnamed = [
        ast.unparse(call)
        for call in ast.walk(ast.parse((SCRIPTS / script).read_text()))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("read_table", "write_table", "merge_tables")
        and not any(isinstance(word, ast.Constant) for word in call.args)
        and not {name for name in ast.walk(call) if isinstance(name, ast.Name) and name.id == "name"}
    ]
    assert bool(unnamed) == (script in BY_RULE), unnamed


def test_rules_say_which_table_they_name():
    rules = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    blocks = [
        block for block in re.split(r"\n(?=\s*(?:use )?rule )", rules) if re.search(r"^\s+schema=", block, re.MULTILINE)
    ]
    assert len(blocks) == 8
    for block in blocks:
        (schema,) = re.findall(r'^\s+schema="(\w+)"', block, re.MULTILINE)
        assert re.search(rf'code\("\w+\.py", "{schema}"\)', block), block


def test_code_is_followed_by_name(tmp_path):
    library = tmp_path / "lib"
    library.mkdir()
    (library / "__init__.py").write_text("")
    (library / "deep.py").write_text(
        "import os\nfrom lib import far\nSCHEMAS = {'a': [1], 'b': [2]}\n"
        "def used(): return far.constant, SCHEMAS\ndef unused(): return 0\n"
    )
    (library / "far.py").write_text("constant = 1\nother = 2\n")
    script = tmp_path / "script.py"
    script.write_text("from lib.deep import used as it\nprint(it(), 'a')\n")
    before = hash_of_code(script)

    def after(name: str, old: str, new: str) -> bool:
        path = library / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        differs = hash_of_code(script) != before
        path.write_text(text)
        return differs

    assert not after("deep.py", "return 0", "return 1")
    assert not after("far.py", "other = 2", "other = 3")
    assert not after("deep.py", "[2]", "[3]")
    assert not after("deep.py", "import os\n", "import sys\n")
    assert after("deep.py", "[1]", "[3]")
    assert after("far.py", "constant = 1", "constant = 2")
    assert after("deep.py", "import os\n", "import os\nos.environ['A'] = '1'\n")
    assert after("far.py", "constant = 1", "import os\nos.umask(1)\nconstant = 1")
    assert hash_of_code(script) != hash_of_code(script, "b")


def test_local_names_are_not_those_of_the_module(tmp_path):
    (tmp_path / "near.py").write_text(
        "def rows(): return 1\ndef keys(): return 2\ndef items(): return 3\n"
        "def made(rows):\n    found = [keys for keys in rows]\n    return lambda items: (items, found)\n"
    )
    (tmp_path / "script.py").write_text("import near\nnear.made([])\n")
    assert {name for name in reached_code(tmp_path / "script.py") if name.startswith("near:")} == {"near:made"}


# Runs a script under a profile, imports included, and writes down which functions of the library were called.
TRACE = """
import importlib, json, sys
from pathlib import Path
script, target, tests = sys.argv[1:4]
sys.path.insert(0, tests)
seen = set()
def profile(frame, event, argument):
    path = frame.f_code.co_filename
    # The body of a class is no function: its code is not optimised (inspect.CO_OPTIMIZED).
    is_function = frame.f_code.co_flags & 1 and not frame.f_code.co_name.startswith("<")
    if event == "call" and is_function and "/workflow_scripts/" in path:
        module = path.rsplit("/workflow_scripts/", 1)[1].removesuffix(".py").replace("/", ".")
        seen.add(module + ":" + frame.f_code.co_qualname.split(".")[0])
sys.setprofile(profile)
module = importlib.import_module(script)
sys.setprofile(None)
from processes_examples import job
from types import SimpleNamespace
folder = Path(target).parent
one = job(folder / "job", script.removeprefix("train_") if script.startswith("train_") else "sft")
if script == "check_prompts":
    one.output["csv"] = str(folder / "prompts.csv")
    one = SimpleNamespace(input=one.input, output=one.output, log=one.log,
        params=SimpleNamespace(formula="reduced", prompts_per_step={"grpo": 2}))
sys.setprofile(profile)
module.main(one)
sys.setprofile(None)
Path(target).write_text(json.dumps(sorted(seen)))
"""


@pytest.mark.parametrize(("script", "at_least"), [("check_prompts", 20), ("train_sft", 80), ("train_grpo", 100)])
def test_what_a_script_calls_is_in_its_hash(tmp_path, script, at_least):
    """A function that was called and is not followed could change without the rule running again."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", TRACE, script, str(tmp_path / "called.json"), str(ROOT / "tests")]
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=ROOT)
    called = json.loads((tmp_path / "called.json").read_text())
    assert len(called) >= at_least
    # The job stands for Snakemake's own object.
    called = set(called) - {"hullseeker.language_model.launching:Section", "hullseeker.language_model.launching:Job"}
    assert called - set(reached_code(SCRIPTS / f"{script}.py")) == set()
