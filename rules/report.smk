# Tables, figures and the data card, formatted for reading.
from hullseeker.report.titles import (
    TITLE_OF_DATA_CARD,
    TITLE_OF_DATA_CARD_FIGURE,
    TITLE_OF_FIGURE2_BY_EVALUATOR,
    footnotes,
    lowest_trusted,
    title_of_evaluator,
)

TRUSTED_DOWN_TO = lowest_trusted(config["hull"]["trusted_down_to_ev_per_atom"])
# The row of the paper's tables that is printed beside each system, by system.
PAPER_ROWS = {
    name: system["paper_row"]
    for name, system in SYSTEM_SETTINGS.items()
    if "paper_row" in system
}
FOOTNOTES = footnotes(
    config,
    {
        "table1": EVALUATOR_LABELS[EVALUATOR],
        **{
            table: EVALUATOR_LABELS[name]
            for table, name in TABLES_PER_CROSS_CHECK.items()
        },
    },
    cdvae_label=SYSTEM_SETTINGS[CDVAE]["label"] if CDVAE else None,
    cdvae_has_paper_row=CDVAE in PAPER_ROWS,
    before_rl=[
        (SYSTEM_SETTINGS[name]["label"], SYSTEM_SETTINGS[start]["label"])
        for name, start in BEFORE_RL.items()
    ],
)


# Tables that also print the share of samples with the prompted formula, which Table 1 already has.
WITH_FORMULA_MATCH = ("table2", "sun", "audit", "cross_evaluator")
# Names of evaluators for titles, captions and headings, by table.
PARAMS_OF_EVALUATORS = {
    "table1": {"evaluator": EVALUATOR_LABELS[EVALUATOR]},
    "cross_evaluator": {"evaluators": EVALUATOR_LABELS},
    **{
        table: {"evaluator": EVALUATOR_LABELS[name], "title": TABLE_TITLES[table]}
        for table, name in TABLES_PER_CROSS_CHECK.items()
    },
}

for table in TABLE_TITLES:
    # rule render_comparison renders this table: its lines are values by seed, differences and ratios.
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
            f"{LOGS}/render_{table}.log",
        # Grouped here, since a profile cannot name these rules: their names depend on the config's evaluators.
        group:
            "tables" if table in TABLES_PER_CROSS_CHECK else None
        conda:
            "../envs/hullseeker.yaml"
        params:
            **PARAMS_OF_EVALUATORS.get(table, {}),
            table=kind,
            footnotes={kind: FOOTNOTES.get(table, [])},
            trusted_down_to=TRUSTED_DOWN_TO,
            structure_validity=lookup("table2/structure_validity", within=config),
            paper_rows=PAPER_ROWS,
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
            footnotes=FOOTNOTES["comparison"],
            trusted_down_to=TRUSTED_DOWN_TO,
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
                labels={"figure": TITLE_OF_FIGURE2_BY_EVALUATOR},
            ),
            csv=f"{RESULTS}/figures/figure2_{{evaluator}}.csv",
        log:
            f"{LOGS}/plot_hull_distribution_cross_check/{{evaluator}}.log",
        wildcard_constraints:
            evaluator="|".join(CROSS_CHECKS),
        params:
            evaluator=lookup("{evaluator}", within=EVALUATOR_LABELS),
            title=lambda wc: title_of_evaluator(EVALUATOR_LABELS[wc.evaluator]),


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
                "label": SYSTEM_SETTINGS[system]["label"],
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
        embedded=ancient(EMBEDDED),
    output:
        md=f"{RESULTS}/data/card.md",
        html=report(
            f"{RESULTS}/data/card.html",
            caption="../report/data_card.rst",
            category="Data",
            labels={"data": TITLE_OF_DATA_CARD},
        ),
        pdf=f"{RESULTS}/data/card.pdf",
        png=report(
            f"{RESULTS}/data/card.png",
            caption="../report/data_card_figure.rst",
            category="Data",
            labels={"data": TITLE_OF_DATA_CARD_FIGURE},
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
