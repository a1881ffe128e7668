# What all rules share: the checked config, paths, and content hashes.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "workflow_scripts"))

from functools import cache

from hullseeker.cluster import (
    heed_sigterm_in_a_thread,
    jobs_of_an_earlier_run,
    mend_status_queries,
    missing_commands,
    missing_status,
    spaces_in_the_way,
    status_command,
    unwritable,
    without_gpus,
)
from hullseeker.configuration import (
    KEYS_OF_KIND,
    ConfigError,
    check_config,
    replace_systems,
)
from hullseeker.cross_check import evaluator_label, evaluators
from hullseeker.evaluators import env_of, sources_of
from hullseeker.failed_jobs import write_failed_jobs
from hullseeker.gguf_source import is_gguf, is_package
from hullseeker.provenance import (
    files_of,
    hash_of_code,
    sha256_of_file,
    sha256_of_path,
)
from hullseeker.readiness import (
    RULES_OF_DEVICE,
    missing_access,
    missing_gpus,
    missing_packages,
    missing_training_packages,
    rules_on_cpu,
)
from hullseeker.replicates import (
    chain_before,
    chain_of,
    replicates_of,
    with_replicates,
)
from hullseeker.reward_presets import potentials_with_hull
from hullseeker.scale import training_env
from hullseeker.slurm_checks import refused_requests
from snakemake.exceptions import WorkflowError
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.types import DeploymentMethod

heed_sigterm_in_a_thread(JobScheduler)

# `--configfile mine.yaml table1` reads the file table1, which says so here; without it, everything is made.
TARGETS = list(config.pop("targets", {}))
replace_systems(config, workflow.config_settings.configfiles or [])
try:
    check_config(config, Path(workflow.basedir) / "schemas" / "config.schema.yaml")
except ConfigError as error:
    raise WorkflowError(str(error)) from None

REPLICATES = replicates_of(config["systems"], config["replicates"])
config["systems"] = with_replicates(config["systems"], config["replicates"])
SCRIPTS = "../workflow_scripts"
RESULTS = f"results/{config['experiment']}"
LOGS = f"logs/{config['experiment']}"
BENCHMARKS = f"benchmarks/{config['experiment']}"
SYSTEMS = list(config["systems"])
SYSTEMS_OF_KIND = {
    kind: [name for name, system in config["systems"].items() if system["kind"] == kind]
    for kind in KEYS_OF_KIND
}
# At most one system: there is one model.
CDVAE = next(iter(SYSTEMS_OF_KIND["cdvae"]), None)
# Where nothing is trained here, all of train is what others trained on: no share of it is held back, and what test
# shares with it is their affair.
TRAINS = SYSTEMS != SYSTEMS_OF_KIND["samples"]
SYSTEM_LABELS = [
    {"system": name, "label": system["label"]}
    for name, system in config["systems"].items()
]
# What stands against the baseline, each system with its replicates; the baseline first.
BASELINE = config["comparison"]["baseline"]
COMPARED = (
    {BASELINE: REPLICATES[BASELINE], **REPLICATES} if BASELINE in REPLICATES else {}
)
# The first evaluator, relax.potential, is the one that Table 1, the figures, S.U.N. and the audit are of.
EVALUATORS = evaluators(config["relax"])
EVALUATOR_LABELS = {
    name: evaluator_label(settings) for name, settings in EVALUATORS.items()
}
EVALUATOR, *CROSS_CHECKS = EVALUATORS
TABLES_PER_CROSS_CHECK = {f"table1_{name}": name for name in CROSS_CHECKS}
TABLE_TITLES = {
    "table1": "Table 1: stability",
    "table2": "Table 2: validity, coverage, diversity, novelty",
    "sun": "Stable, unique, novel",
    **({"comparison": "Comparison of trained systems"} if COMPARED else {}),
    **({"reconstruction": "Reconstruction by CDVAE"} if CDVAE else {}),
    "audit": "Reward audit",
    "failure_ledger": "Failure ledger",
    **{
        table: f"Table 1 under {EVALUATOR_LABELS[name]}: stability"
        for table, name in TABLES_PER_CROSS_CHECK.items()
    },
    **({"cross_evaluator": "Cross-evaluator table"} if CROSS_CHECKS else {}),
}
TABLES = list(TABLE_TITLES)
FIGURE_TITLES = {
    "figure1": "Figure 1: generated and relaxed",
    "figure2": "Figure 2: energy above hull",
    "figure3": "Figure 3: further examples",
    **({"comparison": "Comparison of trained systems"} if COMPARED else {}),
    "training_curves": "Training curves",
    "reward_audit": "Reward against evaluator",
}
FIGURE_NAMES = [*FIGURE_TITLES, *(f"figure2_{name}" for name in CROSS_CHECKS)]

