# The baseline CDVAE: train it, sample from it without prompts, and reconstruct the test crystals with it.
if CDVAE:
    CDVAE_TRAINING = {
        name: value for name, value in config["cdvae"].items() if name != "sampling"
    }
    # A sampled cell must satisfy the same bounds as a cell written by a language model.
    CDVAE_BOUNDS = {
        name: value
        for name, value in config["crystal_text"].items()
        if name.startswith(("min_", "max_")) and name != "max_atoms"
    }

    rule train_cdvae:
        input:
            materials=f"{RESULTS}/data/materials.parquet",
        output:
            model=directory(f"{RESULTS}/models/cdvae"),
            curve=f"{RESULTS}/curves/cdvae.parquet",
        log:
            f"{LOGS}/train_cdvae.log",
        benchmark:
            f"{BENCHMARKS}/train_cdvae.tsv"
        priority: 10
        conda:
            "../envs/cdvae.yaml"
        resources:
            **on_gpu("train_cdvae", cpus_per_task=4, mem_mb=32000, runtime=2880),
        params:
            settings=CDVAE_TRAINING,
            bounds=CDVAE_BOUNDS,
            seed=lookup("seed", within=config),
            checkpoint=f"{RESULTS}/checkpoints/cdvae/training.safetensors",
            code=code("train_cdvae.py"),
        script:
            "../workflow_scripts/train_cdvae.py"

    rule sample_cdvae:
        input:
            model=f"{RESULTS}/models/cdvae",
        output:
            samples=temp(f"{RESULTS}/samples/shards/{{system}}/{{shard}}.parquet"),
        log:
            f"{LOGS}/sample_cdvae/{{system}}-{{shard}}.log",
        benchmark:
            f"{BENCHMARKS}/sample_cdvae/{{system}}-{{shard}}.tsv"
        wildcard_constraints:
            system=of_kinds("cdvae"),
        conda:
            "../envs/cdvae.yaml"
        resources:
            **on_gpu("sample_cdvae", cpus_per_task=2, mem_mb=16000, runtime=240),
        params:
            settings=lookup("cdvae/sampling", within=config),
            device=lookup("cdvae/device", within=config),
            n_samples=lookup("sampling/n_samples", within=config),
            n_shards=n_sample_shards(CDVAE),
            seed=lookup("seed", within=config),
            code=code("sample_cdvae.py"),
        script:
            "../workflow_scripts/sample_cdvae.py"

    # A checkpoint: the number of jobs depends on the number of test crystals, which the split determines.
    checkpoint plan_reconstructions:
        input:
            materials=f"{RESULTS}/data/materials.parquet",
        output:
            plan=f"{RESULTS}/reconstructions/plan.json",
        log:
            f"{LOGS}/plan_reconstructions.log",
        conda:
            "../envs/hullseeker.yaml"
        params:
            block_size=lookup("cdvae/sampling/batch_size", within=config),
            n_shards=lookup("sampling/n_shards", within=config),
            code=code("plan_reconstructions.py"),
        script:
            "../workflow_scripts/plan_reconstructions.py"

    rule reconstruct_cdvae:
        input:
            materials=f"{RESULTS}/data/materials.parquet",
            model=f"{RESULTS}/models/cdvae",
            plan=f"{RESULTS}/reconstructions/plan.json",
        output:
            reconstructions=temp(f"{RESULTS}/reconstructions/shards/{{shard}}.parquet"),
        log:
            f"{LOGS}/reconstruct_cdvae/{{shard}}.log",
        benchmark:
            f"{BENCHMARKS}/reconstruct_cdvae/{{shard}}.tsv"
        conda:
            "../envs/cdvae.yaml"
        resources:
            **on_gpu("reconstruct_cdvae", cpus_per_task=2, mem_mb=16000, runtime=240),
        params:
            settings=lookup("cdvae/sampling", within=config),
            device=lookup("cdvae/device", within=config),
            seed=lookup("seed", within=config),
            code=code("reconstruct_cdvae.py"),
        script:
            "../workflow_scripts/reconstruct_cdvae.py"

    rule make_reconstruction_table:
        input:
            materials=f"{RESULTS}/data/materials.parquet",
            shards=reconstruction_shards,
        output:
            rows=f"{RESULTS}/reconstructions/cdvae.parquet",
            csv=f"{RESULTS}/tables/reconstruction.csv",
            parquet=f"{RESULTS}/tables/reconstruction.parquet",
        log:
            f"{LOGS}/make_reconstruction_table.log",
        conda:
            "../envs/hullseeker.yaml"
        params:
            system={"system": CDVAE, "label": SYSTEM_SETTINGS[CDVAE]["label"]},
            settings=lookup("statistics", within=config),
            seed=lookup("seed", within=config),
            code=code("make_reconstruction_table.py"),
        script:
            "../workflow_scripts/make_reconstruction_table.py"
