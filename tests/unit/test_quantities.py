"""The registry of quantities and the tables agree on names."""

from pathlib import Path

import pandas as pd
import pytest

from hullseeker.metrics import distribution, stability
from hullseeker.metrics.comparison import RATES, SHARES
from hullseeker.metrics.quantities import COUNTS, PRINTED, QUANTITIES, column_of

PAPER = Path(__file__).parents[2] / "resources" / "paper_tables.csv"
COLUMNS = {
    "table1": [*stability.ORDER, "n_samples"],
    "table2": [*distribution.COLUMNS, "structure_validity_{choice}"],
    "comparison": [*RATES, *SHARES, *distribution.DIVERSITIES, *distribution.NOVELTIES],
}


@pytest.mark.parametrize("table", COLUMNS)
def test_every_printed_quantity_is_a_column_of_its_table(table):
    assert not {column_of(key) for key in PRINTED[table]} - {*COLUMNS[table]}


def test_every_quantity_is_printed_somewhere_and_registered_once():
    printed = {key for keys in PRINTED.values() for key in keys}
    assert printed == QUANTITIES.keys()
    assert all(len(keys) == len(set(keys)) for keys in PRINTED.values())
    assert not QUANTITIES.keys() & COUNTS.keys()


def test_the_unit_of_a_quantity_is_that_of_its_column():
    units = {"_pct": "%", "_ev_per_atom": "eV/atom", "_ang": "Å"}
    for key, quantity in QUANTITIES.items():
        expected = next((unit for suffix, unit in units.items() if column_of(key).endswith(suffix)), "")
        assert quantity.unit == expected, key


def test_the_papers_columns_are_those_of_its_tables():
    paper = pd.read_csv(PAPER, dtype=str)
    for table, columns in paper.groupby("table")["column"]:
        assert {*columns} <= {QUANTITIES[key].in_paper for key in PRINTED[table]}