# A profile asks for a GPU where a rule may use one; the config says whether it does.
workflow.resource_settings.overwrite_resources = without_gpus(
    workflow.resource_settings.overwrite_resources,
    rules_on_cpu([{**config, "relax": settings} for settings in EVALUATORS.values()]),
)


wildcard_constraints:
    system="[A-Za-z0-9_]+",
    evaluator="[A-Za-z0-9_]+",
    reward_potential="[A-Za-z0-9_.]+",
    shard=r"\d+",
    stages=r"(sft|(sft-)?grpo(-\w+)?)(\.\d+)?",


@cache
def code(script):
    """The hash of a script and of the library modules it imports: a rule reruns when it changes."""
    return hash_of_code(Path(workflow.basedir) / "workflow_scripts" / script)


# What rules that load an evaluator share; without the wildcard, it is the first one.
def settings_of(wc):
    return EVALUATORS[wc.get("evaluator", EVALUATOR)]


def evaluator_env(wc):
    """The environment of an evaluator."""
    return f"../envs/{env_of(settings_of(wc)['potential'], settings_of(wc)['engine'])}"


def evaluator_code(wc):
    """The code that only the table of evaluators names."""
    settings = settings_of(wc)
    return [code(p) for p in sources_of(settings["potential"], settings["engine"])]


@cache
def _content_of_weights(model):
    return sha256_of_file(model) if model and Path(model).is_file() else None


def evaluator_weights(wc):
    """The hash of an evaluator's checkpoint where the config gives a file; a name and a version say it otherwise."""
    return _content_of_weights(settings_of(wc)["model"])


onstart:
    # What only some rules need is asked for where they will run: figures need no evaluator. Of a cluster, Slurm is asked.
    jobs = list(workflow.dag.needrun_jobs())
    rules_to_run = {job.rule.name for job in jobs}
    relaxes = not rules_to_run.isdisjoint(RULES_OF_DEVICE["relax.device"])
    in_own_env = workflow.deployment_settings.deployment_method & {
        DeploymentMethod.CONDA,
        DeploymentMethod.APPTAINER,
    }
    problems = spaces_in_the_way(
        sys.executable, Path.cwd(), workflow.non_local_exec
    )
    problems += unwritable([RESULTS, CACHE, LOGS, BENCHMARKS])
    for settings in EVALUATORS.values():
        if workflow.local_exec:
            problems += missing_gpus({**config, "relax": settings}, rules_to_run)
        if relaxes:
            problems += missing_access(settings)
        if relaxes and not in_own_env:
            problems += missing_packages(settings)
    if not in_own_env:
        grpo = [GRPO_SETTINGS[chain] for chain in HULLS_OF_REWARD]
        problems += missing_training_packages(config, grpo, rules_to_run)
    requests = {job.rule.name: job.resources for job in jobs if not job.is_local}
    asked_before_a_run = "preflight" in rules_to_run or "preflight" in TARGETS
    if asked_before_a_run:
        problems += missing_before_a_run(in_own_env)
        requests = requests_of_experiment()
    if (
        type(workflow.executor_settings).__module__
        == "snakemake_executor_plugin_slurm"
    ):
        mend_status_queries(
            sys.modules["snakemake_executor_plugin_slurm"], status_command()
        )
        problems += missing_commands() or [
            *jobs_of_an_earlier_run(Path.cwd()),
            *missing_status(),
            *refused_requests(requests),
        ]
    if problems:
        raise WorkflowError("\n".join(dict.fromkeys(problems)))
    if asked_before_a_run:
        print("preflight: nothing that this run needs is missing", file=sys.stderr)


def tell_failed_jobs():
    """Keep what became of every job that Slurm saw fail, whether a retry made up for it or not."""
    table = Path(LOGS) / "failed_jobs.tsv"
    if n := write_failed_jobs(
        Path(".snakemake/log").glob("*.log"), config["experiment"], table
    ):
        print(
            f"{n} jobs failed on the way, tried again or not: {table}", file=sys.stderr
        )


onsuccess:
    tell_failed_jobs()


onerror:
    tell_failed_jobs()


def content(path):
    """The hash of a resource: with `ancient`, content and not the checkout's time decides about a rerun."""
    return sha256_of_path(path)


def stage_chain(system):
    """What a system's model is called, empty for the base model: sft, sft-grpo, sft-grpo-mine, sft.2."""
    return chain_of(system, config["systems"][system])


def threads_of_training(settings):
    """One thread per process; a training process waits while its reward workers compute."""
    return settings["n_processes"] * max(1, settings.get("reward_workers", 0))


def content_of_accelerate(settings):
    """The hash of what tells the processes of a training how to share it; nothing where there is one process."""
    return content(settings["accelerate"]) if settings["n_processes"] > 1 else None


