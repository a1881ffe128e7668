"""The config, checked before any job starts: schema first, then combinations that cannot work.

Needs: jsonschema, pyyaml.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from hullseeker.cross_check import evaluators_by_key, repeated
from hullseeker.energy_scales import refusal
from hullseeker.evaluators import ENGINES, EVALUATORS, name_in_rows
from hullseeker.gguf_source import is_gguf, problem_with
from hullseeker.replicates import replicates_of, with_replicates
from hullseeker.reward_presets import reward_terms
from hullseeker.scale import problems_of_scale

# The keys of a system of each kind, beside kind and label: those it needs, and those it may have.
KEYS_OF_KIND = {"language_model": (("stages",), ("grpo",)), "samples": (("path",), ()), "cdvae": ((), ())}
_NUMBER_WITHOUT_POINT = re.compile(r"[+-]?\d+[eE][+-]?\d+")


class ConfigError(ValueError):
    """A config that names an unknown key, a wrong value, or a combination that cannot work."""


def replace_systems(config: dict, overlay_paths: list[str | Path]) -> None:
    """Let the last overlay that has `systems` replace them: Snakemake alone would merge them with the defaults."""
    for path in overlay_paths:
        overlay = yaml.safe_load(Path(path).read_text()) or {}
        if "systems" in overlay:
            config["systems"] = overlay["systems"]


def check_config(config: Mapping, schema_path: str | Path) -> None:
    """Raise ConfigError with one line per problem: the key, its value, what was expected, what to do."""
    schema = yaml.safe_load(Path(schema_path).read_text())
    errors = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda e: [str(p) for p in e.absolute_path])
    problems = [line for error in errors for line in _describe(error)]
    if not problems:
        problems = _check_combinations(config)
    if problems:
        raise ConfigError("the config cannot be used:\n" + "\n".join(f"  - {p}" for p in problems))


def _describe(error: ValidationError) -> list[str]:
    key = ".".join(str(part) for part in error.absolute_path) or "the config"
    value, rule = error.instance, error.validator_value
    hint = error.schema.get("description", "") if isinstance(error.schema, Mapping) else ""
    meaning = f" ({hint})" if hint else ""
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        lines = []
        for unknown in [name for name in value if name not in known]:
            close = difflib.get_close_matches(str(unknown), known, n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]}?" if close else f"known keys are {', '.join(known)}"
            place = f"{key}." if error.absolute_path else ""
            lines.append(f"{place}{unknown} (value {value[unknown]!r}) is not a key of the config; {remedy}")
        return lines
    if error.validator == "required":
        missing = [name for name in rule if name not in value]
        return [f"{key} lacks {name}; add it" for name in missing]
    expected = {
        "enum": lambda: f"must be one of {', '.join(map(str, rule))}",
        "type": lambda: f"must be of type {rule if isinstance(rule, str) else ' or '.join(rule)}",
        "minimum": lambda: f"must be at least {rule}",
        "exclusiveMinimum": lambda: f"must be above {rule}",
        "maximum": lambda: f"must be at most {rule}",
        "exclusiveMaximum": lambda: f"must be below {rule}",
        "pattern": lambda: f"must match {rule}",
        "minProperties": lambda: "must have at least one entry",
        "propertyNames": lambda: "has a name that is not allowed",
    }.get(error.validator, lambda: error.message)()
    if error.validator == "type" and isinstance(value, str) and _NUMBER_WITHOUT_POINT.fullmatch(value):
        expected += "; YAML reads this spelling as text, write a decimal point, as in 1.0e-3"
    return [f"{key} is {value!r}; it {expected}{meaning}"]


def _check_files(data: Mapping) -> list[str]:
    """Return what is wrong with the paths of the data section."""
    source, named = data["source"], {key: data[key] for key in ("materials", "train", "val", "test", "phases")}
    given = {key: path for key, path in named.items() if path}
    if source not in ("files", "mp20"):
        return [
            f"data.{key} is {path!r}, which data.source: {source} does not read; use data.source: files"
            for key, path in given.items()
        ]
    problems = [
        f"data.{key} is {path!r}, which does not exist; give the path of your file or folder, or use data.source: demo"
        for key, path in given.items()
        if not Path(path).exists()
    ]
    ready_made = given.keys() & {"train", "val", "test"}
    if source == "mp20" and not {"train", "test"} <= ready_made:
        problems.append("data.source is mp20; give its CSV files as data.train, data.val and data.test")
    elif "materials" in given and ready_made:
        problems.append(
            f"data.materials and data.{sorted(ready_made)[0]} are both given; give one set to be split, or ready-made "
            "splits"
        )
    elif "materials" not in given and not {"train", "test"} <= ready_made:
        problems.append("data.source is files; give data.materials, or data.train and data.test")
    return problems


def _check_keys_of_kind(name: str, system: Mapping) -> list[str]:
    """Return what a system lacks of the keys of its kind, and what it has of another's."""
    kind, problems = system["kind"], []
    needed, allowed = KEYS_OF_KIND[kind]
    for key in needed:
        if key not in system:
            problems.append(f"systems.{name} lacks {key}, which kind: {kind} needs; add it")
    for key in system.keys() - {"kind", "label", *needed, *allowed}:
        problems.append(f"systems.{name}.{key} is {system[key]!r}, which kind: {kind} does not have; remove it")
    path = system.get("path")
    if path and not Path(path).exists():
        problems.append(f"systems.{name}.path is {path!r}, which does not exist; give the path of your file or folder")
    return sorted(problems)


