# The validated config, the folders of an experiment, and the hashes that trigger reruns.
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "workflow_scripts"))

from hullseeker.runtime.credentials import without_secrets
from hullseeker.runtime.provenance import sha256_of_path
from hullseeker.workflow.code_hash import hash_of_code
from hullseeker.workflow.configuration import (
    ConfigError,
    apply_overlays,
    check_config,
)

# Merge the overlays and validate the config; it does not change after this.
try:
    OVERLAYS = apply_overlays(
        config,
        workflow.config_settings.configfiles or [],
        workflow.config_settings.config_args or [],
    )
    check_config(
        config,
        Path(workflow.basedir) / "schemas" / "config.schema.yaml",
        [path for path in ("config.yaml", *OVERLAYS) if Path(path).is_file()],
    )
except ConfigError as error:
    # SystemExit, since of any other exception Snakemake prints this file and line after the message.
    raise SystemExit(without_secrets(str(error))) from None

RESULTS = f"results/{config['experiment']}"
LOGS = f"logs/{config['experiment']}"
BENCHMARKS = f"benchmarks/{config['experiment']}"
CACHE = "results/cache"


wildcard_constraints:
    system="[A-Za-z0-9_][A-Za-z0-9_-]*",
    evaluator="[A-Za-z0-9_]+",
    reward_potential="[A-Za-z0-9_.]+",
    shard=r"\d+",
    stages=r"(sft|(sft-)?grpo(-[\w-]+)?)(\.\d+)?",


@cache
def code(script, *schemas):
    """Return the hash of all code that a script reaches; `schemas` are names of tables that its params give it."""
    return hash_of_code(Path(workflow.basedir) / "workflow_scripts" / script, *schemas)


@cache
def content(path):
    """Return the hash of a file: an input marked `ancient` triggers a rerun by its content, not by its time."""
    return sha256_of_path(path)
