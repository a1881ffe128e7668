# Download data, base model and evaluators' weights where there is a network, and pack them into one file.
from hullseeker.language_model.hub_models import folder_in_cache

PREFETCHED = f"{CACHE}/prefetched"
# The base model's name on the hub; None where it is a local folder or not needed.
HUB_MODEL = (
    BASE_MODEL
    if SYSTEMS_OF_KIND["language_model"] and not Path(BASE_MODEL).is_dir()
    else None
)
FETCHED_MODEL = [f"{PREFETCHED}/{folder_in_cache(HUB_MODEL)}.json"] if HUB_MODEL else []
EXTRACTED = [] if SOURCE == "demo" else [MATERIALS, *PHASES, *REFUSED]


if HUB_MODEL:

    rule fetch_base_model:
        output:
            FETCHED_MODEL,
        log:
            f"{LOGS}/fetch_base_model.log",
        localrule: True
        conda:
            "../envs/language_model.yaml"
        params:
            model=HUB_MODEL,
            code=code("fetch_base_model.py"),
        script:
            "../workflow_scripts/fetch_base_model.py"


# Load an evaluator once, on the CPU: this downloads missing weights, and shows that they load.
rule fetch_evaluator:
    output:
        f"{PREFETCHED}/evaluator-{{evaluator}}.json",
    log:
        f"{LOGS}/fetch_evaluator/{{evaluator}}.log",
    localrule: True
    conda:
        evaluator_env
    params:
        settings=lookup("{evaluator}", within=EVALUATORS),
        weights=evaluator_weights,
        code=lambda wc: [code("fetch_evaluator.py"), *evaluator_code(wc)],
    script:
        "../workflow_scripts/fetch_evaluator.py"


TO_PREFETCH = [
    *EXTRACTED,
    *FETCHED_MODEL,
    *expand(f"{PREFETCHED}/evaluator-{{evaluator}}.json", evaluator=EVALUATORS),
]
BUNDLE = f"results/bundles/{config['experiment']}.tar"


rule prefetch:
    input:
        TO_PREFETCH,
    localrule: True


rule pack_bundle:
    input:
        TO_PREFETCH,
    output:
        BUNDLE,
    log:
        f"{LOGS}/pack_bundle.log",
    localrule: True
    conda:
        "../envs/hullseeker.yaml"
    params:
        experiment=config["experiment"],
        overlays=list(map(str, workflow.config_settings.configfiles or [])),
        named=[
            path
            for path in (
                *(
                    config["data"][key]
                    for key in ("materials", "train", "val", "test")
                ),
                PHASES_FILE,
                config["prompt"]["path"],
                None if HUB_MODEL else BASE_MODEL,
                *(system.get("path") for system in SYSTEM_SETTINGS.values()),
                *(settings["model"] for settings in EVALUATORS.values()),
                *map(str, OVERLAYS),
            )
            if path and Path(path).exists()
        ],
        hub_model=HUB_MODEL,
        evaluators=list(EVALUATORS.values()),
        code=code("pack_bundle.py"),
    script:
        "../workflow_scripts/pack_bundle.py"


rule bundle:
    input:
        BUNDLE,
    localrule: True
