# The data set: splits by reduced formula, and the competing phases of the hull.
EMBEDDED = config["data"]["source"] == "demo"
MATERIALS = (
    "resources/demo_materials.parquet" if EMBEDDED else config["data"]["materials"]
)
PHASES = (
    ["resources/demo_phases.parquet", "resources/elemental_phases.parquet"]
    if EMBEDDED
    else [path for path in [config["hull"]["competing_phases"]] if path]
)


rule split_materials:
    input:
        materials=ancient(MATERIALS),
    output:
        materials=f"{RESULTS}/data/materials.parquet",
    log:
        f"{LOGS}/split_materials.log",
    benchmark:
        f"{BENCHMARKS}/split_materials.tsv"
    conda:
        "../envs/hullseeker.yaml"
    params:
        settings=lookup("data", within=config),
        seed=lookup("seed", within=config),
        content=content(MATERIALS),
        code=code("split_materials.py"),
    script:
        "../workflow_scripts/split_materials.py"


rule build_reference:
    input:
        materials=f"{RESULTS}/data/materials.parquet",
        phases=ancient(PHASES),
    output:
        phases=f"{RESULTS}/data/phases.parquet",
    log:
        f"{LOGS}/build_reference.log",
    benchmark:
        f"{BENCHMARKS}/build_reference.tsv"
    conda:
        "../envs/hullseeker.yaml"
    params:
        relax=lookup("relax", within=config),
        content=[content(path) for path in PHASES],
        code=code("build_reference.py"),
    script:
        "../workflow_scripts/build_reference.py"