def rendered(table):
    return multiext(f"{RESULTS}/tables/{table}", ".md", ".tex", ".html")


def before_rl(system):
    """The system whose model a system's GRPO starts from; None without GRPO, or where it is not among the systems."""
    if "grpo" not in config["systems"][system].get("stages", []):
        return None
    start = chain_before(stage_chain(system), "grpo")
    models = SYSTEMS_OF_KIND["language_model"]
    return next((name for name in models if stage_chain(name) == start), None)


def of_kinds(*kinds):
    """The wildcard constraint that lets systems of some kinds through; none of them where there are none."""
    return "|".join(name for kind in kinds for name in SYSTEMS_OF_KIND[kind]) or "(?!)"


def n_relax_shards(system):
    """The jobs that relax a system's samples: no more than a file of its size can fill, 200 bytes a structure."""
    path, most = config["systems"][system].get("path"), config["relax"]["n_shards"]
    if path is None:
        return most
    n_bytes = sum(file.stat().st_size for file in files_of(path, "*.cif"))
    return min(most, 1 + n_bytes // (200 * config["relax"]["block_size"]))


def of_systems(folder):
    return expand(
        f"{RESULTS}/{folder}/{{system}}.parquet", system=SYSTEMS, allow_missing=True
    )


def of_compared(folder):
    """The tables of a folder by compared system, and within it by replicate."""
    names = [name for replicates in COMPARED.values() for name in replicates]
    return expand(f"{RESULTS}/{folder}/{{system}}.parquet", system=names)


def of_evaluators_and_systems(folder):
    """The tables of a folder by evaluator, and within it by system."""
    return [path for name in EVALUATORS for path in of_systems(f"{folder}/{name}")]


def grpo_settings(system):
    """The settings of a system's GRPO, with the terms of its reward and without those of other presets."""
    settings = {**config["grpo"], **system.get("grpo", {})}
    presets = settings.pop("rewards")
    return {**settings, "terms": presets[settings["reward"]]}


BEFORE_RL = {name: before_rl(name) for name in SYSTEMS if before_rl(name)}
GRPO_SETTINGS = {
    stage_chain(name): grpo_settings(system)
    for name, system in config["systems"].items()
}
HULLS_OF_REWARD = {
    chain: potentials_with_hull(settings["terms"])
    for chain, settings in GRPO_SETTINGS.items()
    if "grpo" in chain
}
REWARD_POTENTIALS = {
    name: {
        "potential": potential,
        "model": model,
        "device": config["grpo"]["reward_device"],
    }
    for hulls in HULLS_OF_REWARD.values()
    for name, (potential, model) in hulls.items()
}
STAGE_CHAINS = list(dict.fromkeys(filter(None, map(stage_chain, SYSTEMS))))
# Training curves by name, each with the first system that it is of.
SYSTEM_OF_CURVE = {
    **({"cdvae": CDVAE} if CDVAE else {}),
    **{
        chain: next(name for name in SYSTEMS if stage_chain(name) == chain)
        for chain in STAGE_CHAINS
    },
}
RESULT_TABLES = [path for table in TABLES for path in rendered(table)]
FIGURES = expand(
    f"{RESULTS}/figures/{{figure}}.{{kind}}",
    figure=[
        name for name in FIGURE_NAMES if name != "training_curves" or SYSTEM_OF_CURVE
    ],
    kind=["pdf", "png"],
)


PRODUCTS = {
    "table1": [
        path
        for table in TABLES
        if table in ("table1", "cross_evaluator", *TABLES_PER_CROSS_CHECK)
        for path in rendered(table)
    ],
    "table2": rendered("table2"),
    "tables": [*RESULT_TABLES, f"{RESULTS}/data/card.html"],
    "figures": FIGURES,
    "preflight": [],
}

BASE_MODEL = config["base_model"]["path"]
# A GGUF file is made a folder of safetensors first; the other rules know that alone.
PREPARED_MODEL = [f"{RESULTS}/models/base"] if is_gguf(BASE_MODEL) else []
if PREPARED_MODEL:
    config["base_model"]["path"] = PREPARED_MODEL[0]


def model_before(chain, stage):
    """The model a stage starts from: the stage before it in the chain, or the base model (no file unless prepared)."""
    before = chain_before(chain, stage)
    return [f"{RESULTS}/models/{before}"] if before else PREPARED_MODEL


def trained_model(wc):
    chain = stage_chain(wc.system)
    return [f"{RESULTS}/models/{chain}"] if chain else PREPARED_MODEL


def png_for_report(figure):
    return report(
        f"{RESULTS}/figures/{figure}.png",
        caption=f"../report/{figure}.rst",
        category="Figures",
        labels={"figure": FIGURE_TITLES[figure]},
    )
