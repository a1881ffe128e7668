"""What YAML does to a config before the schema sees it: each trap is told with the file's own spelling."""

import copy
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import update_config

from hullseeker.data.files import SUFFIXES, problem_with_data
from hullseeker.data.structure_files import read_entries
from hullseeker.tables.parquet import TableError
from hullseeker.workflow.config_files import (
    CommandLineError,
    Spellings,
    entries_on_command_line,
    files_on_command_line,
    problem_with_file,
    read_command_line,
    refuse_unreadable,
    with_bases,
)
from hullseeker.workflow.configuration import ConfigError, apply_overlays, check_config

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "schemas" / "config.schema.yaml"


@pytest.fixture
def refused(monkeypatch, tmp_path):
    """A function that returns the lines with which the default config and an overlay's text are refused."""
    monkeypatch.chdir(ROOT)
    default = yaml.safe_load((ROOT / "config.yaml").read_text())
    default["data"]["source"] = "demo"

    def lines(text: str, from_file: bool = True) -> list[str]:
        overlay = tmp_path / "overlay.yaml"
        overlay.write_text(text)
        config = copy.deepcopy(default)
        for name, value in yaml.safe_load(text).items():
            config[name] = {**config[name], **value} if isinstance(value, dict) else value
        apply_overlays(config, [overlay])
        with pytest.raises(ConfigError) as caught:
            check_config(config, SCHEMA, ["config.yaml", overlay] if from_file else [])
        return [line.removeprefix("  - ") for line in str(caught.value).splitlines()[1:]]

    return lines


SYSTEM = "{kind: samples, label: A, path: resources/demo_materials.parquet}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"systems: {{NO: {SYSTEM}}}", 'systems has the key False; this is how YAML reads NO; quote it: "NO"'),
        (f"systems: {{off: {SYSTEM}}}", 'systems has the key False; this is how YAML reads off; quote it: "off"'),
        (f"systems: {{1: {SYSTEM}}}", 'systems has the key 1; this is how YAML reads 1; quote it: "1"'),
        (
            f"systems: {{1.0e+5: {SYSTEM}}}",
            'systems has the key 100000.0; this is how YAML reads 1.0e+5; quote it: "1.0e+5"',
        ),
        (f"systems: {{~: {SYSTEM}}}", 'systems has the key None; this is how YAML reads ~; quote it: "~"'),
        (
            f"systems: {{2026-01-01: {SYSTEM}}}",
            'systems has the key datetime.date(2026, 1, 1); this is how YAML reads 2026-01-01; quote it: "2026-01-01"',
        ),
        (
            "grpo: {rewards: {yes: {novelty: {}}}}",
            'grpo.rewards has the key True; this is how YAML reads yes; quote it: "yes"',
        ),
        (
            "relax: {cross_check: [{potential: chgnet, on: 1}]}",
            'relax.cross_check.0 has the key True; this is how YAML reads on; quote it: "on"',
        ),
        ("NO: 1", 'the config has the key False; this is how YAML reads NO; quote it: "NO"'),
    ],
)
def test_a_key_that_is_no_text_is_named_as_it_was_written(refused, text, line):
    assert refused(text) == [line]


@pytest.mark.parametrize(
    ("text", "key", "spelled"),
    [
        ("experiment: 007", "experiment is 7", "007"),
        ("experiment: 1.0e+5", "experiment is 100000.0", "1.0e+5"),
        ("experiment: 2026-01-01", "experiment is datetime.date(2026, 1, 1)", "2026-01-01"),
        ("data: {exclude_elements: [N, No]}", "data.exclude_elements.1 is False", "No"),
        ("data: {citation: 12:30}", "data.citation is 750", "12:30"),
        ("data: {on_leak: off}", "data.on_leak is False", "off"),
        ("base_model: {path: 1_0}", "base_model.path is 10", "1_0"),
        (f"systems: {{a: {SYSTEM.replace('A', 'No')}}}", "systems.a.label is False", "No"),
        (f"systems: {{a: {SYSTEM.replace('}', ', paper_row: 1}')}}}", "systems.a.paper_row is 1", "1"),
    ],
)
def test_a_value_where_text_belongs_is_named_as_it_was_written(refused, text, key, spelled):
    (line,) = refused(text)
    assert line.startswith(key)
    assert line.endswith(f'; this is how YAML reads {spelled}; quote it: "{spelled}"')
    (line,) = refused(text, from_file=False)  # as `--config` gives it, of which no file tells the spelling
    assert line.startswith(key)
    assert line.endswith("; quote it")


