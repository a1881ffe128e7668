"""What a person reads: our values with intervals, the paper's beside them, nulls as dashes, notes."""

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from snakemake.iocontainers import InputFiles

from hullseeker.report.result_tables import columns_of
from hullseeker.report.summary import side_by_side
from render_tables import main

PAPER = Path(__file__).parents[2] / "resources" / "paper_tables.csv"

TABLE1 = """system,label,n_samples,e_hull_mean_ev_per_atom,e_hull_mean_ev_per_atom_ci_low,e_hull_mean_ev_per_atom_ci_high,e_hull_std_ev_per_atom,e_hull_median_ev_per_atom,stability_rate_pct,stability_rate_pct_ci_low,stability_rate_pct_ci_high,stability_rate_all_pct,stability_rate_prompted_pct,parse_rate_pct,formula_match_pct,match_rate_pct,rmsd_ang,rmsd_norm,n_relaxed,e_hull_q25_ev_per_atom,e_hull_q75_ev_per_atom,stability_rate_as_generated_pct,e_hull_as_generated_median_ev_per_atom
sft,A & B_1|x <i>,200,0.4,0.3,0.5,1.5,0.2,25,20,30,20,15,90,61.5,50,0.05,0.02,160,-0.05,0.35,,
mine,Mine,0,,,,,,,,,,,,,,,,0,,,,
"""  # noqa: E501
SUN = """system,label,n_samples,sun_pct,sun_pct_ci_low,sun_pct_ci_high,sun_on_hull_pct,unique_pct,novel_pct
sft,SFT,200,5,2,8,1,90,80
"""
CROSS = """system,label,n_samples,sevennet_stable_pct,sevennet_stable_pct_ci_low,sevennet_stable_pct_ci_high,chgnet_stable_pct,all_stable_pct,primary_only_stable_pct,primary_confirmed_pct,chgnet_spearman_rho,chgnet_median_abs_difference_ev_per_atom,n_primary_stable,n_primary_stable_unjudged,n_both_chgnet
sft,SFT,200,30,24,36,25,20,10,66.67,0.9,0.02,60,4,150
"""  # noqa: E501
LEDGER = """system,step,status,n
sft,sample,ok,180
sft,sample,parse_failed,20
sft,relax,ok,160
sft,relax,not_converged,40
"""


class Cells(HTMLParser):
    """Collects the rows of cells, and whether every tag that opens closes."""

    def __init__(self):
        super().__init__()
        self.rows, self.open = [], []

    def handle_starttag(self, tag, _attrs):
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += " " + data


def render(folder, table, params=None, **given):
    inputs = {"paper_tables": str(PAPER)}
    for name, text in given.items():
        (folder / f"{name}.csv").write_text(text)
        inputs[name] = str(folder / f"{name}.csv")
    output = SimpleNamespace(**{kind: folder / f"{table}.{kind}" for kind in ("md", "tex", "html")})
    notes = {table: ["Stable: E_hull < 0.1 eV/atom & 100% ours."]}
    params = SimpleNamespace(table=table, footnotes=notes, **params or {})
    main(SimpleNamespace(input=InputFiles(fromdict=inputs), params=params, output=output, log=[None]))
    return {kind: path.read_text(encoding="utf-8") for kind, path in vars(output).items()}


def markdown_rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def by_name(rows):
    """Return {CSV name: cells} of the lines of a table with a system per column."""
    return {re.findall(r"`(\w+)`", head)[0]: cells for head, *cells in rows[2:]}


def test_table1_markdown(tmp_path):
    rows = markdown_rows(render(tmp_path, "table1", {"paper_rows": {"sft": "sft"}}, table1=TABLE1)["md"])
    assert {len(row) for row in rows} == {3}
    assert rows[0] == ["System", "A & B_1\\|x <i>", "Mine"]
    sft, mine = ({name: cells[i] for name, cells in by_name(rows).items()} for i in range(2))
    assert sft["e_hull_median_ev_per_atom"] == "0.200 (-0.050 to 0.350)"
    assert sft["stability_rate_pct"] == "25.00 [20.00, 30.00]"
    assert sft["stability_rate_pct_paper_value"] == "26.5"
    assert sft["e_hull_mean_ev_per_atom"] == "0.400 ± 1.500 [0.300, 0.500]"
    assert sft["e_hull_mean_ev_per_atom_paper_value"] == "0.374 ± 1.792"
    assert sft["formula_match_pct"] == "61.50" and sft["n_relaxed"] == "160"
    assert mine["stability_rate_pct"] == mine["stability_rate_pct_paper_value"] == "–"
    assert mine["n_samples"] == "0"


