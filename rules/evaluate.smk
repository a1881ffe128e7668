# Evaluate each sample (hull, matches, novelty, fingerprints, reward audit) and make the tables of results.
STATISTICS = {
    "stable_below_ev_per_atom": config["hull"]["stable_below_ev_per_atom"],
    "strict_below_ev_per_atom": config["hull"]["strict_below_ev_per_atom"],
    "n_bootstrap": config["statistics"]["n_bootstrap"],
}


rule compute_hull:
    input:
        samples=f"{RESULTS}/samples/{{system}}.parquet",
        relaxed=f"{RESULTS}/relaxed/{{evaluator}}/{{system}}.parquet",
        phases=f"{RESULTS}/data/phases/{{evaluator}}.parquet",
    output:
        f"{RESULTS}/hull/{{evaluator}}/{{system}}.parquet",
    log:
        f"{LOGS}/compute_hull/{{evaluator}}/{{system}}.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        settings={
            name: config["hull"][name]
            for name in (
                "reference",
                "lowest_formation_energy_ev_per_atom",
                "trusted_down_to_ev_per_atom",
            )
        },
        code=code("compute_hull.py"),
    script:
        "../workflow_scripts/compute_hull.py"


rule match_structures:
    input:
        samples=f"{RESULTS}/samples/{{system}}.parquet",
        relaxed=f"{RESULTS}/relaxed/{{evaluator}}/{{system}}.parquet",
    output:
        f"{RESULTS}/matches/{{evaluator}}/{{system}}.parquet",
    log:
        f"{LOGS}/match_structures/{{evaluator}}/{{system}}.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        code=code("match_structures.py"),
    script:
        "../workflow_scripts/match_structures.py"


rule assess_novelty:
    input:
        samples=f"{RESULTS}/samples/{{system}}.parquet",
        materials=f"{RESULTS}/data/materials.parquet",
    output:
        f"{RESULTS}/novelty/{{system}}.parquet",
    log:
        f"{LOGS}/assess_novelty/{{system}}.log",
    conda:
        "../envs/hullseeker.yaml"
    resources:
        mem_mb=per_attempt(8000),
        runtime=per_attempt(240),
    params:
        code=code("assess_novelty.py"),
    script:
        "../workflow_scripts/assess_novelty.py"


# The reference energies of the audit are the same for all systems, so they are computed once.
rule evaluate_references:
    input:
        samples=of_systems("samples"),
        materials=f"{RESULTS}/data/materials.parquet",
        phases=f"{RESULTS}/data/phases/{EVALUATOR}.parquet",
    output:
        f"{RESULTS}/data/audit_references.parquet",
    log:
        f"{LOGS}/evaluate_references.log",
    conda:
        "../envs/potentials.yaml"
    resources:
        **on_gpu("evaluate_references", cpus_per_task=1, mem_mb=8000, runtime=240),
    params:
        settings={
            "potential": "chgnet",
            "model": None,
            "device": config["grpo"]["reward_device"],
        },
        cache_dir=f"{CACHE}/reward_energies",
        code=code("evaluate_references.py"),
    script:
        "../workflow_scripts/evaluate_references.py"


rule audit_rewards:
    input:
        samples=f"{RESULTS}/samples/{{system}}.parquet",
        relaxed=f"{RESULTS}/relaxed/{EVALUATOR}/{{system}}.parquet",
        hull=f"{RESULTS}/hull/{EVALUATOR}/{{system}}.parquet",
        references=f"{RESULTS}/data/audit_references.parquet",
        phases=f"{RESULTS}/data/phases/{EVALUATOR}.parquet",
    output:
        f"{RESULTS}/audit/{{system}}.parquet",
    log:
        f"{LOGS}/audit_rewards/{{system}}.log",
    conda:
        "../envs/potentials.yaml"
    resources:
        **on_gpu("audit_rewards", cpus_per_task=1, mem_mb=8000, runtime=240),
    params:
        settings={
            "device": config["grpo"]["reward_device"],
            "reference": config["hull"]["reference"],
        },
        code=code("audit_rewards.py"),
    script:
        "../workflow_scripts/audit_rewards.py"


