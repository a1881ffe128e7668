# Supervised finetuning and GRPO. A killed run goes on from its last checkpoint.
rule train_sft:
    input:
        materials=f"{RESULTS}/data/materials.parquet",
        prompt=ancient(config["prompt"]["path"]),
    output:
        model=directory(f"{RESULTS}/models/sft"),
        curve=f"{RESULTS}/curves/sft.parquet",
    log:
        f"{LOGS}/train_sft.log",
    benchmark:
        f"{BENCHMARKS}/train_sft.tsv"
    # Everything waits for the trainings, the longer one first.
    priority: 20
    conda:
        "../envs/hullseeker.yaml"
    params:
        base_model=lookup("base_model", within=config),
        base_model_content=content(BASE_MODEL),
        prompt=lookup("prompt", within=config),
        prompt_content=content(config["prompt"]["path"]),
        crystal_text=lookup("crystal_text", within=config),
        settings=lookup("sft", within=config),
        seed=lookup("seed", within=config),
        checkpoints=f"{RESULTS}/checkpoints/sft",
        code=code("train_sft.py"),
    script:
        "../workflow_scripts/train_sft.py"


rule train_grpo:
    input:
        materials=f"{RESULTS}/data/materials.parquet",
        prompt=ancient(config["prompt"]["path"]),
        model=lambda wc: model_before(wc.stages, "grpo"),
    output:
        model=directory(f"{RESULTS}/models/{{stages}}"),
        curve=f"{RESULTS}/curves/{{stages}}.parquet",
    log:
        f"{LOGS}/train_grpo/{{stages}}.log",
    benchmark:
        f"{BENCHMARKS}/train_grpo/{{stages}}.tsv"
    wildcard_constraints:
        stages=r"(sft-)?grpo(-\w+)?",
    priority: 10
    conda:
        "../envs/hullseeker.yaml"
    params:
        base_model=lookup("base_model", within=config),
        base_model_content=content(BASE_MODEL),
        prompt=lookup("prompt", within=config),
        prompt_content=content(config["prompt"]["path"]),
        crystal_text=lookup("crystal_text", within=config),
        settings=lambda wc: GRPO_SETTINGS[wc.stages],
        seed=lookup("seed", within=config),
        checkpoints=f"{RESULTS}/checkpoints/{{stages}}",
        code=code("train_grpo.py"),
    script:
        "../workflow_scripts/train_grpo.py"
