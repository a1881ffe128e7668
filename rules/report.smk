# Tables and figures for people.
HULL_PHASES = {
    "evaluator": "competing phases with energies of the evaluator itself",
    "mp": "the Materials Project's corrected energies; uncorrected ones of the evaluator got the MP2020 corrections",
}
ABOUT_CDVAE = (
    [
        f"{config['systems'][CDVAE]['label']}: our own implementation; its decoder is built after PaiNN and stands in for "
        "the original's GemNet-T. It draws without a prompt."
    ]
    if CDVAE
    else []
)
FOOTNOTES = {
    **{
        table: [
            f"Evaluator: {EVALUATOR_LABELS[evaluator]}. "
            f"Stable: E_hull below {config['hull']['stable_below_ev_per_atom']:g} eV/atom "
            f"on the hull of {HULL_PHASES[config['hull']['reference']]}.",
            "Of relaxed: samples whose relaxation converged. Of all: every sample drawn, whatever became of it.",
            *ABOUT_CDVAE,
        ]
        for table, evaluator in {"table1": EVALUATOR, **TABLES_PER_CROSS_CHECK}.items()
    },
    "cross_evaluator": [
        f"Of all samples drawn: without a verdict of an evaluator (failed, not converged, no reference) a sample is "
        "not stable under it. "
        f"Stable: E_hull below {config['hull']['stable_below_ev_per_atom']:g} eV/atom "
        f"on the hull of {HULL_PHASES[config['hull']['reference']]}.",
        "ρ and the difference: over samples with an E_hull of both.",
    ],
    "table2": [
        f"On raw samples, of all drawn. Structure validity: the {config['table2']['structure_validity']} definition. "
        "Composition validity: smact with oxidation states smact14. Composition fingerprints scaled by "
        f"{config['table2']['composition_scaler']}.",
        *ABOUT_CDVAE,
    ],
    "reconstruction": [
        "Test crystals encoded to the mean of z and decoded with their number of atoms, of all in the test set. "
        "A match: StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10). In the paper: Xie et al. 2021 on MP-20.",
        *ABOUT_CDVAE,
    ],
    "sun": [
        f"Of all samples drawn. Stable: E_hull below {config['hull']['stable_below_ev_per_atom']:g} eV/atom; "
        "on the hull: at most 0."
    ],
    "audit": [
        f"CHGNet on generated structures as they stand, against {EVALUATOR_LABELS[EVALUATOR]}; "
        "each on its own elemental phases.",
        *(
            f"Before RL: {config['systems'][start]['label']}, for {config['systems'][name]['label']}."
            for name, start in BEFORE_RL.items()
        ),
    ],
}


# The share that obeys the formula stands beside every rate, so these tables also print it.
WITH_FORMULA_MATCH = ("table2", "sun", "audit", "cross_evaluator")
# What titles, captions and headings say of the evaluators.
PARAMS_OF_EVALUATORS = {
    "table1": {"evaluator": EVALUATOR_LABELS[EVALUATOR]},
    "cross_evaluator": {"evaluators": EVALUATOR_LABELS},
    **{
        table: {"evaluator": EVALUATOR_LABELS[name], "title": TABLE_TITLES[table]}
        for table, name in TABLES_PER_CROSS_CHECK.items()
    },
}

for table in TABLES:
    # It has lines of its own: values by seed, differences, ratios.
    if table == "comparison":
        continue
    kind = "table1" if table in TABLES_PER_CROSS_CHECK else table

    rule:
        name:
            f"render_{table}"
        input:
            **{kind: f"{RESULTS}/tables/{table}.csv"},
            **(
                {"formula_match": f"{RESULTS}/tables/formula_match.csv"}
                if table in WITH_FORMULA_MATCH
                else {}
            ),
            paper_tables=ancient("resources/paper_tables.csv"),
        output:
            md=f"{RESULTS}/tables/{table}.md",
            tex=f"{RESULTS}/tables/{table}.tex",
            html=report(
                f"{RESULTS}/tables/{table}.html",
                caption=f"../report/{kind}.rst",
                category="Tables",
                labels={"table": TABLE_TITLES[table]},
            ),
        log:
            f"{LOGS}/render_tables/{table}.log",
        # What further evaluators are called, no profile can know.
        group:
            "tables" if table in TABLES_PER_CROSS_CHECK else None
        conda:
            "../envs/hullseeker.yaml"
        params:
            **PARAMS_OF_EVALUATORS.get(table, {}),
            table=kind,
            footnotes={kind: FOOTNOTES.get(table, [])},
            structure_validity=lookup("table2/structure_validity", within=config),
            code=code("render_tables.py"),
        script:
            "../workflow_scripts/render_tables.py"


if COMPARED:

    rule render_comparison:
        input:
            comparison=f"{RESULTS}/tables/comparison.csv",
        output:
            md=f"{RESULTS}/tables/comparison.md",
            tex=f"{RESULTS}/tables/comparison.tex",
            html=report(
                f"{RESULTS}/tables/comparison.html",
                caption="../report/comparison.rst",
                category="Tables",
                labels={"table": TABLE_TITLES["comparison"]},
            ),
        log:
            f"{LOGS}/render_comparison.log",
        conda:
            "../envs/hullseeker.yaml"
        params:
            baseline=BASELINE,
            n_replicates=lookup("replicates", within=config),
            footnotes=[
                "Brackets: 95% intervals over prompts and replicates. "
                f"Replicates, a training seed each: {config['replicates']}.",
                f"Evaluator: {EVALUATOR_LABELS[EVALUATOR]}.",
            ],
            code=code("render_comparison.py"),
        script:
            "../workflow_scripts/render_comparison.py"

    rule plot_comparison:
        input:
            comparison=f"{RESULTS}/tables/comparison.csv",
        output:
            pdf=f"{RESULTS}/figures/comparison.pdf",
            png=png_for_report("comparison"),
        log:
            f"{LOGS}/plot_comparison.log",
        conda:
            "../envs/hullseeker.yaml"
        params:
            systems=SYSTEM_LABELS,
            baseline=BASELINE,
            n_replicates=lookup("replicates", within=config),
            code=code("plot_comparison.py"),
        script:
            "../workflow_scripts/plot_comparison.py"