rule featurize_samples:
    input:
        structures=f"{RESULTS}/samples/{{system}}.parquet",
    output:
        f"{RESULTS}/fingerprints/{{system}}.parquet",
    log:
        f"{LOGS}/featurize_samples/{{system}}.log",
    conda:
        "../envs/fingerprints.yaml"
    resources:
        mem_mb=per_attempt(8000),
        runtime=per_attempt(480),
    params:
        settings={"time_limit_s": config["table2"]["fingerprint_time_limit_s"]},
        schema="samples",
        cache_dir=f"{CACHE}/fingerprints",
        code=code("featurize_structures.py", "samples"),
    script:
        "../workflow_scripts/featurize_structures.py"


use rule featurize_samples as featurize_split with:
    input:
        structures=f"{RESULTS}/data/materials.parquet",
    output:
        f"{RESULTS}/data/fingerprints/{{split}}.parquet",
    log:
        f"{LOGS}/featurize_split/{{split}}.log",
    wildcard_constraints:
        split="train|test",
    resources:
        mem_mb=per_attempt(8000),
        runtime=per_attempt(1440),
    params:
        schema="materials",
        split="{split}",
        code=code("featurize_structures.py", "materials"),


# Separate from Table 1, so that tables without relaxations can print the share of prompted formulas too.
rule make_formula_match:
    input:
        samples=of_systems("samples"),
    output:
        csv=f"{RESULTS}/tables/formula_match.csv",
        parquet=f"{RESULTS}/tables/formula_match.parquet",
    log:
        f"{LOGS}/make_formula_match.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        systems=SYSTEM_LABELS,
        settings=lookup("statistics", within=config),
        seed=lookup("seed", within=config),
        code=code("make_formula_match.py"),
    script:
        "../workflow_scripts/make_formula_match.py"


rule make_table1:
    input:
        samples=of_systems("samples"),
        relaxed=of_systems(f"relaxed/{EVALUATOR}"),
        hull=of_systems(f"hull/{EVALUATOR}"),
        matches=of_systems(f"matches/{EVALUATOR}"),
    output:
        csv=f"{RESULTS}/tables/table1.csv",
        parquet=f"{RESULTS}/tables/table1.parquet",
    log:
        f"{LOGS}/make_table1.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        systems=SYSTEM_LABELS,
        settings=STATISTICS,
        seed=lookup("seed", within=config),
        code=code("make_table1.py"),
    script:
        "../workflow_scripts/make_table1.py"


if CROSS_CHECKS:

    use rule make_table1 as make_table1_cross_check with:
        input:
            samples=of_systems("samples"),
            relaxed=of_systems("relaxed/{evaluator}"),
            hull=of_systems("hull/{evaluator}"),
            matches=of_systems("matches/{evaluator}"),
        output:
            csv=f"{RESULTS}/tables/table1_{{evaluator}}.csv",
            parquet=f"{RESULTS}/tables/table1_{{evaluator}}.parquet",
        log:
            f"{LOGS}/make_table1_cross_check/{{evaluator}}.log",
        wildcard_constraints:
            evaluator="|".join(CROSS_CHECKS),

    rule make_cross_evaluator_table:
        input:
            samples=of_systems("samples"),
            hull=of_evaluators_and_systems("hull"),
        output:
            csv=f"{RESULTS}/tables/cross_evaluator.csv",
            parquet=f"{RESULTS}/tables/cross_evaluator.parquet",
        log:
            f"{LOGS}/make_cross_evaluator_table.log",
        conda:
            "../envs/hullseeker.yaml"
        params:
            systems=SYSTEM_LABELS,
            evaluators=list(EVALUATORS),
            settings=STATISTICS,
            seed=lookup("seed", within=config),
            code=code("make_cross_evaluator_table.py"),
        script:
            "../workflow_scripts/make_cross_evaluator_table.py"