@pytest.mark.parametrize(
    ("rows", "printed"), [({}, None), ({"mine": "cdvae"}, ["–", "8"]), ({"sft": "rl"}, ["7.6", "–"])]
)
def test_the_papers_row_stands_where_the_config_says_so_alone(tmp_path, rows, printed):
    """A user's system may well be called sft."""
    found = by_name(markdown_rows(render(tmp_path, "table1", {"paper_rows": rows}, table1=TABLE1)["md"]))
    assert found.get("stability_rate_pct_paper_value") == printed


def test_names_stay_the_text_that_they_are(tmp_path):
    sun = SUN.replace("sft,SFT", "007,1e5") + "NA,nan,100,1,1,1,1,1,1\nTrue,1.0,100,1,1,1,1,1,1\n"
    match = "system,label,formula_match_pct\n007,1e5,61.5\nNA,nan,50\nTrue,1.0,25\n"
    rows = markdown_rows(render(tmp_path, "sun", sun=sun, formula_match=match)["md"])
    assert rows[0] == ["System", "1e5", "nan", "1.0"]
    assert by_name(rows)["formula_match_pct"] == ["61.50", "50.00", "25.00"]


def test_html_is_whole_escaped_and_selfcontained(tmp_path):
    page = render(tmp_path, "table1", table1=TABLE1)["html"]
    cells = Cells()
    cells.feed(page[page.index("<html") :])
    assert not cells.open and {len(row) for row in cells.rows} == {3} and len(cells.rows) > 10
    assert "<i>" not in page and "A &amp; B_1|x &lt;i&gt;" in page
    assert "<style>" in page and "http" not in page and "src=" not in page
    assert "<li>Stable: E_hull &lt; 0.1 eV/atom &amp; 100% ours.</li>" in page


def test_latex_rows_have_one_length_and_no_bare_specials(tmp_path):
    text = render(tmp_path, "table1", table1=TABLE1)["tex"]
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}
    assert any(r"{\scriptsize [20.00, 30.00]}" in row for row in rows)
    assert r"A \& B\_1|x" in text and r"100\% ours" in text
    assert not re.search(r"(?<!\\)[%_^](?!.*columns)", text.split("\n", 1)[1])


def test_formula_match_stands_beside_every_rate(tmp_path):
    rows = markdown_rows(render(tmp_path, "sun", sun=SUN, formula_match=TABLE1)["md"])
    assert by_name(rows)["formula_match_pct"] == ["61.50"]
    assert by_name(rows)["sun_pct"] == ["5.00 [2.00, 8.00]"]


def with_unreliable(table, *shares):
    """Return a table with shares of unreliable hulls, a system each."""
    head, *lines = table.splitlines()
    rows = [f"{line},{share}" for line, share in zip(lines, shares, strict=True)]
    return "\n".join([f"{head},unreliable_hull_pct", *rows]) + "\n"


def test_unreliable_hulls_are_printed_and_explained_where_there_are_any(tmp_path):
    made = render(tmp_path, "table1", table1=with_unreliable(TABLE1, "1.5", ""))
    assert by_name(markdown_rows(made["md"]))["unreliable_hull_pct"] == ["1.50", "–"]
    assert "such a sample counts as not stable in every rate" in made["md"].lower()
    assert "Here: 3 of 200 samples of A & B_1|x <i>." in made["md"]
    assert (
        "below hull.trusted_down_to_ev_per_atom. Such" in made["md"] and "quartiles of E_hull include it" in made["md"]
    )
    named = {"trusted_down_to": "-0.35 eV/atom"}
    assert (
        "below -0.35 eV/atom. Such"
        in render(tmp_path, "table1", named, table1=with_unreliable(TABLE1, "1.5", ""))["md"]
    )
    for none in (with_unreliable(TABLE1, "0", ""), TABLE1):
        made = render(tmp_path, "table1", table1=none)
        assert not any("unreliable" in text.lower() for text in made.values())
    names = {"evaluators": {"sevennet": "sevennet 7net-0", "chgnet": "chgnet"}}
    head, line = CROSS.splitlines()
    cross = f"{head},sevennet_unreliable_hull_pct,chgnet_unreliable_hull_pct\n{line},0,2\n"
    made = render(tmp_path, "cross_evaluator", names, cross_evaluator=cross, formula_match=TABLE1)["md"]
    found = by_name(markdown_rows(made))
    assert found["chgnet_unreliable_hull_pct"] == ["2.00"] and "sevennet_unreliable_hull_pct" not in found
    assert "Here: 4 under chgnet of 200 samples of SFT." in made


