# Requests for memory (MB), run time (minutes) and GPUs are in the rules; a rule requests a GPU where the config's device
# is one. Other rules use the profile's default-resources; its set-resources override both.
from functools import partial

from hullseeker.workflow.job_requests import (
    gpu_job,
    names_of_gpus,
    per_attempt,
    rules_on_cpu,
)

on_gpu = partial(
    gpu_job,
    rules_on_cpu=rules_on_cpu(
        [{**config, "relax": settings} for settings in EVALUATORS.values()]
    ),
    names=names_of_gpus(workflow.resource_settings.default_resources),
)
