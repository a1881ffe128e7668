"""The config is refused before any job starts, in words that name the key, the value and the remedy."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from copy_descriptions import out_of_step
from hullseeker import energy_scales
from hullseeker.configuration import ConfigError, check_config, replace_systems

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
        config[section] = {**config[section], **value} if isinstance(value, dict) and section != "systems" else value
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
        ("relax.potental", "sevennet", ["relax.potental", "did you mean potential"]),
        ("relax.potential", "uma", ["relax.potential", "'uma'", "sevennet, chgnet"]),
        ("relax.cross_check", [{"model": "0.3.0"}], ["relax.cross_check.0 lacks potential"]),
        ("relax.cross_check", [{"potential": "chgnet", "fmax": 1}], ["fmax", "known keys are potential, model"]),
        ("relax.cross_check", [{"potential": "mace"}], ["relax.cross_check.0.potential is 'mace'", "sevennet, chgnet"]),
        ("relax.cross_check", [{"potential": "sevennet"}], ["cross_check.0", "model null", "'7net-0'", "once"]),
        (
            "relax.cross_check",
            [{"potential": "chgnet"}, {"potential": "chgnet", "model": "0.2.0"}],
            ["cross_check.1.potential is 'chgnet' with model '0.2.0'", "is relax.cross_check.0", "a different model"],
        ),
        ("sft.n_epochs", "three", ["sft.n_epochs", "'three'", "number"]),
        ("sft.learning_rate", "1e-3", ["sft.learning_rate", "'1e-3'", "1.0e-3"]),
        ("sft.n_epochs", 0, ["sft.n_epochs", "above 0"]),
        ("hull.reference", "mp", ["hull.reference is 'mp'", "data.source: materials_project", "evaluator"]),
        ("data.test_fraction", 1.5, ["data.test_fraction", "1.5", "below 1"]),
        ("systems", {}, ["systems", "at least one"]),
        ("systems.base.kind", "cdvae", ["systems.base.kind", "language_model"]),
        ("systems.base.stages", ["grpo", "sft"], ["systems.base.stages", "sft comes first"]),
        ("sft.device_batch_size", 7, ["sft.device_batch_size is 7", "divide sft.batch_size (64)"]),
        ("grpo.device_batch_size", 7, ["grpo.device_batch_size is 7", "(128)"]),
        ("grpo.energy_clip_ev_per_atom", [5, -15], ["energy_clip_ev_per_atom", "lower bound first"]),
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


def test_every_evaluator_must_fit_the_hull(config, monkeypatch):
    monkeypatch.setitem(energy_scales.ENERGY_SCALES, "chgnet", "elsewhere")
    config["data"]["source"], config["hull"]["reference"] = "materials_project", "mp"
    config["relax"]["cross_check"] = [{"potential": "sevennet", "model": "7net-l3i5"}]
    check_config(config, SCHEMA)
    config["relax"]["cross_check"].append({"potential": "chgnet"})
    with pytest.raises(ConfigError, match="relax.cross_check.1.potential is 'chgnet', whose .* scale elsewhere"):
        check_config(config, SCHEMA)


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