def _check_cdvae(config: Mapping) -> list[str]:
    """Return what is wrong with the CDVAE section, and with systems of that kind beyond the first."""
    noise, names = config["cdvae"]["noise"], [n for n, s in config["systems"].items() if s["kind"] == "cdvae"]
    problems = [
        f"cdvae.noise.{largest} is {noise[largest]:g}; it must be above {smallest} ({noise[smallest]:g})"
        for largest, smallest in (
            ("coordinate_sigma_max_ang", "coordinate_sigma_min_ang"),
            ("type_sigma_max", "type_sigma_min"),
        )
        if noise[largest] <= noise[smallest]
    ]
    if len(names) > 1:
        problems.append(f"systems {', '.join(names)} are all of kind: cdvae, of which there is one model; keep one")
    return problems


def _check_rewards(chosen: Mapping[str, str], grpo: Mapping) -> list[str]:
    """Return what is wrong with the presets, and with the rewards chosen among them, by their key in the config."""
    presets, problems = grpo["rewards"], []
    for name, preset in presets.items():
        try:
            terms = reward_terms(preset)
        except ValueError as error:
            problems.append(f"grpo.rewards.{name}.{error}")
            continue
        for term in terms:
            if term.second_potential and term.second_potential[1] is not None:
                potential, model = term.second_potential
                models = EVALUATORS[potential].models
                if model not in models and not Path(model).is_file():
                    problems.append(
                        f"grpo.rewards.{name}.ensemble.model is {model!r}; {potential} knows {', '.join(models)}; or "
                        "give the path of a checkpoint"
                    )
    for key, reward in {"grpo.reward": grpo["reward"], **chosen}.items():
        if reward not in presets and (key == "grpo.reward" or reward != grpo["reward"]):
            close = difflib.get_close_matches(reward, presets, n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]}? " if close else ""
            problems.append(
                f"{key} is {reward!r}, which is no preset of grpo.rewards; {remedy}there are {', '.join(presets)}"
            )
    return problems


def _check_base_model(base: Mapping) -> list[str]:
    """Return what is wrong with a base model that is made of a GGUF file."""
    if base["gguf_sha256"] and not is_gguf(base["path"]):
        return [f"base_model.gguf_sha256 is given, and base_model.path is {base['path']!r}, no GGUF file; remove it"]
    return [problem] if (problem := problem_with(base["path"])) else []


def _check_comparison(config: Mapping) -> list[str]:
    """Return what is wrong with replicates and with the baseline of the comparison."""
    systems, baseline = config["systems"], config["comparison"]["baseline"]
    problems = []
    try:
        with_replicates(systems, config["replicates"])
    except ValueError as error:
        problems.append(str(error))
    trained = list(replicates_of(systems, 1))
    if baseline is not None and baseline not in trained:
        known = f"there are {', '.join(trained)}" if trained else "there is none, so make it null"
        problems.append(f"comparison.baseline is {baseline!r}; it must be a system that is finetuned here; {known}")
    elif baseline is not None and len(trained) < 2:
        problems.append(f"comparison.baseline is {baseline!r}, and no other system is finetuned; make it null")
    return problems