def test_quotes_help(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f'systems:\n  "NO": {SYSTEM}\n  "1": {SYSTEM}\n  my-model: {SYSTEM}\n')
    apply_overlays(config, [overlay])
    config["data"] |= {"source": "demo", "exclude_elements": ["N", "No"]}
    check_config(config, SCHEMA, [overlay])
    assert list(config["systems"]) == ["NO", "1", "my-model"]


def test_a_number_that_is_a_number_gets_no_quotes(refused):
    (line,) = refused("seed: NO")
    assert line.startswith("seed is False; it must be of type integer") and "quote" not in line
    (line,) = refused("experiment: [a]")
    assert "quote" not in line


def test_a_key_that_stands_twice_is_named_with_its_lines(refused, tmp_path):
    """YAML keeps the last of two systems of a name and says nothing."""
    (line,) = refused(f"systems:\n  a: {SYSTEM}\n  a: {SYSTEM}\nseed: 3\n")
    assert line == (
        f"{tmp_path}/overlay.yaml has the key systems.a twice, in lines 2 and 3, and YAML keeps only the last; rename "
        "or remove one"
    )


@pytest.mark.parametrize("name", ["my model", "-x", "a.b", "ü", ""])
def test_a_name_that_no_file_can_have(refused, name):
    (line,) = refused(f'systems: {{"{name}": {SYSTEM}}}')
    assert line == f"systems has the key {name!r}; a name must match ^[A-Za-z0-9_][A-Za-z0-9_-]*$"


def test_a_row_that_the_paper_does_not_have(refused):
    (line,) = refused(f"systems: {{a: {SYSTEM.replace('}', ', paper_row: stf}')}}}")
    assert line == (
        "systems.a.paper_row is 'stf', which is not a row of the paper's tables; there are cdvae, base, sft, rl, sft_rl"
    )


FILES = {
    b"": "is empty; give it keys of config.yaml, or leave it out",
    b"# words\n": "is empty",
    b"- a\n- b\n": "has no keys at its top level; write `key: value` lines, as in config.yaml",
    b"words\n": "has no keys at its top level",
    b"a: [1\nb: c: d\n": "is not valid YAML (line 2: ",
    b"a:\n\tb: 1\n": "is not valid YAML (line 2: ",
    b"a: !!python/object:os.system {}\n": "has the tag tag:yaml.org,2002:python/object:os.system in line 1, which no",
    b"a: !mine 1\n": "has the tag !mine in line 1, which no config needs; remove it",
    b"a: !!binary x\n": "has the tag tag:yaml.org,2002:binary in line 1",
    b"a: 2026-13-45\n": 'has 2026-13-45 in line 1, which YAML cannot read as a date; quote it: "2026-13-45"',
    b"b: 1\n2026-02-30: 1\n": "has 2026-02-30 in line 2, which YAML cannot read as a date",
    b"a: 0x_\n": "has 0x_ in line 1, which YAML cannot read as a number",
    b"{[a, b]: 1}\n": "has a list or mapping as a key in line 1; keys must be text, so quote it",
    b"a:\n  ? {b: 1}\n  : 2\n": "has a list or mapping as a key in line 2",
    b"a: &x [*x]\n": "is nested too deeply, or refers to itself with & and *; write the values out",
    b"a: &x {b: 1}\nc: *x\nd: {<<: *x}\n": None,
    b"a: 1\nb: \xe9\n": "is not UTF-8 text (line 2); save it as UTF-8",
    b"\xef\xbb\xbfa: 1\n": None,
    b'{"a": 1}': None,
    b"a: 1\n": None,
}


@pytest.mark.parametrize(("content", "words"), FILES.items())
def test_a_config_file_that_cannot_be_read_is_told_in_one_sentence(tmp_path, content, words):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    problem = problem_with_file(path)
    if words is None:
        assert problem is None
        refuse_unreadable(["--configfile", str(path)])
        return
    assert problem.startswith(f"the config file {path} ") and words in problem and "\n" not in problem
    with pytest.raises(SystemExit) as caught:
        refuse_unreadable(["table1", "--configfile", str(path), "--cores", "1"])
    assert str(caught.value) == problem


