# Relaxation of every sample with every evaluator, in shards.
rule relax_structures:
    input:
        structures=f"{RESULTS}/samples/{{system}}.parquet",
    output:
        relaxed=temp(
            f"{RESULTS}/relaxed/{{evaluator}}/shards/{{system}}/{{shard}}.parquet"
        ),
    log:
        f"{LOGS}/relax_structures/{{evaluator}}/{{system}}-{{shard}}.log",
    benchmark:
        f"{BENCHMARKS}/relax_structures/{{evaluator}}/{{system}}-{{shard}}.tsv"
    conda:
        evaluator_env
    params:
        settings=lookup("{evaluator}", within=EVALUATORS),
        schema="samples",
        weights=evaluator_weights,
        code=lambda wc: [code("relax_structures.py"), *evaluator_code(wc)],
    script:
        "../workflow_scripts/relax_structures.py"


rule merge_relaxed:
    input:
        shards=expand(
            f"{RESULTS}/relaxed/{{{{evaluator}}}}/shards/{{{{system}}}}/{{shard}}.parquet",
            shard=range(config["relax"]["n_shards"]),
        ),
        parent=f"{RESULTS}/samples/{{system}}.parquet",
    output:
        table=f"{RESULTS}/relaxed/{{evaluator}}/{{system}}.parquet",
    log:
        f"{LOGS}/merge_relaxed/{{evaluator}}/{{system}}.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        schema="relaxed",
        code=code("merge_shards.py"),
    script:
        "../workflow_scripts/merge_shards.py"