def test_what_is_printed_at_the_end_counts_unreliable_hulls(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "table1.csv").write_text(with_unreliable(TABLE1, "1.5", "0"))
    text = side_by_side(tmp_path, "table1")
    assert re.search(r"Unreliable hull, of all \(%\) +1.5 +0.0", text)
    assert "Here: 3 of 200 samples of A & B_1|x <i>." in text
    (tmp_path / "tables" / "table1.csv").write_text(TABLE1)
    assert "nreliable" not in side_by_side(tmp_path, "table1")


def test_ledger_has_a_column_per_status(tmp_path):
    rows = markdown_rows(render(tmp_path, "failure_ledger", failure_ledger=LEDGER)["md"])
    names = [re.findall(r"`(\w+)`", head)[0] if "`" in head else head for head in rows[0]]
    assert names == ["system", "step", "ok", "parse_failed", "not_converged"]
    assert rows[2:] == [["sft", "sample", "180", "20", "0"], ["sft", "relax", "160", "0", "40"]]


def test_ledger_of_several_evaluators_says_whose_step(tmp_path):
    lines = LEDGER.replace("status,n", "evaluator,status,n").replace("sample,", "sample,,").splitlines()
    lines = [line.replace("relax,", "relax,sevennet,") for line in lines] + ["sft,relax,chgnet,ok,180"]
    rows = markdown_rows(render(tmp_path, "failure_ledger", failure_ledger="\n".join(lines))["md"])
    assert [row[:4] for row in rows[2:]] == [
        ["sft", "sample", "–", "180"],
        ["sft", "relax", "sevennet", "160"],
        ["sft", "relax", "chgnet", "180"],
    ]


def test_cross_evaluator_names_its_evaluators(tmp_path):
    params = {"evaluators": {"sevennet": "sevennet 7net-0", "chgnet": "chgnet"}}
    made = render(tmp_path, "cross_evaluator", params, cross_evaluator=CROSS, formula_match=TABLE1)
    rows = markdown_rows(made["md"])
    named = by_name(rows)
    assert named["sevennet_stable_pct"] == ["30.00 [24.00, 36.00]"] and named["chgnet_stable_pct"] == ["25.00"]
    assert named["formula_match_pct"] == ["61.50"] and named["n_both_chgnet"] == ["150"]
    assert named["n_primary_stable_unjudged"] == ["4"]
    heads = "\n".join(head for head, _ in rows)
    assert "Stable under all, of those stable under sevennet 7net-0 (%)" in heads
    assert "E_hull of chgnet and sevennet 7net-0: Spearman ρ" in heads and "{" not in heads
    assert made["tex"].isascii() and r"\rho" in made["tex"]


def test_table1_of_a_further_evaluator_has_its_title(tmp_path):
    made = render(tmp_path, "table1", {"title": "Table 1 under chgnet: stability"}, table1=TABLE1)
    assert all("Table 1 under chgnet: stability" in text for text in made.values())


def test_paper_values_as_printed():
    paper = pd.read_csv(PAPER, dtype=str, keep_default_na=False)
    assert not paper.duplicated(["table", "system", "column"]).any() and len(paper) == 5 * 4 + 5 * 8 + 2
    value = paper.set_index(["table", "system", "column"])["value"]
    assert value["table1", "rl", "stability_rate_pct"] == "7.6"
    assert value["table1", "rl", "match_rate_pct"] == "84.40"
    assert value["table2", "sft_rl", "composition_diversity"] == "16.680"
    assert value["table2", "cdvae", "composition_novelty"] == "0.763"


@pytest.mark.parametrize("choice", ["paper", "cdvae"])
def test_printed_structure_validity_is_chosen(choice):
    numbers = ["composition_validity", "coverage_recall", "coverage_precision", "structure_diversity"]
    numbers += ["composition_diversity", "structure_novelty", "composition_novelty"]
    frame = pd.DataFrame([{"system": "rl", "label": "RL", "n_samples": 9, **dict.fromkeys(numbers, 0.5)}])
    frame["structure_validity_paper"], frame["structure_validity_cdvae"] = 0.75, 0.25
    paper = pd.read_csv(PAPER, dtype=str, keep_default_na=False)
    columns = {
        c.name: c.cells[0][0] for c in columns_of("table2", frame, paper, choice=choice, paper_rows={"rl": "rl"})
    }
    assert columns[f"structure_validity_{choice}"] == {"paper": "0.750", "cdvae": "0.250"}[choice]
    assert columns["structure_validity_paper_value"] == "1.000"