def test_a_config_file_that_is_not_there(tmp_path):
    assert problem_with_file(tmp_path) == f"the config file {tmp_path} is a folder; name a YAML file"
    problem = problem_with_file(tmp_path / "absent.yaml")
    assert "does not exist; correct the path, and write targets before --configfile" in problem


@pytest.mark.parametrize(
    ("words", "right_order"),
    [
        (["a.yaml", "table1"], "snakemake table1 --configfile a.yaml"),
        (
            ["a.yaml", "b.yml", "table1", "results/x/tables/sun.md"],
            "table1 results/x/tables/sun.md --configfile a.yaml b.yml",
        ),
        (["table1"], "snakemake table1 --configfile mine.yaml"),
    ],
)
def test_targets_behind_the_config_files_are_told_to_stand_first(monkeypatch, tmp_path, words, right_order):
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text("seed: 1\n")
    refuse_unreadable(["table1", "--configfile", "a.yaml", "b.yml", "--cores", "1"])
    refuse_unreadable(["--configfile", "a.yaml", "--", "table1"])
    with pytest.raises(SystemExit) as caught:
        refuse_unreadable(["--configfile", *words, "-n"])
    assert str(caught.value).startswith("--configfile takes every word after it as a config file, and table1")
    assert str(caught.value).endswith(right_order)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_config_or_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "mine.yaml"
    path.write_bytes(content)
    problem = problem_with_file(path)
    if problem is None:
        assert isinstance(yaml.compose(content.decode("utf-8-sig")), yaml.MappingNode)
        Spellings([path])
    else:
        assert "\n" not in problem


def test_the_files_of_a_command_line():
    words = ["-n", "--configfile", "a.yaml", "b.yaml", "--cores", "1", "table1"]
    assert files_on_command_line(words) == ["a.yaml", "b.yaml"]
    assert files_on_command_line(["--configfile=a.yaml", "table1"]) == ["a.yaml"]
    assert files_on_command_line(["table1", "-n"]) == []
    words = ["table1", "--config", "a=1", "b={c: 2}", "-n", "-C", "d=3"]
    assert entries_on_command_line(words) == ["d=3"]  # as argparse has it
    assert entries_on_command_line(words[:-2]) == ["a=1", "b={c: 2}"]


def write(folder, **texts):
    """Write config files into a folder, and return their paths."""
    paths = [folder / f"{name}.yaml" for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text)
    return paths


def test_a_base_stands_before_what_extends_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    base, middle, mine, other = write(
        tmp_path,
        base="seed: 1\nsampling: {n_samples: 1, batch_size: 1}\nsystems: {a: {}}\n",
        middle="extends: base.yaml\nseed: 2\nsampling: {batch_size: 2}\n",
        mine="sampling: {n_samples: 3}\nextends: middle.yaml\n",
        other=f"extends: {tmp_path / 'base.yaml'}\nsystems: {{b: {{}}}}\n",
    )
    names = [Path("base.yaml"), Path("middle.yaml")]
    assert with_bases([mine]) == [*names, mine]
    assert with_bases([mine, other]) == [*names, mine, other]  # once: it does not undo what stands above it
    assert with_bases([middle, base]) == [Path("base.yaml"), middle, base]  # as often as the command line says
    config = {"seed": 0, "sampling": {"n_samples": 0, "batch_size": 0, "n_shards": 0}, "systems": {"c": {}}}
    for path in (mine, other):
        update_config(config, yaml.safe_load(path.read_text()))  # as Snakemake does it, which knows no `extends`
    apply_overlays(config, [mine, other])
    assert config == {"seed": 2, "sampling": {"n_samples": 3, "batch_size": 2, "n_shards": 0}, "systems": {"b": {}}}


