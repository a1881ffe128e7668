# The data set: extract or import it, split it, check the splits, and relax the competing phases of the hull.
from hullseeker.workflow.configuration import EMBEDDED_PHASES

SOURCE = config["data"]["source"]
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
# Embedded phases, added to those of the user's files; their ids get a prefix.
EMBEDDED = []
if PHASES_FILE == EMBEDDED_PHASES:
    PHASES_FILE = None
    EMBEDDED = [
        f"resources/{name}.parquet"
        for name in ("demo_materials", "demo_phases", "elemental_phases")
    ]

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

    # These rules download: the nodes of a cluster often have no network, unlike the machine that runs Snakemake.
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
    resources:
        mem_mb=per_attempt(16000),
        runtime=per_attempt(60),
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


# Stop the run before any training where too large a share of the data set cannot be read. The params are functions of
# the input, of which Snakemake keeps no record, so that a changed limit does not rerun the check and all that follows.
# checked_before in checks.smk compares earlier results with the present limit before the first job. Marking the output
# as ancient() would not do: Snakemake then leaves out missing files behind it when the check runs again.
CHECKED_REFUSALS = [f"{RESULTS}/data/refused.csv"] if REFUSED and TRAINS else []
if CHECKED_REFUSALS:

    rule check_refused:
        input:
            read=[MATERIALS, *PHASES],
            refused=REFUSED,
        output:
            csv=CHECKED_REFUSALS[0],
        log:
            f"{LOGS}/check_refused.log",
        conda:
            "../envs/hullseeker.yaml"
        params:
            source=lambda wc, input: SOURCE,
            max_refused_share=lambda wc, input: config["data"]["max_refused_share"],
        script:
            "../workflow_scripts/check_refused.py"


# All training and test data pass this check; with data.on_leak: fail, a leak between splits stops the run.
rule check_splits:
    input:
        materials=f"{RESULTS}/data/split.parquet",
        refused=CHECKED_REFUSALS,
    output:
        materials=f"{RESULTS}/data/materials.parquet",
        leaks=f"{RESULTS}/data/leaks.csv",
    log:
        f"{LOGS}/check_splits.log",
    benchmark:
        f"{BENCHMARKS}/check_splits.tsv"
    conda:
        "../envs/hullseeker.yaml"
    resources:
        mem_mb=per_attempt(16000),
        runtime=per_attempt(240),
    params:
        settings={"on_leak": config["data"]["on_leak"] if TRAINS else "report"},
        seed=lookup("seed", within=config),
        code=code("check_splits.py"),
    script:
        "../workflow_scripts/check_splits.py"


# Only phases within the samples' chemical systems are relaxed, once per evaluator; all experiments share the cache.
rule select_phases:
    input:
        materials=f"{RESULTS}/data/materials.parquet",
        phases=ancient(PHASES) if SOURCE == "demo" else PHASES,
        embedded=ancient(EMBEDDED),
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
    resources:
        mem_mb=per_attempt(16000),
        runtime=per_attempt(60),
    params:
        content=[
            content(path)
            for path in ["resources/elemental_phases.parquet"]
            + (PHASES if SOURCE == "demo" else EMBEDDED)
        ],
        reference=lookup("hull/reference", within=config),
        code=code("select_phases.py"),
    script:
        "../workflow_scripts/select_phases.py"


# Read the table of phases and the cache of relaxations once, and distribute the phases left to relax over jobs.
checkpoint plan_phase_relaxations:
    input:
        phases=f"{RESULTS}/data/phases_needed.parquet",
    output:
        plan=f"{RESULTS}/data/phases_planned/{{evaluator}}/plan.json",
        to_relax=f"{RESULTS}/data/phases_planned/{{evaluator}}/to_relax.parquet",
        known=f"{RESULTS}/data/phases_planned/{{evaluator}}/known.parquet",
    log:
        f"{LOGS}/plan_phase_relaxations/{{evaluator}}.log",
    benchmark:
        f"{BENCHMARKS}/plan_phase_relaxations/{{evaluator}}.tsv"
    conda:
        evaluator_env
    resources:
        mem_mb=per_attempt(16000),
        runtime=per_attempt(60),
    params:
        relax=lookup("{evaluator}", within=EVALUATORS),
        n_shards=lookup("hull/n_shards", within=config),
        phases_per_job=lookup("hull/phases_per_job", within=config),
        cache_dir=f"{CACHE}/relaxed_phases",
        weights=evaluator_weights,
        seed=lookup("seed", within=config),
        code=lambda wc: [code("plan_phase_relaxations.py"), *evaluator_code(wc)],
    script:
        "../workflow_scripts/plan_phase_relaxations.py"


rule relax_phases:
    input:
        to_relax=f"{RESULTS}/data/phases_planned/{{evaluator}}/to_relax.parquet",
    output:
        relaxed=temp(f"{RESULTS}/data/relaxed_phases/{{evaluator}}/{{shard}}.parquet"),
    log:
        f"{LOGS}/relax_phases/{{evaluator}}/{{shard}}.log",
    benchmark:
        f"{BENCHMARKS}/relax_phases/{{evaluator}}/{{shard}}.tsv"
    conda:
        evaluator_env
    resources:
        **on_gpu("relax_phases", cpus_per_task=1, mem_mb=8000, runtime=720),
    params:
        relax=lookup("{evaluator}", within=EVALUATORS),
        cache_dir=f"{CACHE}/relaxed_phases",
        weights=evaluator_weights,
        seed=lookup("seed", within=config),
        code=lambda wc: [code("relax_phases.py"), *evaluator_code(wc)],
    script:
        "../workflow_scripts/relax_phases.py"


rule build_reference:
    input:
        phases=f"{RESULTS}/data/phases_needed.parquet",
        relaxed=relaxed_phases,
    output:
        phases=f"{RESULTS}/data/phases/{{evaluator}}.parquet",
        refused=f"{RESULTS}/data/phases_failed/{{evaluator}}.parquet",
    log:
        f"{LOGS}/build_reference/{{evaluator}}.log",
    benchmark:
        f"{BENCHMARKS}/build_reference/{{evaluator}}.tsv"
    conda:
        "../envs/hullseeker.yaml"
    resources:
        mem_mb=per_attempt(16000),
        runtime=per_attempt(60),
    params:
        relax=lookup("{evaluator}", within=EVALUATORS),
        reference=lookup("hull/reference", within=config),
        code=code("build_reference.py"),
    script:
        "../workflow_scripts/build_reference.py"
