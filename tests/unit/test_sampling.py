"""Sampling with the embedded base model: seeded per row, in form, and the company of a row does not matter."""

from pathlib import Path

import pytest
import torch

from configs import text_format
from hullseeker.language_model.crystal_text import make_prompt, parse_crystal
from hullseeker.language_model.generation import (
    Completion,
    draw_tokens,
    load_language_model,
    load_tokenizer,
    row_seed,
    sample_completions,
)
from hullseeker.tables.parquet import TableError, read_table, write_table
from hullseeker.tables.structures import reduced_formula
from merge_shards import PROMPTS, prompts_of_shards
from sample_structures import finished_row, plan_draws

ROOT = Path(__file__).parents[2]
SETTINGS = {"top_p": 1.0, "max_new_tokens": 100}


@pytest.fixture(scope="module")
def base_model():
    torch.set_num_threads(1)
    return load_language_model(ROOT / "resources" / "base_model")


@pytest.fixture(scope="module")
def prompts():
    template = (ROOT / "resources" / "prompt.txt").read_text()
    rows = read_table(ROOT / "resources" / "demo_materials.parquet", "materials").to_pylist()
    formulas = sorted({row["formula"] for row in rows})[::7][:200]
    return [(formula, make_prompt(template, formula)) for formula in formulas]


def test_base_model_fits_its_budget():
    files = list((ROOT / "resources" / "base_model").iterdir())
    assert sum(f.stat().st_size for f in files) <= 12e6
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".jinja", ".txt"}


def test_base_model_answers_in_form_and_obeys_the_formula(base_model, prompts):
    completions = sample_completions(
        *base_model, [p for _, p in prompts], range(len(prompts)), temperature=0.7, **SETTINGS
    )
    parsed = [parse_crystal(text, text_format(max_atoms=24)).columns for text, *_ in completions]
    in_form = sum(columns is not None for columns in parsed)
    obeys = sum(
        columns is not None and reduced_formula(columns["atomic_numbers"]) == formula
        for columns, (formula, _) in zip(parsed, prompts, strict=True)
    )
    assert obeys >= 0.9 * len(prompts)
    assert obeys <= in_form


def test_the_tokenizer_keeps_its_own_pre_tokenizer_after_saving(base_model, tmp_path):
    """AutoTokenizer would take the one of Qwen2, which splits numbers into digits."""
    text = "5.2 11.8 4.0\n90 90 120\nMg\n0.33 0.67 0.25"
    pieces = base_model[1].tokenize(text)
    assert pieces[-3:] == ["0.33", "Ġ0.67", "Ġ0.25"]
    base_model[1].save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).tokenize(text) == pieces


def test_a_rows_text_depends_on_its_seed_and_not_on_its_company(base_model, prompts):
    chosen = [p for _, p in prompts[:6]]
    seeds = [row_seed(1, f"s-{i}") for i in range(6)]
    together = sample_completions(*base_model, chosen, seeds, temperature=1.0, **SETTINGS)
    apart = [
        sample_completions(*base_model, [p], [s], temperature=1.0, **SETTINGS)[0]
        for p, s in zip(chosen, seeds, strict=True)
    ]
    assert together == apart
    other = sample_completions(*base_model, chosen, [s + 1 for s in seeds], temperature=1.0, **SETTINGS)
    assert other != together


def test_a_cut_answer_is_a_row_of_its_own_status_and_no_crystal(base_model, prompts):
    """Some of what a limit cuts reads as a crystal with atoms missing."""
    limit, chosen = 22, prompts[:40]
    asked, seeds = [p for _, p in chosen], [row_seed(1, f"s-{i}") for i in range(40)]
    how = {"temperature": 0.7, "top_p": 1.0}
    found = sample_completions(*base_model, asked, seeds, max_new_tokens=limit, **how)
    whole = sample_completions(*base_model, asked, seeds, max_new_tokens=200, **how)
    assert [c.ended for c in found] == [c.n_tokens < limit for c in whole]
    assert all(c == w for c, w in zip(found, whole, strict=True) if c.ended)
    planned = plan_draws("s", chosen, 40)
    rows = [finished_row(row, c, text_format(), limit) for row, c in zip(planned, found, strict=True)]
    cut = [row for row in rows if row["status"] == "cut"]
    assert len(cut) == sum(not c.ended for c in found) >= 10
    assert sum(parse_crystal(row["text"], text_format()).columns is not None for row in cut) >= 5
    assert {row["error"] for row in cut} == {"the answer did not end within sampling.max_new_tokens (22)"}
    assert all(row["n_tokens"] == 22 and row.keys().isdisjoint(("formula", "lattice_ang")) for row in cut)


def test_an_answer_that_ends_with_the_last_token_allowed_has_ended(base_model, prompts):
    asked = [prompts[0][1]]
    (whole,) = sample_completions(*base_model, asked, [1], temperature=0, top_p=1.0, max_new_tokens=200)
    for limit, ended in ((whole.n_tokens + 1, True), (whole.n_tokens, False)):
        (found,) = sample_completions(*base_model, asked, [1], temperature=0, top_p=1.0, max_new_tokens=limit)
        assert found == (whole.text, whole.n_tokens, ended)


def test_tokens_are_drawn_with_the_models_probabilities():
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.3]])).expand(30_000, 3)
    uniforms = torch.linspace(0, 1, 30_002, dtype=torch.float64)[1:-1]
    shares = torch.bincount(draw_tokens(logits, uniforms, 1.0, 1.0), minlength=3) / 30_000
    assert shares.tolist() == pytest.approx([0.5, 0.2, 0.3], abs=1e-3)
    nucleus = torch.bincount(draw_tokens(logits, uniforms, 1.0, 0.7), minlength=3) / 30_000
    assert nucleus.tolist() == pytest.approx([0.625, 0.0, 0.375], abs=1e-3)
    assert set(draw_tokens(logits, uniforms, 0, 1.0).tolist()) == {0}


def test_prompts_are_cycled_through_and_every_draw_is_a_row():
    planned = plan_draws("s", [("A", "ask A"), ("B", "ask B")], 5)
    assert [(r["prompt_formula"], r["draw"]) for r in planned] == [("A", 0), ("B", 0), ("A", 1), ("B", 1), ("A", 2)]
    row = finished_row(planned[0], Completion("no crystal", 3, True), text_format(), 100)
    assert (row["status"], row["structure_id"]) == ("parse_failed", "s-000000")
    assert row["error"]


def test_the_hash_of_the_prompts_travels_from_the_shards_and_must_be_one(tmp_path):
    planned = plan_draws("s", [("NaCl", "ask")], 3)
    paths = [tmp_path / f"{i}.parquet" for i in range(3)]
    for path, row, about in zip(paths, planned, ({PROMPTS: "a"}, {PROMPTS: "a"}, {PROMPTS: "b"}), strict=True):
        write_table(path, [finished_row(row, Completion("no crystal", 3, True), text_format(), 9)], "samples", about)
    assert prompts_of_shards(paths[:2]) == {PROMPTS: "a"}
    with pytest.raises(TableError, match="drawn with different prompts"):
        prompts_of_shards(paths)
    write_table(paths[0], read_table(paths[0], "samples"), "samples", {})
    assert prompts_of_shards(paths[:1]) == {}
