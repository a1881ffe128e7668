# snakemake preflight: whether all that the experiment will need is there, before anything is queued.
from hullseeker.preflight import (
    missing_base_model,
    missing_conda,
    missing_data,
    missing_pins,
    missing_space,
    missing_weights,
    space_needed_gb,
    unbuilt,
)
from snakemake.iocontainers import Wildcards


def rules_of_experiment():
    """The rules with work to do, without those that make the embedded resources."""
    return [
        found
        for found in workflow.rules
        if found.script and not str(found.snakefile).endswith("rules/resources.smk")
    ]


def envs_of_rule(found):
    """The environment files of a rule, each with the modules that only a table names; more than one by its wildcards."""
    env = found.conda_env
    if env is evaluator_env:
        return [
            (env({"evaluator": name}), sources_of(one["potential"], one["engine"]))
            for name, one in EVALUATORS.items()
        ]
    if callable(env):
        return [(env(Wildcards(fromdict={"stages": c})), []) for c in HULLS_OF_REWARD]
    return [(env, [])]


def env_files_of_experiment():
    """The environment files of all these rules."""
    names = {
        Path(str(env)).name
        for found in rules_of_experiment()
        for env, _ in envs_of_rule(found)
    }
    return [Path(workflow.basedir) / "envs" / name for name in sorted(names)]


def missing_before_a_run(in_own_env):
    """What is missing of all that the experiment will need, one line each."""
    problems, envs = [], env_files_of_experiment()
    conda_prefix = workflow.deployment_settings.conda_prefix or ".snakemake/conda"
    if SOURCE == "materials_project":
        problems += missing_data(config, [MATERIALS, *PHASES])
    if SYSTEMS_OF_KIND["language_model"]:
        problems += missing_base_model(BASE_MODEL)
    for settings in EVALUATORS.values():
        problems += missing_access(settings)
        if workflow.local_exec:
            names = [found.name for found in rules_of_experiment()]
            problems += missing_gpus({**config, "relax": settings}, names)
    if in_own_env:
        problems += missing_conda()
        envs_to_build = unbuilt(envs, conda_prefix)
    else:
        problems += missing_pins(envs) + missing_weights(["chgnet", "sevenn"])
        envs_to_build = []
    needed = space_needed_gb(config, len(STAGE_CHAINS), envs_to_build, conda_prefix)
    return problems + unwritable(needed) + missing_space(needed)


def requests_of_experiment():
    """What the rules ask of a cluster at their first attempt; of the trainings by GRPO, the one with most processes."""
    largest = max(
        HULLS_OF_REWARD,
        key=lambda chain: threads_of_training(GRPO_SETTINGS[chain]),
        default="",
    )
    wildcards = Wildcards(fromdict={"stages": largest})
    return {
        found.name: found.expand_resources(wildcards, [], 1)
        for found in rules_of_experiment()
        if largest or found.name != "train_grpo"
    }
