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


def rules_of_experiment():
    """The rules with work to do, without those that make the embedded resources."""
    return [
        found
        for found in workflow.rules
        if found.script and not str(found.snakefile).endswith("rules/resources.smk")
    ]


def env_files_of_experiment():
    """The environment files of these rules; of those by evaluator, of the evaluators of the config."""
    envs = set()
    for found in rules_of_experiment():
        env = found.conda_env
        envs |= {env({"evaluator": e}) for e in EVALUATORS} if callable(env) else {env}
    return sorted(Path(workflow.basedir) / "envs" / Path(env).name for env in envs)


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
    """What the rules ask of a cluster at their first attempt."""
    return {
        found.name: found.expand_resources({}, [], 1) for found in rules_of_experiment()
    }
