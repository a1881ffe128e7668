# The tables and figures of an experiment, and the files that each target consists of.
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
    """Return all files of a table: values and printed forms, so that a target makes deleted ones again."""
    return multiext(
        f"{RESULTS}/tables/{table}", ".csv", ".parquet", ".md", ".tex", ".html"
    )


# Printed within other tables; it has no page of its own.
FORMULA_MATCH = multiext(f"{RESULTS}/tables/formula_match", ".csv", ".parquet")
# Without leaks.csv and refused.csv: if they were deleted, making them again would rerun every training after them.
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
    """Return the PNG of a figure, marked for the report with its caption and title."""
    return report(
        f"{RESULTS}/figures/{figure}.png",
        caption=f"../report/{figure}.rst",
        category="Figures",
        labels={"figure": FIGURE_TITLES[figure]},
    )
