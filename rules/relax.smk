# Relax every sample with every evaluator, in shards.
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
    resources:
        **on_gpu("relax_structures", cpus_per_task=1, mem_mb=8000, runtime=240),
    params:
        settings=lookup("{evaluator}", within=EVALUATORS),
        n_shards=lambda wc: n_relax_shards(wc),
        schema="samples",
        weights=evaluator_weights,
        seed=lookup("seed", within=config),
        code=lambda wc: [code("relax_structures.py", "samples"), *evaluator_code(wc)],
    script:
        "../workflow_scripts/relax_structures.py"


rule merge_relaxed:
    input:
        shards=lambda wc: expand(
            f"{RESULTS}/relaxed/{wc.evaluator}/shards/{wc.system}/{{shard}}.parquet",
            shard=range(n_relax_shards(wc)),
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
        code=code("merge_shards.py", "relaxed"),
    script:
        "../workflow_scripts/merge_shards.py"
