# The tables and figures of an experiment, and the files of each target.
from hullseeker.report.titles import titles_of_figures, titles_of_tables

TABLES_PER_CROSS_CHECK = {f"table1_{name}": name for name in CROSS_CHECKS}
TABLE_TITLES = titles_of_tables(
    {table: EVALUATOR_LABELS[name] for table, name in TABLES_PER_CROSS_CHECK.items()},
    has_comparison=bool(COMPARED),
    has_cdvae=bool(CDVAE),
)
FIGURE_TITLES = titles_of_figures(has_comparison=bool(COMPARED))
FIGURES = [
    *(name for name in FIGURE_TITLES if name != "training_curves" or SYSTEM_OF_CURVE),
    *(f"figure2_{name}" for name in CROSS_CHECKS),
]


def rendered(table):
    """All files of a table: what is printed, and what it is printed from, made again where it was deleted."""
    return multiext(
        f"{RESULTS}/tables/{table}", ".csv", ".parquet", ".md", ".tex", ".html"
    )


# Printed beside every rate; it has no page of its own.
FORMULA_MATCH = multiext(f"{RESULTS}/tables/formula_match", ".csv", ".parquet")
# Without leaks.csv and refused.csv: what is trained on follows from the rules that write them, and would be made anew.
DATA_CARD = multiext(f"{RESULTS}/data/card", ".md", ".html", ".pdf", ".png")

PRODUCTS = {
    "table1": [
        path
        for table in TABLE_TITLES
        if table in ("table1", "cross_evaluator", *TABLES_PER_CROSS_CHECK)
        for path in rendered(table)
    ],
    "table2": [*rendered("table2"), *FORMULA_MATCH],
    "tables": [
        *(path for table in TABLE_TITLES for path in rendered(table)),
        *FORMULA_MATCH,
        *DATA_CARD,
    ],
    "figures": [
        *expand(
            f"{RESULTS}/figures/{{figure}}.{{kind}}",
            figure=FIGURES,
            kind=["pdf", "png"],
        ),
        *(f"{RESULTS}/figures/{name}.csv" for name in FIGURES if "figure2" in name),
    ],
}


def png_for_report(figure):
    """The picture of a figure, with its caption and title in the report."""
    return report(
        f"{RESULTS}/figures/{figure}.png",
        caption=f"../report/{figure}.rst",
        category="Figures",
        labels={"figure": FIGURE_TITLES[figure]},
    )