def test_the_command_line_stands_above_a_base(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, mine = write(tmp_path, base="seed: 1\nsampling: {n_samples: 1, batch_size: 1}\n", mine="extends: base.yaml\n")
    config = {"seed": 7, "sampling": {"n_samples": "9", "batch_size": 0}, "systems": {}, "extends": "base.yaml"}
    apply_overlays(config, [mine], ["seed=7", "sampling={n_samples: 9}"])  # as Snakemake has read it
    assert config == {"seed": 7, "sampling": {"n_samples": 9, "batch_size": 1}, "systems": {}}
    with pytest.raises(ConfigError, match="--config has extends, which only config files may contain; name the file"):
        apply_overlays(config, [mine], ["extends=base.yaml"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "seed: 1\nextends: bse.yaml\n",
            "mine.yaml extends bse.yaml in line 2, which does not exist; did you mean base.yaml?",
        ),
        (
            "extends: /nowhere/x.yaml\n",
            "/nowhere/x.yaml in line 1, which does not exist; give the path relative to the checkout",
        ),
        ("extends: [base.yaml]\n", "mine.yaml has extends in line 1, which is not the path of one config file; write"),
        ("extends: 5\n", "mine.yaml has extends in line 1, which is not the path of one config file; write"),
        ("extends:\n", "mine.yaml has extends in line 1, which is not the path of one config file; write"),
        ("extends: mine.yaml\n", "mine.yaml extends mine.yaml in line 1, which leads back to mine.yaml; remove one"),
        ("extends: back.yaml\n", "back.yaml extends mine.yaml in line 2, which leads back to mine.yaml; remove one"),
        ("extends: list.yaml\n", "extends list.yaml in line 1: the config file list.yaml has no keys at its top"),
        ("extends: .\n", "mine.yaml extends . in line 1: the config file . is a folder; name a YAML file"),
    ],
)
def test_a_base_that_cannot_be_is_told_in_one_sentence(monkeypatch, tmp_path, text, words):
    monkeypatch.chdir(tmp_path)
    mine = write(tmp_path, mine=text, base="seed: 1\n", back="\nextends: mine.yaml\n", list="- a\n")[0]
    with pytest.raises(SystemExit) as ended:
        refuse_unreadable(["--configfile", "mine.yaml", "--cores", "1"])
    assert words in str(ended.value) and "\n" not in str(ended.value)
    with pytest.raises(ConfigError) as caught:
        apply_overlays({"systems": {}}, [mine])
    assert str(caught.value) == str(ended.value)


