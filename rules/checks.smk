# Checks before the first job of every run; `snakemake preflight` runs all of them without submitting a job.
import sys

from hullseeker.data.checks import short_of_prompts, too_many_refused
from hullseeker.potentials.registry import sources_of_env
from hullseeker.workflow.job_requests import RULES_OF_DEVICE, rules_to_come
from hullseeker.workflow.patches import (
    heed_sigterm_in_a_thread,
    keep_retries_at_checkpoints,
    mend_status_queries,
)
from hullseeker.workflow.preflight import (
    missing_access,
    missing_base_model,
    missing_conda,
    missing_data,
    missing_gpus,
    missing_packages,
    missing_pins,
    missing_space,
    missing_training_packages,
    missing_weights,
    other_gguf,
    refused_key,
    space_needed_gb,
    unbuilt,
)
from hullseeker.workflow.slurm import (
    jobs_of_an_earlier_run,
    missing_commands,
    missing_status,
    spaces_in_the_way,
    status_command,
    unwritable,
)
from hullseeker.workflow.slurm_requests import refused_requests
from snakemake.iocontainers import Wildcards
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.types import DeploymentMethod

heed_sigterm_in_a_thread(JobScheduler)
keep_retries_at_checkpoints(JobScheduler)


def rules_of_experiment():
    """Return the rules that run a script, without those that make the embedded resources."""
    return [
        rule_
        for rule_ in workflow.rules
        if rule_.script and not str(rule_.snakefile).endswith("rules/embedded.smk")
    ]


def envs_of_rule(rule_):
    """Return (environment file, modules imported by name at run time) of a rule; several where wildcards choose."""
    env = rule_.conda_env
    if env is evaluator_env:
        return [
            (
                env({"evaluator": name}),
                sources_of(settings["potential"], settings["engine"]),
            )
            for name, settings in EVALUATORS.items()
        ]
    # A reward may use any potential that can be installed beside CHGNet.
    reward_sources = sources_of_env("potentials.yaml")
    if callable(env):
        return [
            (env(Wildcards(fromdict={"stages": chain})), reward_sources)
            for chain in HULLS_OF_REWARD
        ]
    return [(env, reward_sources if Path(str(env)).name == "potentials.yaml" else [])]


def env_files_of_experiment():
    """Return the environment files of all rules of the experiment."""
    names = {
        Path(str(env)).name
        for rule_ in rules_of_experiment()
        for env, _ in envs_of_rule(rule_)
    }
    return [Path(workflow.basedir) / "envs" / name for name in sorted(names)]


def missing_before_a_run(in_own_env):
    """Return one line for each thing that the whole experiment needs and that is missing."""
    problems, envs = [], env_files_of_experiment()
    conda_prefix = workflow.deployment_settings.conda_prefix or ".snakemake/conda"
    if SOURCE == "materials_project":
        problems += missing_data(config, [MATERIALS, *PHASES])
    if SYSTEMS_OF_KIND["language_model"] and not PREPARED_MODEL:
        problems += missing_base_model(BASE_MODEL)
    for settings in EVALUATORS.values():
        problems += missing_access(settings)
        if workflow.local_exec:
            names = [rule_.name for rule_ in rules_of_experiment()]
            problems += missing_gpus({**config, "relax": settings}, names)
    if in_own_env:
        problems += missing_conda()
        envs_to_build = unbuilt(envs, conda_prefix)
    else:
        problems += missing_pins(envs) + missing_weights(["chgnet", "sevenn"])
        envs_to_build = []
    # With a system for each replicate, and the base model as the trainings load it.
    expanded = {**config, "systems": SYSTEM_SETTINGS, "base_model": LOADED_MODEL}
    needed_gb = space_needed_gb(
        expanded, len(STAGE_CHAINS), envs_to_build, conda_prefix
    )
    return problems + unwritable(needed_gb) + missing_space(needed_gb)


def requests_of(names):
    """Return the resources that rules request at their first attempt; for rules whose resources use no wildcards."""
    return {
        name: workflow.get_rule(name).expand_resources(Wildcards(), [], 1)
        for name in names
    }


def requests_of_experiment():
    """Return the resources that each rule requests at its first attempt; for train_grpo, of its largest training."""
    largest = max(
        HULLS_OF_REWARD,
        key=lambda chain: threads_of_training(GRPO_SETTINGS[chain]),
        default="",
    )
    wildcards = Wildcards(fromdict={"stages": largest})
    return {
        rule_.name: rule_.expand_resources(wildcards, [], 1)
        for rule_ in rules_of_experiment()
        if largest or rule_.name != "train_grpo"
    }


def checked_before(rules_to_run):
    """Return why the results of checks in an earlier run fail the present config; checks that run again are skipped."""
    problems = []
    if "check_prompts" not in rules_to_run:
        for path in CHECKED_PROMPTS:
            problems += short_of_prompts(path, PROMPTS_PER_STEP)
    if "check_refused" not in rules_to_run:
        for path in CHECKED_REFUSALS:
            problems += too_many_refused(path, config["data"]["max_refused_share"])
    return problems


onstart:
    # Check requirements only of rules that will run; figures, for instance, need no evaluator.
    jobs = list(workflow.dag.needrun_jobs())
    rules_to_run = {job.rule.name for job in jobs}
    behind_checkpoints = rules_to_come(rules_to_run)
    rules_to_run |= behind_checkpoints
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
    problems += checked_before(rules_to_run)
    if not rules_to_run.isdisjoint(("extract_phases", "extract_materials")):
        endpoint = config["data"]["materials_project"]["endpoint"]
        problems += refused_key(endpoint, must_answer=False)
    # Jobs that load the base model itself; a trained model is a file of the workflow.
    jobs_with_base_model = [
        job
        for job in jobs
        if job.rule.name in RULES_OF_DEVICE["base_model.device"]
        and not job.input.get("model", [])
    ]
    if jobs_with_base_model:
        problems += missing_base_model(BASE_MODEL, must_answer=workflow.local_exec)
    if "prepare_base_model" in rules_to_run and Path(BASE_MODEL).is_file():
        expected_sha256 = config["base_model"]["gguf_sha256"]
        problems += other_gguf(BASE_MODEL, content(BASE_MODEL), expected_sha256)
    if not in_own_env:
        grpo = [GRPO_SETTINGS[chain] for chain in HULLS_OF_REWARD]
        problems += missing_training_packages(config, grpo, rules_to_run)
    requests = requests_of(behind_checkpoints)
    requests |= {job.rule.name: job.resources for job in jobs if not job.is_local}
    is_preflight = "preflight" in rules_to_run
    if is_preflight:
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
        # SystemExit, since of any other exception Snakemake prints this file and line after the message.
        raise SystemExit(without_secrets("\n".join(dict.fromkeys(problems))))
    if is_preflight:
        print("preflight: nothing that this run needs is missing", file=sys.stderr)