def _check_evaluator(key: str, relax: Mapping) -> list[str]:
    """Return what is wrong with an evaluator, named by its key: its model, precision, engine and optimizer."""
    potential, model, precision = relax["potential"], relax["model"], relax["precision"]
    evaluator, problems = EVALUATORS[potential], []
    known = ", ".join(evaluator.models)
    if model is not None and model not in evaluator.models and not Path(model).is_file():
        remedy = f"{potential} knows {known}; or give the path of a checkpoint"
        if "/" in model or Path(model).suffix in (".pt", ".pth", ".tar", ".ckpt"):
            wrong = "is no file"
        else:
            wrong = "is not one of its models"
            close = difflib.get_close_matches(model, evaluator.models, n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]}? {remedy}" if close else remedy
        problems.append(f"{key}.model is {model!r}, which {wrong}; {remedy}")
    if precision not in evaluator.precisions:
        able = ", ".join(name for name, other in EVALUATORS.items() if precision in other.precisions)
        problems.append(
            f"{key}.precision is {precision!r}, and {key}.potential: {potential} computes in "
            f"{' or '.join(evaluator.precisions)} alone; use that, or a potential that has {precision} ({able})"
        )
    engine, optimizer = ENGINES[relax["engine"]], relax["optimizer"]
    if relax["engine"] not in evaluator.engines:
        able = ", ".join(name for name, other in EVALUATORS.items() if relax["engine"] in other.engines)
        problems.append(
            f"{key}.engine is {relax['engine']!r}, which has no wrapper for {key}.potential: {potential}; use "
            f"{key}.engine: {evaluator.engines[0]}, or another potential ({able})"
        )
    if optimizer not in engine.optimizers:
        problems.append(
            f"{key}.optimizer is {optimizer!r}, which does not work in {key}.engine: {relax['engine']}; use "
            f"{' or '.join(engine.optimizers)}"
        )
    if relax["keep_symmetry"] and relax["rattle_ang"]:
        problems.append(
            f"relax.keep_symmetry is true, and {key}.rattle_ang is {relax['rattle_ang']:g}, which breaks every "
            "symmetry; set one of them to its default"
        )
    if relax["keep_symmetry"] and relax["engine"] == "torch_sim":
        problems.append(f"relax.keep_symmetry is true, which {key}.engine: torch_sim cannot do; use per_cell")
    return problems


def _check_combinations(config: Mapping) -> list[str]:
    problems = []
    grpo, data = config["grpo"], config["data"]
    of_systems = {f"systems.{name}.grpo": {**grpo, **one.get("grpo", {})} for name, one in config["systems"].items()}
    problems += problems_of_scale(config, {"grpo": grpo, **of_systems})
    problems += _check_rewards({f"{key}.reward": settings["reward"] for key, settings in of_systems.items()}, grpo)
    low, high = config["relax"]["energy_range_ev_per_atom"]
    if low >= high:
        problems.append(f"relax.energy_range_ev_per_atom is [{low}, {high}]; give the lower bound first")
    held_out = data["test_fraction"] + data["validation_fraction"]
    if held_out >= 1:
        problems.append(
            f"data.test_fraction + data.validation_fraction is {held_out:g}; "
            "it must leave something to train on, so stay below 1"
        )
    problems += _check_base_model(config["base_model"])
    problems += _check_files(data)
    problems += _check_cdvae(config)
    problems += _check_comparison(config)
    reference = config["hull"]["reference"]
    for key, settings in evaluators_by_key(config["relax"]).items():
        problems += _check_evaluator(key, settings)
        evaluator = name_in_rows(settings["potential"], settings["model"])
        problems += filter(None, [refusal(evaluator, reference, f"{key}.potential")])
    problems += repeated(config["relax"])
    if config["hull"]["reference"] == "mp" and data["source"] in ("demo", "mp20"):
        problems.append(
            f"hull.reference is 'mp', and data.source: {data['source']} has no competing phases with the Materials "
            "Project's energies; use data.source: materials_project, or hull.reference: evaluator"
        )
    if config["table2"]["structure_cutoff"] <= config["table2"]["structure_novelty_cutoff"]:
        problems.append("table2.structure_novelty_cutoff must be below table2.structure_cutoff")
    for name, system in config["systems"].items():
        problems += _check_keys_of_kind(name, system)
        stages = system.get("stages", [])
        if len(set(stages)) != len(stages) or ("sft" in stages and stages.index("sft") != 0):
            problems.append(f"systems.{name}.stages is {stages}; a stage comes once, and sft comes first")
        if system.get("grpo") and "grpo" not in stages:
            problems.append(f"systems.{name}.grpo is {system['grpo']}, and its stages are {stages}; add grpo to them")
    template = Path(config["prompt"]["path"])
    if not template.is_file():
        problems.append(
            f"prompt.path is {str(template)!r}, which does not exist; the paper's prompt is resources/prompt.txt"
        )
    elif template.read_text().count("{formula}") != 1:
        problems.append(f"{template} must contain {{formula}} exactly once; that is where the chemical formula goes")
    return problems
