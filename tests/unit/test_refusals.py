"""What was refused, left out or failed is counted, grouped by reason, and stops a training where it is much."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snakemake.iocontainers import InputFiles

import check_refused
import make_data_card
import print_results
from hullseeker.data.checks import too_many_refused
from hullseeker.report.refusals import by_reason, lines_of_experiment, reasons_in_words, refused_parts, too_many
from hullseeker.tables.parquet import write_table

REASONS = "site 0 of 'Va0' is no element (40, such as r-000000); no structure (16, such as r-000040)"


def refusal(number: int, error: str, split: str | None = "train") -> dict:
    return {"structure_id": f"r-{number:06d}", "error": error, "split": split}


@pytest.fixture
def data(tmp_path, rocksalt):
    """The folder of an experiment: a training file of 112 entries of which 56 were refused, and a test file of 8."""
    folder = tmp_path / "results" / "mine" / "data"
    rows = [{**rocksalt, "structure_id": f"m-{i:03d}", "formula": "NaCl", "split": "train"} for i in range(56)]
    rows += [{**rocksalt, "structure_id": f"t-{i:03d}", "formula": "NaCl", "split": "test"} for i in range(8)]
    refused = [refusal(i, f"site {i} of 'Va{i}' is no element") for i in range(40)]
    refused += [refusal(i, "no structure") for i in range(40, 56)]
    write_table(folder / "extracted" / "materials.parquet", rows, "materials")
    write_table(folder / "extracted" / "materials_refused.parquet", refused, "refusals")
    selection = {"selection": json.dumps({"n_read": 64, "n_too_large": 3, "n_excluded": 0, "n_unstable": 2})}
    write_table(folder / "materials.parquet", rows[:59], "materials", selection)
    return folder.parent


def test_reasons_that_differ_in_particulars_are_one():
    words = ("site 1 of 'Va' is [0, 0, 1]", "site 22 of 'X' is [3]", "no  cell", "no cell", "site 5 of 'Y' is []")
    rows = [refusal(i, text) for i, text in enumerate(words)]
    assert by_reason(rows) == [("site 1 of 'Va' is [0, 0, 1]", 3, "r-000000"), ("no cell", 2, "r-000002")]
    assert reasons_in_words(rows, 1) == "site 1 of 'Va' is [0, 0, 1] (3, such as r-000000); other reasons (2)"
    assert reasons_in_words([refusal(0, "x" * 200)]) == "x" * 99 + "… (1, such as r-000000)"
    assert reasons_in_words([]) == ""


@given(st.lists(st.text(max_size=20)))
def test_every_refusal_is_counted_once(errors):
    assert sum(n for _, n, _ in by_reason([refusal(i, error) for i, error in enumerate(errors)])) == len(errors)


def test_counts_are_of_each_file(data):
    test, train = refused_parts(
        *(data / "data" / "extracted" / name for name in ("materials.parquet", "materials_refused.parquet"))
    )
    assert (test.part, test.n_entries, test.rows, test.share) == ("test", 8, [], 0.0)
    assert (train.part, train.n_entries, len(train.rows), train.share) == ("train", 112, 56, 0.5)
    assert train.in_words == "56 of 112 entries (50.0%)"
    assert too_many(train, 0.5, "list.parquet") is None
    assert too_many(train, 0.1, "list.parquet") == (
        "56 of 112 entries (50.0%) of data.train were refused, and data.max_refused_share is 0.1; most often: "
        f"{REASONS}; all of them are listed in list.parquet; correct the data, or raise data.max_refused_share if the "
        "rest is enough"
    )


def test_documents_of_a_database_that_were_not_taken_are_no_refusals(tmp_path, rocksalt):
    about = {"extraction": json.dumps({"n_documents": 100})}
    rows = [{**rocksalt, "structure_id": "mp-1", "formula": "NaCl"}]
    write_table(tmp_path / "materials.parquet", rows, "materials", about)
    write_table(tmp_path / "refused.parquet", [refusal(1, "no energy", None)], "refusals", about)
    (part,) = refused_parts(tmp_path / "materials.parquet", tmp_path / "refused.parquet")
    assert (part.part, part.n_entries, part.share) == ("materials", 100, 0.01)
    assert "of the materials of materials_project were refused" in too_many(part, 0.0, "x", "materials_project")


def check(data: Path, max_refused_share: float) -> pd.DataFrame:
    read = data / "data" / "extracted" / "materials.parquet"
    inputs = {"read": [str(read)], "refused": [str(read.with_name("materials_refused.parquet"))]}
    csv = data / "data" / "refused.csv"
    params = SimpleNamespace(source="files", max_refused_share=max_refused_share)
    log = str(data / "check.log")
    check_refused.main(
        SimpleNamespace(input=InputFiles(fromdict=inputs), output=SimpleNamespace(csv=csv), params=params, log=[log])
    )
    return pd.read_csv(csv)


def test_the_run_stops_before_training_on_the_rest(data):
    with pytest.raises(ValueError, match=r"^56 of 112 entries \(50.0%\) of data.train were refused"):
        check(data, 0.1)
    assert not (data / "data" / "refused.csv").exists()
    assert check(data, 0.5)[["part", "n_entries", "n_refused", "n"]].to_numpy().tolist() == [
        ["test", 8, 0, 0],
        ["train", 112, 56, 40],
        ["train", 112, 56, 16],
    ]


def test_what_was_let_pass_is_held_against_the_share_of_today(data):
    csv = data / "data" / "refused.csv"
    assert too_many_refused(csv, 0.0) == []
    check(data, 0.5)
    assert too_many_refused(csv, 0.5) == []
    (problem,) = too_many_refused(csv, 0.1)
    assert problem.startswith("56 of 112 entries of train were refused, more than data.max_refused_share (0.1) allows")


def test_the_card_counts_refusals_by_reason(data):
    path = str(data / "data" / "extracted" / "materials_refused.parquet")
    assert make_data_card.refused_of(path) == [
        ("Refused (test)", "0 of 8 entries (0.0%)"),
        ("Refused (train)", f"56 of 112 entries (50.0%): {REASONS}; list: {path}"),
    ]


def sample(number: int, status: str, system: str = "my-model") -> dict:
    return {"structure_id": f"{system}-{number:06d}", "system": system, "status": status, "error": status}


def test_the_end_of_a_run_has_a_line_per_kind(data, monkeypatch):
    monkeypatch.chdir(data.parents[1])
    folder = Path("results/mine")
    assert lines_of_experiment("results/absent") == []
    statuses = ["parse_failed"] * 3 + ["ok"] * 2
    write_table(folder / "samples/my-model.parquet", [sample(i, s) for i, s in enumerate(statuses)], "samples")
    write_table(folder / "samples/other.parquet", [sample(0, "ok", "other")], "samples")
    write_table(folder / "curves/sft.parquet", [], "training_curve", {
        "left_out": json.dumps({"why": "longer than sft.max_length_tokens", "train": 4, "val": 0})
    })  # fmt: skip
    relaxed = ["not_attempted"] * 3 + ["not_converged", "relax_failed"]
    novelty = [{"structure_id": f"my-model-{i:06d}", "status": s, "error": None} for i, s in enumerate(relaxed)]
    write_table(folder / "novelty/my-model.parquet", novelty, "novelty")
    expected = [
        f"train: 56 of 112 entries (50.0%) refused, most often: {REASONS}: "
        "results/mine/data/extracted/materials_refused.parquet",
        "left out of training and test, of 64: 3 larger than data.max_sites, 2 above "
        "data.max_e_above_hull_ev_per_atom: results/mine/data/card.md",
        "sft, training: crystals left out: 4 of train; longer than sft.max_length_tokens: "
        "results/mine/curves/sft.parquet",
        "my-model, sample: parse_failed 3, of 5 samples: results/mine/samples/my-model.parquet",
        "my-model, novelty: not_converged 1, relax_failed 1, of 5 samples: results/mine/novelty/my-model.parquet",
    ]
    assert lines_of_experiment(folder) == expected
    assert lines_of_experiment(folder, ["other"], ["sevennet"]) == expected[:3]
    # A table that was cut short ends another rule; here it is a line.
    table = folder / "samples" / "my-model.parquet"
    table.write_bytes(table.read_bytes()[:-50])
    (line,) = set(lines_of_experiment(folder)) - set(expected)
    assert line.startswith("results/mine/samples/my-model.parquet cannot be counted (")


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "name one results folder"), (["nowhere"], "nowhere/tables lacks table1.csv and table2.csv; folders with")],
)
def test_a_wrong_folder_is_named_in_a_sentence(monkeypatch, tmp_path, words, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        print_results.main(words)
    assert said in str(caught.value)