rule make_table2:
    input:
        samples=of_systems("samples"),
        fingerprints=of_systems("fingerprints"),
        train=f"{RESULTS}/data/fingerprints/train.parquet",
        test=f"{RESULTS}/data/fingerprints/test.parquet",
        scaler=ancient("resources/mp20_magpie_scaler.json"),
    output:
        csv=f"{RESULTS}/tables/table2.csv",
        parquet=f"{RESULTS}/tables/table2.parquet",
    log:
        f"{LOGS}/make_table2.log",
    conda:
        "../envs/fingerprints.yaml"
    resources:
        mem_mb=per_attempt(32000),
        runtime=per_attempt(240),
    params:
        systems=SYSTEM_LABELS,
        settings={**config["table2"], **config["statistics"]},
        seed=lookup("seed", within=config),
        code=code("make_table2.py"),
    script:
        "../workflow_scripts/make_table2.py"


rule make_sun:
    input:
        samples=of_systems("samples"),
        hull=of_systems(f"hull/{EVALUATOR}"),
        novelty=of_systems("novelty"),
    output:
        csv=f"{RESULTS}/tables/sun.csv",
        parquet=f"{RESULTS}/tables/sun.parquet",
    log:
        f"{LOGS}/make_sun.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        systems=SYSTEM_LABELS,
        settings=STATISTICS,
        seed=lookup("seed", within=config),
        code=code("make_sun.py"),
    script:
        "../workflow_scripts/make_sun.py"


if COMPARED:

    rule make_comparison:
        input:
            samples=of_compared("samples"),
            relaxed=of_compared(f"relaxed/{EVALUATOR}"),
            hull=of_compared(f"hull/{EVALUATOR}"),
            matches=of_compared(f"matches/{EVALUATOR}"),
            novelty=of_compared("novelty"),
            fingerprints=of_compared("fingerprints"),
            train=f"{RESULTS}/data/fingerprints/train.parquet",
            test=f"{RESULTS}/data/fingerprints/test.parquet",
            scaler=ancient("resources/mp20_magpie_scaler.json"),
        output:
            csv=f"{RESULTS}/tables/comparison.csv",
            parquet=f"{RESULTS}/tables/comparison.parquet",
        log:
            f"{LOGS}/make_comparison.log",
        conda:
            "../envs/fingerprints.yaml"
        params:
            members=COMPARED,
            baseline=BASELINE,
            systems=SYSTEM_LABELS,
            settings={**config["table2"], **STATISTICS},
            seed=lookup("seed", within=config),
            code=code("make_comparison.py"),
        script:
            "../workflow_scripts/make_comparison.py"


rule make_audit_table:
    input:
        samples=of_systems("samples"),
        audit=of_systems("audit"),
    output:
        csv=f"{RESULTS}/tables/audit.csv",
        parquet=f"{RESULTS}/tables/audit.parquet",
    log:
        f"{LOGS}/make_audit_table.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        systems=SYSTEM_LABELS,
        before_rl=BEFORE_RL,
        settings=STATISTICS,
        seed=lookup("seed", within=config),
        code=code("make_audit_table.py"),
    script:
        "../workflow_scripts/make_audit_table.py"


rule make_ledger:
    input:
        samples=of_systems("samples"),
        relaxed=of_evaluators_and_systems("relaxed"),
        hull=of_evaluators_and_systems("hull"),
        matches=of_evaluators_and_systems("matches"),
        novelty=of_systems("novelty"),
        fingerprints=of_systems("fingerprints"),
    output:
        csv=f"{RESULTS}/tables/failure_ledger.csv",
        parquet=f"{RESULTS}/tables/failure_ledger.parquet",
    log:
        f"{LOGS}/make_ledger.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        systems=SYSTEM_LABELS,
        evaluators=list(EVALUATORS),
        code=code("make_ledger.py"),
    script:
        "../workflow_scripts/make_ledger.py"
