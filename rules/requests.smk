# What jobs ask a cluster for stands in their rules: memory in MB, run time in minutes, a GPU where the config has a rule
# compute on one. Rules without a request have the profile's default-resources, and its set-resources stands above all.
from functools import partial

from hullseeker.workflow.job_requests import gpu_job, names_of_gpus, per_attempt
from hullseeker.workflow.readiness import rules_on_cpu

on_gpu = partial(
    gpu_job,
    rules_on_cpu=rules_on_cpu(
        [{**config, "relax": settings} for settings in EVALUATORS.values()]
    ),
    names=names_of_gpus(workflow.resource_settings.default_resources),
)
