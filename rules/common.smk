# What all rules share: the checked config, paths, and content hashes.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "workflow_scripts"))

from functools import cache

from hullseeker.configuration import ConfigError, check_config, replace_systems
from hullseeker.evaluators import env_of, name_in_rows, sources_of
from hullseeker.provenance import hash_of_code, sha256_of_file, sha256_of_path
from hullseeker.readiness import (
    RULES_OF_DEVICE,
    missing_access,
    missing_gpus,
    missing_packages,
)
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

# `--configfile mine.yaml table1` reads the file table1, which says so here; without it, everything is made.
TARGETS = list(config.pop("targets", {}))
replace_systems(config, workflow.config_settings.configfiles or [])
try:
    check_config(config, Path(workflow.basedir) / "schemas" / "config.schema.yaml")
except ConfigError as error:
    raise WorkflowError(str(error)) from None
if workflow.is_main_process and (refused := missing_access(config["relax"])):
    raise WorkflowError(f"the evaluator cannot be loaded: {refused}")

SCRIPTS = "../workflow_scripts"
RESULTS = f"results/{config['experiment']}"
LOGS = f"logs/{config['experiment']}"
BENCHMARKS = f"benchmarks/{config['experiment']}"
SYSTEMS = list(config["systems"])
SYSTEM_LABELS = [
    {"system": name, "label": system["label"]}
    for name, system in config["systems"].items()
]
TABLE_TITLES = {
    "table1": "Table 1: stability",
    "table2": "Table 2: validity, coverage, diversity, novelty",
    "sun": "Stable, unique, novel",
    "audit": "Reward audit",
    "failure_ledger": "Failure ledger",
}
TABLES = list(TABLE_TITLES)
FIGURE_TITLES = {
    "figure1": "Figure 1: generated and relaxed",
    "figure2": "Figure 2: energy above hull",
    "figure3": "Figure 3: further examples",
    "training_curves": "Training curves",
    "reward_audit": "Reward against evaluator",
}
FIGURE_NAMES = list(FIGURE_TITLES)


wildcard_constraints:
    system="[A-Za-z0-9_]+",
    shard=r"\d+",
    stages="sft|grpo|sft-grpo",


def code(script):
    """The hash of a script and of the library modules it imports: a rule reruns when it changes."""
    return hash_of_code(Path(workflow.basedir) / "workflow_scripts" / script)


# What rules that load the evaluator share: its environment, its code, its weights.
EVALUATOR_ENV = (
    f"../envs/{env_of(config['relax']['potential'], config['relax']['engine'])}"
)
EVALUATOR_CODE = [
    code(path)
    for path in sources_of(config["relax"]["potential"], config["relax"]["engine"])
]


@cache
def evaluator_weights():
    """The hash of the evaluator's checkpoint where the config gives a file; a name and a version say it otherwise."""
    model = config["relax"]["model"]
    return sha256_of_file(model) if model and Path(model).is_file() else None


onstart:
    # What a cluster's nodes have cannot be seen from here.
    rules_to_run = {job.rule.name for job in workflow.dag.needrun_jobs()}
    problems = missing_gpus(config, rules_to_run) if workflow.local_exec else []
    if not workflow.deployment_settings.deployment_method & {
        DeploymentMethod.CONDA,
        DeploymentMethod.APPTAINER,
    } and not rules_to_run.isdisjoint(RULES_OF_DEVICE["relax.device"]):
        problems += missing_packages(config["relax"])
    if problems:
        raise WorkflowError("\n".join(problems))


def content(path):
    """The hash of a resource: with `ancient`, content and not the checkout's time decides about a rerun."""
    return sha256_of_path(path)


def stage_chain(system):
    """The stages of a system as one word, empty for the base model: sft, grpo, sft-grpo."""
    return "-".join(config["systems"][system]["stages"])


def rendered(table):
    return multiext(f"{RESULTS}/tables/{table}", ".md", ".tex", ".html")


def of_systems(folder):
    return expand(f"{RESULTS}/{folder}/{{system}}.parquet", system=SYSTEMS)


STAGE_CHAINS = list(dict.fromkeys(filter(None, map(stage_chain, SYSTEMS))))
RESULT_TABLES = [path for table in TABLES for path in rendered(table)]
FIGURES = expand(
    f"{RESULTS}/figures/{{figure}}.{{kind}}",
    figure=[name for name in FIGURE_NAMES if name != "training_curves" or STAGE_CHAINS],
    kind=["pdf", "png"],
)


PRODUCTS = {
    "table1": rendered("table1"),
    "table2": rendered("table2"),
    "tables": [*RESULT_TABLES, f"{RESULTS}/data/card.html"],
    "figures": FIGURES,
}

BASE_MODEL = config["base_model"]["path"]


def model_before(chain, stage):
    """The model a stage starts from: the stage before it in the chain, or the base model (no input file)."""
    before = chain.split("-")[: chain.split("-").index(stage)]
    return [f"{RESULTS}/models/{'-'.join(before)}"] if before else []


def trained_model(wc):
    chain = stage_chain(wc.system)
    return [f"{RESULTS}/models/{chain}"] if chain else []


def png_for_report(figure):
    return report(
        f"{RESULTS}/figures/{figure}.png",
        caption=f"../report/{figure}.rst",
        category="Figures",
        labels={"figure": FIGURE_TITLES[figure]},
    )
