"""Scripts that only compute with tables start without the packages that take seconds to import."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow_scripts"
HEAVY = ("torch", "matminer", "transformers", "sevenn", "chgnet", "trl")
# What runs or trains a potential or a model, or computes fingerprints.
HEAVY_SCRIPTS = {
    *("audit_rewards", "build_reward_reference", "evaluate_references", "featurize_structures", "fetch_evaluator"),
    "find_elemental_phases",
    *("prepare_base_model", "reconstruct_cdvae", "relax_structures", "sample_cdvae", "sample_structures"),
    *("screen_prototypes", "train_base_model", "train_cdvae", "train_grpo", "train_sft"),
}
PROGRAM = """
import importlib, json, sys
scripts, heavy = json.loads(sys.argv[1])
found = {}
for script in scripts:
    importlib.import_module(script)
    if new := [name for name in heavy if name in sys.modules]:
        found[script] = new
        heavy = [name for name in heavy if name not in new]
print(json.dumps(found))
"""


def test_light_scripts_import_nothing_heavy():
    scripts = sorted(path.stem for path in SCRIPTS.glob("*.py"))
    assert set(scripts) >= HEAVY_SCRIPTS
    light = [name for name in scripts if name not in HEAVY_SCRIPTS]
    assert {"make_table2", "make_comparison", "build_reference", "plan_phase_relaxations", "relax_phases"} <= {*light}
    words = [sys.executable, "-c", PROGRAM, json.dumps([light, HEAVY])]
    told = subprocess.run(words, cwd=SCRIPTS, capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == {}
