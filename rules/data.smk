# The data set: extraction or import, splits, their check, and the competing phases of the hull.
SOURCE = config["data"]["source"]
CACHE = "results/cache"
SPLIT_FILES = {
    split: config["data"][key]
    for split, key in {
        "all": "materials",
        "train": "train",
        "val": "val",
        "test": "test",
    }.items()
    if config["data"][key]
}
PHASES_FILE = config["data"]["phases"]

if SOURCE == "demo":
    MATERIALS = "resources/demo_materials.parquet"
    PHASES = ["resources/demo_phases.parquet", "resources/elemental_phases.parquet"]
    REFUSED = []
else:
    MATERIALS = f"{RESULTS}/data/extracted/materials.parquet"
    REFUSED = [f"{RESULTS}/data/extracted/materials_refused.parquet"]
    PHASES = []
    if SOURCE == "materials_project" or PHASES_FILE:
        PHASES = [f"{RESULTS}/data/extracted/phases.parquet"]
        REFUSED.append(f"{RESULTS}/data/extracted/phases_refused.parquet")


if SOURCE == "materials_project":

    # They ask a server: there is a network where Snakemake runs, on the nodes of a cluster often not.
    localrules:
        extract_phases,
        extract_materials,

    rule extract_phases:
        output:
            phases=f"{RESULTS}/data/extracted/phases.parquet",
            refused=f"{RESULTS}/data/extracted/phases_refused.parquet",
        log:
            f"{LOGS}/extract_phases.log",
        benchmark:
            f"{BENCHMARKS}/extract_phases.tsv"
        conda:
            "../envs/materials_project.yaml"
        params:
            settings=lookup("data/materials_project", within=config),
            cache_dir=f"{CACHE}/materials_project",
            code=code("extract_phases.py"),
        script:
            "../workflow_scripts/extract_phases.py"

    rule extract_materials:
        input:
            phases=f"{RESULTS}/data/extracted/phases.parquet",
        output:
            materials=f"{RESULTS}/data/extracted/materials.parquet",
            refused=f"{RESULTS}/data/extracted/materials_refused.parquet",
        log:
            f"{LOGS}/extract_materials.log",
        benchmark:
            f"{BENCHMARKS}/extract_materials.tsv"
        conda:
            "../envs/materials_project.yaml"
        params:
            settings=lookup("data/materials_project", within=config),
            max_sites=lookup("data/max_sites", within=config),
            exclude_elements=lookup("data/exclude_elements", within=config),
            cache_dir=f"{CACHE}/materials_project",
            code=code("extract_materials.py"),
        script:
            "../workflow_scripts/extract_materials.py"

elif SOURCE in ("files", "mp20"):

    rule import_materials:
        input:
            list(SPLIT_FILES.values()),
        output:
            materials=f"{RESULTS}/data/extracted/materials.parquet",
            refused=f"{RESULTS}/data/extracted/materials_refused.parquet",
        log:
            f"{LOGS}/import_materials.log",
        benchmark:
            f"{BENCHMARKS}/import_materials.tsv"
        conda:
            "../envs/hullseeker.yaml"
        params:
            sources=SPLIT_FILES,
            code=code("import_materials.py"),
        script:
            "../workflow_scripts/import_materials.py"

    if PHASES_FILE:

        use rule import_materials as import_phases with:
            input:
                PHASES_FILE,
            output:
                materials=f"{RESULTS}/data/extracted/phases.parquet",
                refused=f"{RESULTS}/data/extracted/phases_refused.parquet",
            log:
                f"{LOGS}/import_phases.log",
            benchmark:
                f"{BENCHMARKS}/import_phases.tsv"
            params:
                sources={"all": PHASES_FILE},
                code=code("import_materials.py"),


