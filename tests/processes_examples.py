"""Small jobs of the training rules, in the form in which Snakemake passes them to scripts."""

from pathlib import Path

from configs import config_of
from hullseeker.language_model.launching import Job, Section
from hullseeker.tables.parquet import read_table, write_table

ROOT = Path(__file__).parents[1]
N_CRYSTALS = 24


def settings_of(stage: str, **changes) -> dict:
    """Return the settings of sft or grpo from experiments/test.yaml, updated with `changes`."""
    settings = config_of("test")[stage]
    if stage == "grpo":
        settings["terms"] = {
            "formula_match": {},
            "energy": {"weight": 0.1, "clip": [-5.0, 15.0]},
            "diversity": {"weight": 1.0, "n_recent": 8},
        }
        settings.pop("rewards")
    return settings | changes


def job(folder: Path, stage: str, model: str | Path = ROOT / "resources" / "base_model", **changes) -> Job:
    """Return a training job in a folder, on crystals of two atoms from the embedded data set."""
    folder.mkdir(exist_ok=True)
    materials = folder / "materials.parquet"
    rows = read_table(ROOT / "resources" / "demo_materials.parquet", "materials").to_pylist()
    small = [r for r in rows if len(r["atomic_numbers"]) == 2][:N_CRYSTALS]
    write_table(materials, [{**row, "split": "train"} for row in small], "materials", {})
    base = {"path": str(model), "device": "cpu", "dtype": "float32", "attention": "sdpa"}
    return Job(
        input=Section(materials=str(materials), prompt=str(ROOT / "resources" / "prompt.txt"), model=[]),
        output=Section(model=str(folder / "model"), curve=str(folder / "curve.parquet")),
        params=Section(
            base_model=base,
            prompt={"path": "resources/prompt.txt", "formula": "reduced"},
            crystal_text=config_of("test")["crystal_text"],
            settings=Section(settings_of(stage, **changes)),
            seed=1,
            checkpoints=str(folder / "checkpoints"),
            code="of a test",
        ),
        wildcards=Section(stages="grpo"),
        log=[str(folder / "log.txt")],
        threads=changes.get("n_processes", 1),
    )
