# Relaxation of every sample with the evaluator, in shards.
rule relax_structures:
    input:
        structures=f"{RESULTS}/samples/{{system}}.parquet",
    output:
        relaxed=temp(f"{RESULTS}/relaxed/shards/{{system}}/{{shard}}.parquet"),
    log:
        f"{LOGS}/relax_structures/{{system}}-{{shard}}.log",
    benchmark:
        f"{BENCHMARKS}/relax_structures/{{system}}-{{shard}}.tsv"
    conda:
        EVALUATOR_ENV
    params:
        settings=lookup("relax", within=config),
        schema="samples",
        weights=lambda wc: evaluator_weights(),
        code=[code("relax_structures.py"), *EVALUATOR_CODE],
    script:
        "../workflow_scripts/relax_structures.py"


rule merge_relaxed:
    input:
        shards=expand(
            f"{RESULTS}/relaxed/shards/{{{{system}}}}/{{shard}}.parquet",
            shard=range(config["relax"]["n_shards"]),
        ),
        parent=f"{RESULTS}/samples/{{system}}.parquet",
    output:
        table=f"{RESULTS}/relaxed/{{system}}.parquet",
    log:
        f"{LOGS}/merge_relaxed/{{system}}.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        schema="relaxed",
        code=code("merge_shards.py"),
    script:
        "../workflow_scripts/merge_shards.py"