rule split_materials:
    input:
        materials=ancient(MATERIALS) if SOURCE == "demo" else MATERIALS,
    output:
        materials=f"{RESULTS}/data/split.parquet",
    log:
        f"{LOGS}/split_materials.log",
    benchmark:
        f"{BENCHMARKS}/split_materials.tsv"
    conda:
        "../envs/hullseeker.yaml"
    params:
        settings={
            name: config["data"][name]
            for name in (
                "max_sites",
                "exclude_elements",
                "max_e_above_hull_ev_per_atom",
                "split_by",
                "test_fraction",
            )
        }
        | {
            "validation_fraction": (
                config["data"]["validation_fraction"] if TRAINS else 0.0
            )
        },
        seed=lookup("seed", within=config),
        content=content(MATERIALS) if SOURCE == "demo" else None,
        code=code("split_materials.py"),
    script:
        "../workflow_scripts/split_materials.py"


# What is trained and tested on passes here; a leak ends the run.
rule check_splits:
    input:
        materials=f"{RESULTS}/data/split.parquet",
    output:
        materials=f"{RESULTS}/data/materials.parquet",
        leaks=f"{RESULTS}/data/leaks.csv",
    log:
        f"{LOGS}/check_splits.log",
    benchmark:
        f"{BENCHMARKS}/check_splits.tsv"
    conda:
        "../envs/hullseeker.yaml"
    params:
        settings={"on_leak": config["data"]["on_leak"] if TRAINS else "report"},
        seed=lookup("seed", within=config),
        code=code("check_splits.py"),
    script:
        "../workflow_scripts/check_splits.py"


# Only the phases that the samples' chemical systems need are relaxed, once per evaluator, whatever the experiment.
rule select_phases:
    input:
        materials=f"{RESULTS}/data/materials.parquet",
        phases=ancient(PHASES) if SOURCE == "demo" else PHASES,
        elements=ancient("resources/elemental_phases.parquet"),
        samples=of_systems("samples"),
    output:
        f"{RESULTS}/data/phases_needed.parquet",
    log:
        f"{LOGS}/select_phases.log",
    benchmark:
        f"{BENCHMARKS}/select_phases.tsv"
    conda:
        "../envs/hullseeker.yaml"
    params:
        content=[
            content(path)
            for path in ["resources/elemental_phases.parquet"]
            + (PHASES if SOURCE == "demo" else [])
        ],
        reference=lookup("hull/reference", within=config),
        code=code("select_phases.py"),
    script:
        "../workflow_scripts/select_phases.py"


rule relax_phases:
    input:
        phases=f"{RESULTS}/data/phases_needed.parquet",
    output:
        relaxed=temp(f"{RESULTS}/data/relaxed_phases/{{evaluator}}/{{shard}}.parquet"),
    log:
        f"{LOGS}/relax_phases/{{evaluator}}/{{shard}}.log",
    benchmark:
        f"{BENCHMARKS}/relax_phases/{{evaluator}}/{{shard}}.tsv"
    conda:
        evaluator_env
    params:
        relax=lookup("{evaluator}", within=EVALUATORS),
        n_shards=lookup("hull/n_shards", within=config),
        cache_dir=f"{CACHE}/relaxed_phases",
        weights=evaluator_weights,
        code=lambda wc: [code("relax_phases.py"), *evaluator_code(wc)],
    script:
        "../workflow_scripts/relax_phases.py"


rule build_reference:
    input:
        phases=f"{RESULTS}/data/phases_needed.parquet",
        relaxed=(
            []
            if config["hull"]["reference"] == "mp"
            else expand(
                f"{RESULTS}/data/relaxed_phases/{{{{evaluator}}}}/{{shard}}.parquet",
                shard=range(config["hull"]["n_shards"]),
            )
        ),
    output:
        phases=f"{RESULTS}/data/phases/{{evaluator}}.parquet",
        refused=f"{RESULTS}/data/phases_failed/{{evaluator}}.parquet",
    log:
        f"{LOGS}/build_reference/{{evaluator}}.log",
    benchmark:
        f"{BENCHMARKS}/build_reference/{{evaluator}}.tsv"
    conda:
        "../envs/potentials.yaml"
    params:
        relax=lookup("{evaluator}", within=EVALUATORS),
        reference=lookup("hull/reference", within=config),
        code=code("build_reference.py"),
    script:
        "../workflow_scripts/build_reference.py"