def test_a_key_that_stands_twice_in_a_base_is_named_with_its_lines(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    base = tmp_path / "base.yaml"
    (mine,) = write(tmp_path, mine=f"extends: {base}\n")
    base.write_text("seed: 1\nseed: 2\n")
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    files = apply_overlays(config, [mine])
    with pytest.raises(ConfigError, match=f"{base} has the key seed twice, in lines 1 and 2"):
        check_config(config, SCHEMA, files)


def test_an_overlay_may_extend_an_experiment_from_anywhere(tmp_path):
    """Snakemake reads the base too; what is wrong in it is told by its key."""
    (mine,) = write(tmp_path, mine="extends: experiments/test.yaml\nexperiment: mine\n")
    done = snakemake("-n", "results/mine/tables/table1.md", "--configfile", str(mine))
    assert done.returncode == 0, done.stderr
    mine.write_text(mine.read_text() + "sft: {n_epoch: 1}\n")
    done = snakemake("-n", "--configfile", str(mine))
    assert done.returncode == 1
    assert "sft.n_epoch (value 1) is not a key of the config; did you mean n_epochs?" in done.stderr


def test_bare_and_quoted_spellings(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text('a: [NO, "NO", {b: 2026-01-01}]\n')
    spellings = Spellings([path])
    assert spellings.values == {("a", 0): "NO", ("a", 2, "b"): "2026-01-01"}
    assert spellings.remedy_for_value(("a", 2, "b"), date(2026, 1, 1)).startswith("this is how YAML reads 2026-01-01")
    assert spellings.remedy_for_value(("a",), None) == ""


def test_what_the_name_of_a_file_tells(tmp_path):
    """The suffixes are those that the reader knows."""
    for suffix in SUFFIXES:
        path = tmp_path / f"x{suffix.upper()}"
        path.touch()
        assert problem_with_data(path).startswith("which is empty")
        path.write_text("nothing of that kind")
        assert problem_with_data(path) is None
        with pytest.raises(TableError) as caught:
            read_entries(path, "x")
        assert "no supported format" not in str(caught.value)
    (tmp_path / "x.json").write_text("{}")
    assert problem_with_data(tmp_path / "x.json").startswith("which has no supported format; give a CSV")
    with pytest.raises(TableError, match="has no supported format"):
        read_entries(tmp_path / "x.json", "x")
    (tmp_path / "folder").mkdir()
    assert problem_with_data(tmp_path / "folder").startswith("a folder without a CIF file")
    (tmp_path / "folder" / "a.CIF").touch()
    assert problem_with_data(tmp_path / "folder") is None


def snakemake(*words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all", "--nolock", *words]
    env = {name: value for name, value in os.environ.items() if name != "MP_API_KEY"} | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


SEVERAL = {
    "sampling={n_samples: 8, temperature: 0.5}": {"sampling": {"n_samples": 8, "temperature": 0.5}},
    "data={exclude_elements: [Xe, U], citation: null}": {"data": {"exclude_elements": ["Xe", "U"], "citation": None}},
    "grpo={'learning_rate': 1.0e-4}": {"grpo": {"learning_rate": 1e-4}},
    "systems=": {"systems": None},
    "seed=7": {"seed": 7},
}


@pytest.mark.parametrize(("entry", "value"), SEVERAL.items())
def test_the_command_line_is_read_as_a_file_is(entry, value):
    """Snakemake reads numbers within an entry as text."""
    assert read_command_line([entry]) == value


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["table1"], "--config has the entry 'table1', which is not key=value; write targets before --config"),
        (["grpo.n_steps=5"], "but takes only top-level keys; write --config grpo='{n_steps: 5}'"),
        (["relax.a.b=5"], "write --config relax='{a: {b: 5}}'"),
        (["1=2"], "write --config key=value, with a key of config.yaml's top level"),
        (["grpo={n_steps: 5"], "is not valid YAML (expected ',' or '}', but got '<stream end>'); correct it"),
        (
            ["grpo={n_steps: 5, n_steps: 6}"],
            "--config has the key grpo.n_steps twice, of which YAML keeps only the last",
        ),
        (["seed=2026-13-45"], "is not valid YAML (month must be in 1..12); correct it"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_told_in_one_sentence(entries, words):
    with pytest.raises(CommandLineError) as caught:
        read_command_line(entries)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(SystemExit) as ended:
        refuse_unreadable(["--config", *entries, "--cores", "1"])
    assert str(ended.value) == str(caught.value)


def test_the_command_line_stands_above_every_overlay(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    overlays = []
    for name in ("one", "two"):
        overlays.append(tmp_path / f"{name}.yaml")
        overlays[-1].write_text(f"systems: {{{name}: {SYSTEM}}}\n")
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["data"] |= {"source": "demo", "exclude_elements": ["Xe"]}
    # As Snakemake has merged it: systems of all, and all within an entry as text.
    config["systems"] |= {"one": {}, "two": {}, "three": {"kind": "samples"}}
    config["sampling"]["n_samples"] = "8"
    entries = [
        f"systems={{three: {SYSTEM}}}",
        "sampling={n_samples: 8}",
        "data={exclude_elements: [U]}",
        "replicates=2",
    ]
    apply_overlays(config, overlays, entries)
    assert list(config["systems"]) == ["three"]
    assert (config["sampling"]["n_samples"], config["data"]["exclude_elements"]) == (8, ["U"])
    assert config["sampling"]["temperature"] == 0.7 and config["replicates"] == 1  # a number is Snakemake's to read
    check_config(config, SCHEMA)
    apply_overlays(config, overlays, [])
    assert list(config["systems"]) == ["two"]
    for entry, words in (("systems=", "systems is None; it must be"), ("systems=5", "systems is 5; it must be")):
        apply_overlays(config, overlays, [entry])
        with pytest.raises(ConfigError, match=words):
            check_config(config, SCHEMA)
    with pytest.raises(ConfigError, match="systems.three twice"):
        apply_overlays(config, overlays, [f"systems={{three: {SYSTEM}, three: {SYSTEM}}}"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "sampling: {n_shards: 2.0}",
            "sampling.n_shards is 2.0; it must be of type integer, written without a point: 2 ",
        ),
        ("seed: 1.0e+3", "seed is 1000.0; it must be of type integer, written without a point: 1000 "),
        ("replicates: 1.5", "replicates is 1.5; it must be of type integer ("),
        ("seed: .inf", "seed is inf; it must be of type integer, which nan and infinity are not"),
        (
            "hull: {stable_below_ev_per_atom: .nan}",
            "hull.stable_below_ev_per_atom is nan; it must be of type number, which nan and infinity are not",
        ),
        ("relax: {max_steps: 1.0}", "relax.max_steps is 1.0; it must be of type integer, written without a point: 1 "),
        ("seed: 1e3", "seed is '1e3'; it must be of type integer; YAML reads this spelling as text, write 1000 "),
        ("seed: yes", "seed is True; it must be of type integer"),
    ],
)
def test_a_number_that_is_no_integer_is_told_before_a_rule_reads_it(refused, text, line):
    (found,) = refused(text)
    assert found.startswith(line)


def test_every_integer_of_the_config_is_refused_as_a_float(refused):
    def integers(value, place=()):
        for name, inner in value.items():
            if isinstance(inner, dict):
                yield from integers(inner, (*place, name))
            elif isinstance(inner, int) and not isinstance(inner, bool):
                yield (*place, name), inner

    schema = yaml.safe_load(SCHEMA.read_text())
    checked = 0
    for place, value in integers(yaml.safe_load((ROOT / "config.yaml").read_text())):
        of_key = schema
        for name in place:
            of_key = of_key.get("properties", {}).get(name, {})
        if "integer" in str(of_key.get("type")) and len(place) < 3:
            text = yaml.safe_dump({place[0]: {place[1]: float(value)}} if len(place) == 2 else {place[0]: float(value)})
            (line,) = refused(text)
            assert line.startswith(f"{'.'.join(place)} is {float(value)}; it must be of type integer")
            checked += 1
    assert checked > 20


WRONG_FOLDER = "Snakemake runs in {here}, but this workflow works only in its own checkout; run it there (cd "


@pytest.mark.parametrize("words", [["-s"], ["-s", "--profile", "slurm"], ["-s", "--workflow-profile", "none"], []])
def test_another_folder_than_the_checkout_is_one_sentence(tmp_path, words):
    """With -s from elsewhere, and with --directory from here."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "-n"]
    if words:
        command += ["-s", str(ROOT / "Snakefile"), *words[1:]]
        command = [str(ROOT / "profiles" / "slurm") if word == "slurm" else word for word in command]
    else:
        command += ["--directory", str(tmp_path), "--configfile", "experiments/test.yaml"]
    where = tmp_path if words else ROOT
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(("Using", "Config file"))]
    (line,) = lines
    assert line.startswith(WRONG_FOLDER.format(here=tmp_path))
    assert line.endswith("), without --snakefile and --directory")
    assert not list(tmp_path.iterdir()) or words  # .snakemake alone


def test_snakemake_ends_with_the_sentence_and_without_a_trace(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    said = {
        f"systems: {{NO: {SYSTEM}}}\ndata: {{source: demo}}\n": 'this is how YAML reads NO; quote it: "NO"',
        "- a\n": "has no keys at its top level; write `key: value` lines, as in config.yaml",
    }
    for text, words in said.items():
        overlay.write_text(text)
        done = snakemake("-n", "--configfile", str(overlay))
        assert done.returncode == 1
        assert done.stderr.rstrip().splitlines()[-1].endswith(words)
        assert "Traceback" not in done.stdout + done.stderr


def test_a_missing_key_is_told_before_the_first_job(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"experiment: {tmp_path.name}\nsystems: {{a: {SYSTEM}}}\n")
    done = snakemake("--configfile", str(overlay))
    assert done.returncode == 1
    assert (
        done.stderr.rstrip()
        .splitlines()[-1]
        .startswith(
            "data.source is materials_project, and MP_API_KEY is not set; get one at https://materialsproject.org/api"
        )
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert not (ROOT / "logs" / tmp_path.name).exists()
    try:  # nothing that will run needs it
        done = snakemake(f"results/{tmp_path.name}/samples/a.parquet", "--configfile", str(overlay))
        assert done.returncode == 0, done.stderr
    finally:
        for folder in ("results", "logs", "benchmarks"):
            shutil.rmtree(ROOT / folder / tmp_path.name, ignore_errors=True)
