# The systems of an experiment with their replicates, the models behind them, and the files of all systems.
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

# The systems of the config, each replicate a system of its own.
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
# At most one system: there is one model.
CDVAE = next(iter(SYSTEMS_OF_KIND["cdvae"]), None)
# Where nothing is trained here, all of train is what others trained on: no share of it is held back, and what test
# shares with it is their affair.
TRAINS = SYSTEMS != SYSTEMS_OF_KIND["samples"]
REPLICATES = replicates_of(config["systems"], config["replicates"])
BASELINE = config["comparison"]["baseline"]
# What is compared with the baseline, each system with its replicates; the baseline first.
COMPARED = (
    {BASELINE: REPLICATES[BASELINE], **REPLICATES} if BASELINE in REPLICATES else {}
)


def stage_chain(system):
    """What a system's model is called, empty for the base model: sft, sft-grpo, sft-grpo-mine, sft.2."""
    return chain_of(system, SYSTEM_SETTINGS[system])


def before_rl(system):
    """The system whose model a system's GRPO starts from; None without GRPO, or where it is not among the systems."""
    if "grpo" not in SYSTEM_SETTINGS[system].get("stages", []):
        return None
    start = chain_before(stage_chain(system), "grpo")
    models = SYSTEMS_OF_KIND["language_model"]
    return next((name for name in models if stage_chain(name) == start), None)


def grpo_settings(system):
    """The settings of a system's GRPO, with the terms of its reward and without those of other presets."""
    settings = {**config["grpo"], **system.get("grpo", {})}
    presets = settings.pop("rewards")
    return {**settings, "terms": presets[settings["reward"]]}


BEFORE_RL = {name: before_rl(name) for name in SYSTEMS if before_rl(name)}
STAGE_CHAINS = list(dict.fromkeys(filter(None, map(stage_chain, SYSTEMS))))
# Training curves by name, each with the first system that it is of.
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
# A GGUF file is made a folder of safetensors first; the rules that train and sample know that alone.
PREPARED_MODEL = [f"{RESULTS}/models/base"] if is_gguf(BASE_MODEL) else []
LOADED_MODEL = config["base_model"] | {"path": (PREPARED_MODEL or [BASE_MODEL])[0]}


def model_before(chain, stage):
    """The model a stage starts from: the stage before it in the chain, or the base model (no file unless prepared)."""
    before = chain_before(chain, stage)
    return [f"{RESULTS}/models/{before}"] if before else PREPARED_MODEL


def trained_model(wc):
    """The model that a system's samples are drawn from; no file where that is the base model."""
    chain = stage_chain(wc.system)
    return [f"{RESULTS}/models/{chain}"] if chain else PREPARED_MODEL


def threads_of_training(settings):
    """One thread per process; a training process waits while its reward workers compute."""
    return settings["n_processes"] * max(1, settings.get("reward_workers", 0))


def content_of_accelerate(settings):
    """The hash of what tells the processes of a training how to share it; nothing where there is one process."""
    return content(settings["accelerate"]) if settings["n_processes"] > 1 else None


def of_kinds(*kinds):
    """The wildcard constraint that lets systems of some kinds through; none of them where there are none."""
    return "|".join(name for kind in kinds for name in SYSTEMS_OF_KIND[kind]) or "(?!)"


def n_samples_at_least(system):
    """How many rows the table of a system's samples will have; of a file of others, no fewer than these."""
    path = SYSTEM_SETTINGS[system].get("path")
    return config["sampling"]["n_samples"] if path is None else rows_at_least(path)


def n_sample_shards(system):
    """The jobs that draw a system's samples: no more than there are blocks of rows drawn together."""
    sampling = config["sampling"]
    batch_of = config["cdvae"]["sampling"] if system == CDVAE else sampling
    return n_jobs(sampling["n_samples"], batch_of["batch_size"], sampling["n_shards"])


def of_systems(folder):
    """The tables of a folder by system."""
    return expand(
        f"{RESULTS}/{folder}/{{system}}.parquet", system=SYSTEMS, allow_missing=True
    )


def of_compared(folder):
    """The tables of a folder by compared system, and within it by replicate."""
    names = [name for replicates in COMPARED.values() for name in replicates]
    return expand(f"{RESULTS}/{folder}/{{system}}.parquet", system=names)
