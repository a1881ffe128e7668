"""CDVAE's scripts: rows of samples and of reconstructions, shards that change nothing, the table by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import make_reconstruction_table
import plan_reconstructions
import reconstruct_cdvae
import sample_cdvae
import train_cdvae
from cdvae_examples import BOUNDS, settings, some_structures
from hullseeker.cdvae.data import DataError
from hullseeker.cdvae.model import Cdvae
from hullseeker.cdvae.sampling import Drawn
from hullseeker.cdvae.saved_model import save_model
from hullseeker.metrics.reconstruction import row_of_system
from hullseeker.tables.parquet import merge_tables, read_table, write_table
from hullseeker.tables.structures import from_structure

SAMPLING = {"n_levels": 2, "steps_per_level": 1, "step_size_ang2": 4.0e-4, "batch_size": 3}


def material(name, structure, split):
    return {
        "structure_id": name,
        **from_structure(structure),
        "formula": structure.composition.reduced_formula,
        "split": split,
    }


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model with sane cells and random positions and elements; every other cell of it is too small."""
    torch.manual_seed(0)
    model = Cdvae(settings(), BOUNDS)
    with torch.no_grad():
        model.lattice_mean.copy_(torch.tensor([3.0, 3.0, 3.0, 90.0, 90.0, 90.0]))
        model.lattice_deviation.copy_(torch.tensor([1.5, 0.1, 0.1, 1.0, 1.0, 1.0]))
        model.lattice[-1].weight[0] *= 40
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    return folder


def snakemake(tmp_path, params, inputs, outputs, shard=0):
    log = tmp_path / "log"
    return SimpleNamespace(
        params=SimpleNamespace(seed=5, code="x", **params),
        input=SimpleNamespace(**inputs),
        output=SimpleNamespace(**outputs),
        wildcards=SimpleNamespace(system="cdvae", shard=str(shard)),
        log=[str(log)],
        threads=1,
    )


def draw(tmp_path, model_folder, n_shards):
    parts = []
    for shard in range(n_shards):
        path = tmp_path / f"{n_shards}-{shard}.parquet"
        params = {"settings": SAMPLING, "device": "cpu", "n_samples": 8, "n_shards": n_shards}
        sample_cdvae.main(snakemake(tmp_path, params, {"model": model_folder}, {"samples": path}, shard))
        parts.append(read_table(path, "samples"))
    return merge_tables(parts, "samples", [f"cdvae-{i:06d}" for i in range(8)]).to_pylist()


def test_every_draw_is_a_row_and_shards_change_nothing(tmp_path, model_folder):
    rows = draw(tmp_path, model_folder, 1)
    assert {row["status"] for row in rows} == {"ok", "generation_failed"}
    for row in rows:
        assert row["prompt_formula"] is None and row["text"] is None
        assert (row["status"] == "ok") == (row["error"] is None) == (row["lattice_ang"] is not None)
        assert (row["formula"] is not None) == (row["status"] == "ok")
    assert draw(tmp_path, model_folder, 3) == rows


def test_a_reconstruction_is_judged(rocksalt):
    row = {"structure_id": "a", **rocksalt}
    moved = {**rocksalt, "frac_coords": [0.01, 0, 0, 0.5, 0.5, 0.5]}
    found = reconstruct_cdvae.reconstruction_row(row, Drawn(columns=moved))
    assert found["matched"] and found["composition_matched"] and 0 < found["rmsd_norm"] < 0.1
    other = reconstruct_cdvae.reconstruction_row(row, Drawn(columns={**moved, "atomic_numbers": [11, 9]}))
    assert (other["status"], other["matched"], other["composition_matched"]) == ("ok", False, False)
    assert other["formula"] == "NaF" and other["true_formula"] == "NaCl"
    failed = reconstruct_cdvae.reconstruction_row(row, Drawn(error="why"))
    assert (failed["status"], failed["error"]) == ("generation_failed", "why")
    assert failed.get("matched") is None


