# The systems of an experiment with their replicates, the models they sample from, and the paths of their tables.
from hullseeker.data.row_counts import rows_at_least
from hullseeker.language_model.gguf_source import is_gguf
from hullseeker.rewards.presets import potentials_with_hull
from hullseeker.tables.sharding import n_jobs
from hullseeker.workflow.configuration import KEYS_OF_KIND
from hullseeker.workflow.replicates import (
    chain_before,
    chain_of,
    replicates_of,
    with_replicates,
)

# Settings by system, with a system for each replicate.
SYSTEM_SETTINGS = with_replicates(config["systems"], config["replicates"])
SYSTEMS = list(SYSTEM_SETTINGS)
SYSTEMS_OF_KIND = {
    kind: [name for name, system in SYSTEM_SETTINGS.items() if system["kind"] == kind]
    for kind in KEYS_OF_KIND
}
SYSTEM_LABELS = [
    {"system": name, "label": system["label"]}
    for name, system in SYSTEM_SETTINGS.items()
]
# The system of kind cdvae, or None; the config allows at most one.
CDVAE = next(iter(SYSTEMS_OF_KIND["cdvae"]), None)
# False where all samples come from files. The training set is then that of another generator: no validation set is
# taken from it, and a leak between its splits is reported without stopping the run.
TRAINS = SYSTEMS != SYSTEMS_OF_KIND["samples"]
REPLICATES = replicates_of(config["systems"], config["replicates"])
BASELINE = config["comparison"]["baseline"]
# Replicates by system for the comparison, the baseline first; empty where the baseline is no trained system.
COMPARED = (
    {BASELINE: REPLICATES[BASELINE], **REPLICATES} if BASELINE in REPLICATES else {}
)


def stage_chain(system):
    """Return the name of a system's model (sft, sft-grpo, sft-grpo-mine, sft.2), empty for the base model."""
    return chain_of(system, SYSTEM_SETTINGS[system])


def before_rl(system):
    """Return the system whose model a system's GRPO starts from; None without GRPO or without such a system."""
    if "grpo" not in SYSTEM_SETTINGS[system].get("stages", []):
        return None
    start = chain_before(stage_chain(system), "grpo")
    models = SYSTEMS_OF_KIND["language_model"]
    return next((name for name in models if stage_chain(name) == start), None)


def grpo_settings(system):
    """Return the GRPO settings of a system (its entry in SYSTEM_SETTINGS), with the terms of its own reward only."""
    settings = {**config["grpo"], **system.get("grpo", {})}
    presets = settings.pop("rewards")
    return {**settings, "terms": presets[settings["reward"]]}


BEFORE_RL = {name: before_rl(name) for name in SYSTEMS if before_rl(name)}
STAGE_CHAINS = list(dict.fromkeys(filter(None, map(stage_chain, SYSTEMS))))
# The first system of each training curve, by the curve's name.
SYSTEM_OF_CURVE = {
    **({"cdvae": CDVAE} if CDVAE else {}),
    **{
        chain: next(name for name in SYSTEMS if stage_chain(name) == chain)
        for chain in STAGE_CHAINS
    },
}
GRPO_SETTINGS = {
    stage_chain(name): grpo_settings(system) for name, system in SYSTEM_SETTINGS.items()
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

BASE_MODEL = config["base_model"]["path"]
# A GGUF file is first converted to a folder of safetensors, which the rules that train and sample load.
PREPARED_MODEL = [f"{RESULTS}/models/base"] if is_gguf(BASE_MODEL) else []
LOADED_MODEL = config["base_model"] | {"path": (PREPARED_MODEL or [BASE_MODEL])[0]}


def model_before(chain, stage):
    """Return the model folder that a stage starts from: the stage before it or the converted base model, if any."""
    before = chain_before(chain, stage)
    return [f"{RESULTS}/models/{before}"] if before else PREPARED_MODEL


def trained_model(wc):
    """Return the model folder that a system samples from; empty for a base model that needs no conversion."""
    chain = stage_chain(wc.system)
    return [f"{RESULTS}/models/{chain}"] if chain else PREPARED_MODEL


def threads_of_training(settings):
    """Return one thread per process; a training process waits while its reward workers compute."""
    return settings["n_processes"] * max(1, settings.get("reward_workers", 0))


def content_of_accelerate(settings):
    """Return the hash of the `accelerate launch` config; None for a training with one process."""
    return content(settings["accelerate"]) if settings["n_processes"] > 1 else None


def of_kinds(*kinds):
    """Return the wildcard constraint that matches the systems of some kinds; without such systems, nothing matches."""
    return "|".join(name for kind in kinds for name in SYSTEMS_OF_KIND[kind]) or "(?!)"


def n_samples_at_least(system):
    """Return how many rows a system's table of samples will have; of imported samples, a lower bound."""
    path = SYSTEM_SETTINGS[system].get("path")
    return config["sampling"]["n_samples"] if path is None else rows_at_least(path)


def n_sample_shards(system):
    """Return how many jobs draw a system's samples: at most one per batch."""
    sampling = config["sampling"]
    section = config["cdvae"]["sampling"] if system == CDVAE else sampling
    return n_jobs(sampling["n_samples"], section["batch_size"], sampling["n_shards"])


def of_systems(folder):
    """Return the paths of a folder's tables, one per system."""
    return expand(
        f"{RESULTS}/{folder}/{{system}}.parquet", system=SYSTEMS, allow_missing=True
    )


def of_compared(folder):
    """Return the paths of a folder's tables, ordered by compared system and then by replicate."""
    names = [name for replicates in COMPARED.values() for name in replicates]
    return expand(f"{RESULTS}/{folder}/{{system}}.parquet", system=names)
