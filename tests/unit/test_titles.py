"""Titles and footnotes say what the config has them say, and nothing of what an experiment does not have."""

from hullseeker.report.titles import footnotes, lowest_trusted, titles_of_figures, titles_of_tables

CONFIG = {
    "hull": {"stable_below_ev_per_atom": 0.1, "strict_below_ev_per_atom": 0.02, "reference": "evaluator"},
    "table2": {"structure_validity": "paper", "composition_scaler": "train"},
    "replicates": 2,
}


def test_titles_are_of_the_tables_and_figures_that_there_are():
    assert list(titles_of_tables({}, has_comparison=False, has_cdvae=False)) == [
        "table1",
        "table2",
        "sun",
        "audit",
        "failure_ledger",
    ]
    further = titles_of_tables({"table1_chgnet": "CHGNet 0.3.0"}, has_comparison=True, has_cdvae=True)
    assert further["table1_chgnet"] == "Table 1 under CHGNet 0.3.0: stability"
    assert {"comparison", "reconstruction", "cross_evaluator"} <= set(further)
    assert "comparison" in titles_of_figures(has_comparison=True)
    assert "comparison" not in titles_of_figures(has_comparison=False)


def test_footnotes_name_the_evaluator_and_the_threshold():
    labels = {"table1": "SevenNet-0", "table1_chgnet": "CHGNet 0.3.0"}
    notes = footnotes(CONFIG, labels, cdvae_label=None, cdvae_has_paper_row=False, before_rl=[("RL", "Base")])
    assert notes["table1"][0].startswith(
        "Evaluator: SevenNet-0. Stable: E_hull below 0.1 eV/atom on the hull of competing"
    )
    assert notes["table1_chgnet"][0].startswith("Evaluator: CHGNet 0.3.0.")
    assert "RL: RL started from Base." in notes["audit"]
    assert "GemNet-T" not in str(notes) and "Xie et al." not in str(notes)
    notes = footnotes(CONFIG, labels, cdvae_label="CDVAE", cdvae_has_paper_row=True, before_rl=[])
    assert (
        notes["table2"][-1].startswith("CDVAE: our own implementation") and "Xie et al." in notes["reconstruction"][0]
    )
    assert lowest_trusted(-0.35).startswith("-0.35 eV/atom") and "not set" in lowest_trusted(None)