rule plot_figure1:
    input:
        samples=of_systems("samples"),
        relaxed=of_systems(f"relaxed/{EVALUATOR}"),
        hull=of_systems(f"hull/{EVALUATOR}"),
        matches=of_systems(f"matches/{EVALUATOR}"),
    output:
        pdf=f"{RESULTS}/figures/figure1.pdf",
        png=png_for_report("figure1"),
    log:
        f"{LOGS}/plot_figure1.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        figure="figure1",
        systems=SYSTEM_LABELS,
        settings={"n_rows": config["figures"]["n_crystals"]},
        seed=lookup("seed", within=config),
        code=code("plot_crystals.py"),
    script:
        "../workflow_scripts/plot_crystals.py"


use rule plot_figure1 as plot_figure3 with:
    output:
        pdf=f"{RESULTS}/figures/figure3.pdf",
        png=png_for_report("figure3"),
    log:
        f"{LOGS}/plot_figure3.log",
    params:
        figure="figure3",
        systems=SYSTEM_LABELS,
        settings={"n_rows": config["figures"]["n_crystals"]},
        seed=lookup("seed", within=config),
        code=code("plot_crystals.py"),


rule plot_hull_distribution:
    input:
        hull=of_systems(f"hull/{EVALUATOR}"),
    output:
        pdf=f"{RESULTS}/figures/figure2.pdf",
        png=png_for_report("figure2"),
        csv=f"{RESULTS}/figures/figure2.csv",
    log:
        f"{LOGS}/plot_hull_distribution.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        systems=SYSTEM_LABELS,
        settings=STATISTICS,
        evaluator=EVALUATOR_LABELS[EVALUATOR],
        seed=lookup("seed", within=config),
        code=code("plot_hull_distribution.py"),
    script:
        "../workflow_scripts/plot_hull_distribution.py"


if CROSS_CHECKS:

    use rule plot_hull_distribution as plot_hull_distribution_cross_check with:
        input:
            hull=of_systems("hull/{evaluator}"),
        output:
            pdf=f"{RESULTS}/figures/figure2_{{evaluator}}.pdf",
            png=report(
                f"{RESULTS}/figures/figure2_{{evaluator}}.png",
                caption="../report/figure2.rst",
                category="Figures",
                labels={"figure": "Figure 2 under {evaluator}: energy above hull"},
            ),
            csv=f"{RESULTS}/figures/figure2_{{evaluator}}.csv",
        log:
            f"{LOGS}/plot_hull_distribution_cross_check/{{evaluator}}.log",
        wildcard_constraints:
            evaluator="|".join(CROSS_CHECKS),
        params:
            systems=SYSTEM_LABELS,
            settings=STATISTICS,
            evaluator=lookup("{evaluator}", within=EVALUATOR_LABELS),
            title=lambda wc: f"Evaluator: {EVALUATOR_LABELS[wc.evaluator]}",
            seed=lookup("seed", within=config),
            code=code("plot_hull_distribution.py"),


rule plot_training_curves:
    input:
        curves=expand(f"{RESULTS}/curves/{{curve}}.parquet", curve=SYSTEM_OF_CURVE),
    output:
        pdf=f"{RESULTS}/figures/training_curves.pdf",
        png=png_for_report("training_curves"),
    log:
        f"{LOGS}/plot_training_curves.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        curves=[
            {
                "key": key,
                "label": config["systems"][system]["label"],
                "position": SYSTEMS.index(system),
            }
            for key, system in SYSTEM_OF_CURVE.items()
        ],
        code=code("plot_training_curves.py"),
    script:
        "../workflow_scripts/plot_training_curves.py"


rule plot_reward_audit:
    input:
        audit=of_systems("audit"),
    output:
        pdf=f"{RESULTS}/figures/reward_audit.pdf",
        png=png_for_report("reward_audit"),
    log:
        f"{LOGS}/plot_reward_audit.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        systems=SYSTEM_LABELS,
        before_rl=BEFORE_RL,
        settings=STATISTICS,
        code=code("plot_reward_audit.py"),
    script:
        "../workflow_scripts/plot_reward_audit.py"


rule make_data_card:
    input:
        materials=f"{RESULTS}/data/materials.parquet",
        extracted=ancient(MATERIALS) if SOURCE == "demo" else MATERIALS,
        leaks=f"{RESULTS}/data/leaks.csv",
        refused=REFUSED,
        phases=ancient(PHASES) if SOURCE == "demo" else PHASES,
    output:
        md=f"{RESULTS}/data/card.md",
        html=report(
            f"{RESULTS}/data/card.html",
            caption="../report/data_card.rst",
            category="Data",
            labels={"data": "Data card"},
        ),
        pdf=f"{RESULTS}/data/card.pdf",
        png=report(
            f"{RESULTS}/data/card.png",
            caption="../report/data_card_figure.rst",
            category="Data",
            labels={"data": "Cells, elements, energies"},
        ),
    log:
        f"{LOGS}/make_data_card.log",
    conda:
        "../envs/hullseeker.yaml"
    params:
        source=SOURCE,
        data=lookup("data", within=config),
        experiment=config["experiment"],
        code=code("make_data_card.py"),
    script:
        "../workflow_scripts/make_data_card.py"