def test_the_reconstruction_table_by_hand(tmp_path, model_folder):
    structures = some_structures()
    big = structures["perovskite"] * (1, 1, 2)
    rows = [material(name, s, "test") for name, s in structures.items()]
    rows += [material("too big", big, "test"), material("trained", structures["copper"], "train")]
    write_table(tmp_path / "materials.parquet", rows, "materials")
    plan = tmp_path / "plan.json"
    inputs = {"materials": tmp_path / "materials.parquet", "model": model_folder, "plan": plan}
    params = {"block_size": SAMPLING["batch_size"], "n_shards": 1024}
    plan_reconstructions.main(snakemake(tmp_path, params, inputs, {"plan": plan}))
    # Five test crystals.
    assert json.loads(plan.read_text()) == {"n_jobs": -(-5 // SAMPLING["batch_size"])}
    plan.write_text('{"n_jobs": 2}')
    shards = []
    for shard in range(2):
        shards.append(str(tmp_path / f"r{shard}.parquet"))
        params = {"settings": SAMPLING, "device": "cpu"}
        reconstruct_cdvae.main(snakemake(tmp_path, params, inputs, {"reconstructions": shards[-1]}, shard))
    outputs = {name: tmp_path / name for name in ("rows", "csv", "parquet")}
    params = {"system": {"system": "cdvae", "label": "CDVAE"}, "settings": {"n_bootstrap": 50}}
    make_reconstruction_table.main(
        snakemake(tmp_path, params, {"materials": inputs["materials"], "shards": shards}, outputs)
    )
    one = {r["structure_id"]: r for r in read_table(outputs["rows"], "reconstructions").to_pylist()}
    assert set(one) == {*structures, "too big"}
    assert "cdvae.max_atoms is 8" in one["too big"]["error"]
    for name, structure in structures.items():
        if one[name]["status"] != "generation_failed":
            assert len(one[name]["atomic_numbers"]) == len(structure)
    row = pd.read_csv(outputs["csv"]).iloc[0]
    assert row["n_crystals"] == 5
    assert row["n_decoded"] == sum(r["status"] != "generation_failed" for r in one.values())
    assert row["match_rate_pct"] == 100 * sum(bool(r["matched"]) for r in one.values()) / 5


def test_rates_count_failures_and_the_rmsd_does_not():
    rows = pd.DataFrame(
        {
            "status": ["ok", "ok", "generation_failed", "match_failed"],
            "matched": [True, False, None, None],
            "rmsd_norm": [0.02, None, None, None],
            "rmsd_ang": [0.05, None, None, None],
            "composition_matched": [True, True, None, False],
        }
    )
    row = row_of_system({"system": "c", "label": "C"}, rows, {"n_bootstrap": 100}, 1)
    assert (row["match_rate_pct"], row["rmsd_norm"], row["composition_match_pct"]) == (25.0, 0.02, 50.0)
    assert (row["n_crystals"], row["n_decoded"], row["n_matched"]) == (4, 3, 1)
    assert row["match_rate_pct_ci_low"] <= 25 <= row["match_rate_pct_ci_high"]
    none = row_of_system({"system": "c", "label": "C"}, rows.assign(matched=None), {"n_bootstrap": 100}, 1)
    assert none["match_rate_pct"] == 0 and np.isnan(none["rmsd_norm"])


def test_training_without_crystals_says_what_to_do(tmp_path):
    rows = [material("a", some_structures()["copper"], "test")]
    write_table(tmp_path / "materials.parquet", rows, "materials")
    params = {"settings": settings(), "bounds": BOUNDS, "checkpoint": tmp_path / "c.safetensors"}
    job = snakemake(tmp_path, params, {"materials": tmp_path / "materials.parquet"}, {})
    with pytest.raises(DataError, match="the training split is empty, or all crystals were refused"):
        train_cdvae.main(job)


def test_the_training_script_writes_model_and_curve(tmp_path):
    structures = some_structures()
    rows = [material(f"a-{i}", structures[name], "train") for i, name in enumerate(("copper", "rocksalt", "triclinic"))]
    rows += [
        material("b", structures["perovskite"], "val"),
        material("c", structures["perovskite"] * (1, 1, 2), "train"),
    ]
    write_table(tmp_path / "materials.parquet", rows, "materials")
    params = {
        "settings": settings(training={"n_epochs": 2}),
        "bounds": BOUNDS,
        "checkpoint": tmp_path / "c.safetensors",
    }
    outputs = {"model": tmp_path / "model", "curve": tmp_path / "curve.parquet"}
    train_cdvae.main(snakemake(tmp_path, params, {"materials": tmp_path / "materials.parquet"}, outputs))
    curve = read_table(outputs["curve"], "training_curve").to_pandas()
    assert sorted(curve[curve["quantity"] == "eval_loss"]["step"]) == [1, 2]
    assert (outputs["model"] / "model.safetensors").is_file()
    log = (tmp_path / "log").read_text()
    assert "c is left out: it has 10 atoms" in log
    assert "train: 3 crystals, 1 left out" in log
