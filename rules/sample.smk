# Sample from every language model, in shards, and import samples of other generators; every draw is a row.
from hullseeker.runtime.provenance import cif_files_of


rule sample_structures:
    input:
        materials=f"{RESULTS}/data/materials.parquet",
        prompt=ancient(config["prompt"]["path"]),
        model=trained_model,
    output:
        samples=temp(f"{RESULTS}/samples/shards/{{system}}/{{shard}}.parquet"),
    log:
        f"{LOGS}/sample_structures/{{system}}-{{shard}}.log",
    benchmark:
        f"{BENCHMARKS}/sample_structures/{{system}}-{{shard}}.tsv"
    wildcard_constraints:
        system=of_kinds("language_model"),
    conda:
        "../envs/language_model.yaml"
    resources:
        **on_gpu("sample_structures", cpus_per_task=4, mem_mb=32000, runtime=240),
    params:
        base_model=LOADED_MODEL,
        base_model_content=content(BASE_MODEL),
        prompt=lookup("prompt", within=config),
        prompt_content=content(config["prompt"]["path"]),
        crystal_text=lookup("crystal_text", within=config),
        settings={
            name: value
            for name, value in config["sampling"].items()
            if name != "n_shards"
        },
        n_shards=lambda wc: n_sample_shards(wc.system),
        seed=lookup("seed", within=config),
        code=code("sample_structures.py"),
    script:
        "../workflow_scripts/sample_structures.py"


rule merge_samples:
    input:
        shards=lambda wc: expand(
            f"{RESULTS}/samples/shards/{wc.system}/{{shard}}.parquet",
            shard=range(n_sample_shards(wc.system)),
        ),
    output:
        table=f"{RESULTS}/samples/{{system}}.parquet",
    log:
        f"{LOGS}/merge_samples/{{system}}.log",
    wildcard_constraints:
        system=of_kinds("language_model", "cdvae"),
    conda:
        "../envs/hullseeker.yaml"
    params:
        schema="samples",
        n_rows=lookup("sampling/n_samples", within=config),
        code=code("merge_shards.py", "samples"),
    script:
        "../workflow_scripts/merge_shards.py"


rule import_samples:
    input:
        lambda wc: cif_files_of(SYSTEM_SETTINGS[wc.system]["path"]),
    output:
        samples=f"{RESULTS}/samples/{{system}}.parquet",
    log:
        f"{LOGS}/import_samples/{{system}}.log",
    benchmark:
        f"{BENCHMARKS}/import_samples/{{system}}.tsv"
    wildcard_constraints:
        system=of_kinds("samples"),
    conda:
        "../envs/hullseeker.yaml"
    params:
        path=lookup("{system}/path", within=SYSTEM_SETTINGS),
        code=code("import_samples.py"),
    script:
        "../workflow_scripts/import_samples.py"
