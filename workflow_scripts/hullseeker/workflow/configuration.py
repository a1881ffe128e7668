"""Read the config and check it before any job starts: against the schema, then for impossible combinations.

Needs: jsonschema, pyyaml, snakemake.
"""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from hullseeker.data.files import problem_with_data
from hullseeker.language_model.gguf_source import is_gguf, problem_with
from hullseeker.language_model.scale import problems_of_scale
from hullseeker.potentials.energy_scales import scale_mismatch
from hullseeker.potentials.evaluators_of_run import evaluators_by_key, repeated_evaluators
from hullseeker.potentials.registry import EVALUATORS, name_in_rows
from hullseeker.relaxation.engines import ENGINES
from hullseeker.rewards.presets import reward_terms
from hullseeker.runtime.credentials import names_a_secret, secret_in
from hullseeker.workflow.config_files import (
    EXTENDS,
    BaseFileError,
    CommandLineError,
    Spellings,
    merged,
    read_command_line,
    with_bases,
)
from hullseeker.workflow.config_names import KEYS_OF_KIND, fill_names
from hullseeker.workflow.config_schema import closed_schema, describe
from hullseeker.workflow.replicates import replicates_of, with_replicates

# Optional keys of a system of any kind, besides kind and label.
_OF_ANY_KIND = ("paper_row",)
# Value of data.phases that selects the embedded phases; it is never taken as a path.
EMBEDDED_PHASES = "demo"
_NUMBER_WITHOUT_POINT = re.compile(r"[+-]?\d+[eE][+-]?\d+")


_OUT_OF_CONFIG = (
    "the config is written into results and logs; remove it from the config, put MP_API_KEY and HF_TOKEN into the "
    "environment, and the user and password of a server into ~/.netrc"
)


def _is_integer(_, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_, value: object) -> bool:
    return _is_integer(_, value) or (isinstance(value, float) and math.isfinite(value))


# Stricter than JSON Schema: 2.0 is not an integer, since Python functions such as range reject it, and YAML's .nan and
# .inf are not numbers.
_Validator = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number}),
)


class ConfigError(ValueError):
    """A config with an unknown key, a wrong value, or a combination of values that cannot work."""


def apply_overlays(config: dict, overlay_paths: Iterable[str | Path], command_line: Iterable[str] = ()) -> list[Path]:
    """Merge overlays, the files they extend and `--config` into the config; return the files in the order applied.

    Snakemake has merged the overlays already, but without the files that they extend, with the `systems` of all files
    combined (here the last file with `systems` replaces the others), and with nested values of `--config` as text.
    """
    try:
        files = with_bases(overlay_paths)
        overrides = read_command_line(command_line)
    except (BaseFileError, CommandLineError) as error:
        raise ConfigError(str(error)) from None
    if EXTENDS in overrides:
        raise ConfigError(
            f"--config has {EXTENDS}, which only config files may contain; name the file with --configfile"
        )
    as_snakemake_read = {key: config[key] for key in overrides if key in config}
    for path in files:
        overlay = load_configfile(path)
        if overlay.pop(EXTENDS, None):
            config.pop(EXTENDS, None)
        systems = overlay.get("systems", config.get("systems"))
        config.update({**merged(config, overlay), "systems": systems})
    for key, value in overrides.items():
        if key != "systems" and isinstance(value, Mapping) and isinstance(config.get(key), Mapping):
            config[key] = merged(config[key], value)
        elif key == "systems" or value is None or isinstance(value, (Mapping, list)):
            config[key] = value
        elif key in as_snakemake_read:
            config[key] = as_snakemake_read[key]
    return files


def read_config(*overlay_paths: str | Path) -> dict:
    """Return config.yaml of the working folder merged with overlays, as the rules see it, without checks."""
    config = load_configfile("config.yaml")
    for path in overlay_paths:
        update_config(config, load_configfile(path))
    apply_overlays(config, overlay_paths)
    return config


def check_config(config: Mapping, schema_path: str | Path, config_paths: Iterable[str | Path] = ()) -> None:
    """Raise ConfigError with one line per problem: the key, its value, what was expected, what to do.

    The files in `config_paths` are searched for duplicate keys and for the original spelling of values.
    """
    spellings = Spellings(config_paths)
    # Secrets first, since the messages about other problems repeat values.
    problems = list(_secrets_in(config))
    problems = problems or spellings.repeated + list(_keys_not_read_as_text(config, spellings))
    if not problems:
        schema = closed_schema(schema_path)
        fill_names(schema)
        errors = _Validator(schema).iter_errors(config)
        errors = sorted(errors, key=lambda e: [str(p) for p in e.absolute_path])
        if errors:  # adds descriptions to the subschemas that the errors refer to
            describe(schema, Path(schema_path).parents[1] / "config.yaml")
        problems = [line for error in errors for line in _describe(error, spellings)]
    if not problems:
        problems = _check_combinations(config)
        problems += _check_paper_rows(config["systems"], Path(schema_path).parents[1] / "resources/paper_tables.csv")
    if problems:
        raise ConfigError("the config cannot be used:\n" + "\n".join(f"  - {p}" for p in problems))


def _secrets_in(value: object, key_path: tuple = ()) -> Iterator[str]:
    """Yield one line per secret in the config, without the secret itself."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if finding := secret_in(str(key)):
                yield f"{'.'.join(map(str, key_path)) or 'the config'} has a key that {finding}; {_OUT_OF_CONFIG}"
            else:
                yield from _secrets_in(inner, (*key_path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _secrets_in(inner, (*key_path, index))
    elif isinstance(value, str) and (finding := secret_in(value)):
        yield f"{'.'.join(map(str, key_path))} {finding}; {_OUT_OF_CONFIG}"


def _keys_not_read_as_text(value: object, spellings: Spellings, key_path: tuple = ()) -> Iterator[str]:
    """Yield one line per key, at any level, that YAML did not read as text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            inner_path = (*key_path, key)
            if not isinstance(key, str):
                name = ".".join(map(str, key_path)) or "the config"
                yield f"{name} has the key {key!r}; {spellings.remedy_for_key(inner_path)}"
            yield from _keys_not_read_as_text(inner, spellings, inner_path)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _keys_not_read_as_text(inner, spellings, (*key_path, index))


def _wants_text(error: ValidationError) -> bool:
    """Whether an error is about a value that should be text."""
    if error.validator == "enum":
        return any(isinstance(allowed, str) for allowed in error.validator_value)
    return error.validator == "type" and "string" in error.validator_value


def _describe(error: ValidationError, spellings: Spellings) -> list[str]:
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
            prefix = f"{key}." if error.absolute_path else ""
            if names_a_secret(unknown):
                lines.append(f"{prefix}{unknown} is not a key of the config; {_OUT_OF_CONFIG}")
                continue
            lines.append(f"{prefix}{unknown} (value {value[unknown]!r}) is not a key of the config; {remedy}")
        return lines
    if "propertyNames" in error.absolute_schema_path:
        return [f"{key} has the key {value!r}; a name must match {rule}"]
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
    }.get(error.validator, lambda: error.message)()
    if error.validator == "type" and isinstance(value, str) and _NUMBER_WITHOUT_POINT.fullmatch(value):
        if "number" not in rule and float(value).is_integer():
            expected += f"; YAML reads this spelling as text, write {float(value):.0f}"
        else:
            expected += "; YAML reads this spelling as text, write a decimal point, as in 1.0e-3"
    if error.validator == "type" and isinstance(value, float):
        if not math.isfinite(value):
            expected += ", which nan and infinity are not"
        elif value.is_integer():
            expected += f", written without a point: {int(value)}"
    if _wants_text(error) and (remedy := spellings.remedy_for_value(tuple(error.absolute_path), value)):
        return [f"{key} is {value!r}; it {expected}{meaning}; {remedy}"]
    return [f"{key} is {value!r}; it {expected}{meaning}"]


def _check_files(data: Mapping) -> list[str]:
    """Return the problems with the paths in the data section."""
    source, paths = data["source"], {key: data[key] for key in ("materials", "train", "val", "test", "phases")}
    given = {key: path for key, path in paths.items() if path}
    if source == "demo" and given.get("phases") == EMBEDDED_PHASES:
        return ["data.phases is 'demo', but data.source: demo has the embedded phases already; set data.phases to null"]
    if source not in ("files", "mp20"):
        return [
            f"data.{key} is {path!r}, which data.source: {source} does not read; remove it, or use data.source: files"
            for key, path in given.items()
        ]
    problems = [
        f"data.{key} is {path!r}, which does not exist; give the path of your file or folder, or use data.source: demo"
        for key, path in given.items()
        if not Path(path).exists() and (key, path) != ("phases", EMBEDDED_PHASES)
    ]
    problems += [
        f"data.{key} is {path!r}, {problem}" for key, path in given.items() if (problem := problem_with_data(path))
    ]
    ready_made = given.keys() & {"train", "val", "test"}
    if source == "mp20" and not {"train", "test"} <= ready_made:
        problems.append("data.source is mp20; give its CSV files as data.train, data.val and data.test")
    elif "materials" in given and ready_made:
        problems.append(
            f"data.materials and data.{sorted(ready_made)[0]} are both given; give either one set to split, or "
            "ready-made splits"
        )
    elif "materials" not in given and not {"train", "test"} <= ready_made:
        problems.append("data.source is files; give data.materials, or data.train and data.test")
    return problems


def _check_keys_of_kind(name: str, system: Mapping) -> list[str]:
    """Return the required keys that a system lacks, and the keys that its kind does not have."""
    kind, problems = system["kind"], []
    needed, allowed = KEYS_OF_KIND[kind]
    for key in needed:
        if key not in system:
            problems.append(f"systems.{name} lacks {key}, which kind: {kind} needs; add it")
    for key in system.keys() - {"kind", "label", *_OF_ANY_KIND, *needed, *allowed}:
        problems.append(f"systems.{name}.{key} is {system[key]!r}, which kind: {kind} does not have; remove it")
    path = system.get("path")
    if path and not Path(path).exists():
        problems.append(f"systems.{name}.path is {path!r}, which does not exist; give the path of your file or folder")
    elif path and (problem := problem_with_data(path)):
        problems.append(f"systems.{name}.path is {path!r}, {problem}")
    return sorted(problems)


def _check_paper_rows(systems: Mapping, path: Path) -> list[str]:
    """Return the systems whose `paper_row` is not in the paper's tables."""
    with open(path, newline="") as handle:
        rows = list(dict.fromkeys(line["system"] for line in csv.DictReader(handle)))
    return [
        f"systems.{name}.paper_row is {system['paper_row']!r}, which is not a row of the paper's tables; there are "
        f"{', '.join(rows)}"
        for name, system in systems.items()
        if "paper_row" in system and system["paper_row"] not in rows
    ]


def _check_cdvae(config: Mapping) -> list[str]:
    """Return the problems with the CDVAE section, and whether more than one system is of that kind."""
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
        problems.append(
            f"systems {', '.join(names)} are all of kind: cdvae, but an experiment has only one model; keep one"
        )
    return problems


def _check_rewards(chosen: Mapping[str, str], grpo: Mapping) -> list[str]:
    """Return the problems with reward presets and with the choices among them; `chosen` maps config key to preset."""
    presets, problems = grpo["rewards"], []
    for name, preset in presets.items():
        try:
            terms = reward_terms(preset)
        except ValueError as error:
            problems.append(f"grpo.rewards.{name}.{error}")
            continue
        for term in terms:
            potential, model = term.second_potential or (None, None)
            if potential is not None and model is not None:
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
                f"{key} is {reward!r}, which is not a preset of grpo.rewards; {remedy}there are {', '.join(presets)}"
            )
    return problems


def _check_base_model(base: Mapping) -> list[str]:
    """Return the problems with the base model settings of a GGUF file."""
    if base["gguf_sha256"] and not is_gguf(base["path"]):
        return [f"base_model.gguf_sha256 is set, but base_model.path is {base['path']!r}, not a GGUF file; remove it"]
    return [problem] if (problem := problem_with(base["path"])) else []


def _check_comparison(config: Mapping) -> list[str]:
    """Return the problems with the replicates and with the baseline of the comparison."""
    systems, baseline = config["systems"], config["comparison"]["baseline"]
    problems = []
    try:
        with_replicates(systems, config["replicates"])
    except ValueError as error:
        problems.append(str(error))
    trained = list(replicates_of(systems, 1))
    if baseline is not None and baseline not in trained:
        known = f"there are {', '.join(trained)}" if trained else "there is none, so set it to null"
        problems.append(f"comparison.baseline is {baseline!r}; it must be a system that is finetuned here; {known}")
    elif baseline is not None and len(trained) < 2:
        problems.append(f"comparison.baseline is {baseline!r}, but no other system is finetuned; set it to null")
    return problems


def _check_evaluator(key: str, relax: Mapping) -> list[str]:
    """Return the problems with the model, precision, engine and optimizer of the evaluator at a config key."""
    potential, model, precision = relax["potential"], relax["model"], relax["precision"]
    evaluator, problems = EVALUATORS[potential], []
    known = ", ".join(evaluator.models)
    if model is not None and model not in evaluator.models and not Path(model).is_file():
        remedy = f"{potential} knows {known}; or give the path of a checkpoint"
        if "/" in model or Path(model).suffix in (".pt", ".pth", ".tar", ".ckpt"):
            reason = "is no file"
        else:
            reason = "is not one of its models"
            close = difflib.get_close_matches(model, evaluator.models, n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]}? {remedy}" if close else remedy
        problems.append(f"{key}.model is {model!r}, which {reason}; {remedy}")
    if precision not in evaluator.precisions:
        others = ", ".join(name for name, other in EVALUATORS.items() if precision in other.precisions)
        problems.append(
            f"{key}.precision is {precision!r}, but {key}.potential: {potential} computes only in "
            f"{' or '.join(evaluator.precisions)}; use that, or a potential that has {precision} ({others})"
        )
    engine, optimizer = ENGINES[relax["engine"]], relax["optimizer"]
    if relax["engine"] not in evaluator.engines:
        others = ", ".join(name for name, other in EVALUATORS.items() if relax["engine"] in other.engines)
        problems.append(
            f"{key}.engine is {relax['engine']!r}, which has no wrapper for {key}.potential: {potential}; use "
            f"{key}.engine: {evaluator.engines[0]}, or another potential ({others})"
        )
    if optimizer not in engine.optimizers:
        problems.append(
            f"{key}.optimizer is {optimizer!r}, which does not work in {key}.engine: {relax['engine']}; use "
            f"{' or '.join(engine.optimizers)}"
        )
    if relax["keep_symmetry"] and relax["rattle_ang"]:
        problems.append(
            f"relax.keep_symmetry is true, but {key}.rattle_ang is {relax['rattle_ang']:g}, which breaks every "
            "symmetry; set one of them to its default"
        )
    if relax["keep_symmetry"] and relax["settle"]["max_rounds"]:
        problems.append(
            f"relax.keep_symmetry is true, and relax.settle.max_rounds is {relax['settle']['max_rounds']}, which "
            "breaks every symmetry; set one of them to its default"
        )
    if relax["keep_symmetry"] and relax["engine"] == "torch_sim":
        problems.append(f"relax.keep_symmetry is true, which {key}.engine: torch_sim does not support; use per_cell")
    return problems


def _check_combinations(config: Mapping) -> list[str]:
    problems = []
    grpo, data = config["grpo"], config["data"]
    grpo_of_systems = {
        f"systems.{name}.grpo": {**grpo, **system.get("grpo", {})} for name, system in config["systems"].items()
    }
    problems += problems_of_scale(config, {"grpo": grpo, **grpo_of_systems})
    problems += _check_rewards({f"{key}.reward": settings["reward"] for key, settings in grpo_of_systems.items()}, grpo)
    low, high = config["relax"]["energy_range_ev_per_atom"]
    if low >= high:
        problems.append(f"relax.energy_range_ev_per_atom is [{low}, {high}]; give the lower bound first")
    held_out = data["test_fraction"] + data["validation_fraction"]
    if held_out >= 1:
        problems.append(
            f"data.test_fraction + data.validation_fraction is {held_out:g}; "
            "it must be below 1, so that something is left to train on"
        )
    problems += _check_base_model(config["base_model"])
    problems += _check_files(data)
    problems += _check_cdvae(config)
    problems += _check_comparison(config)
    reference = config["hull"]["reference"]
    for key, settings in evaluators_by_key(config["relax"]).items():
        problems += _check_evaluator(key, settings)
        evaluator = name_in_rows(settings["potential"], settings["model"])
        problems += filter(None, [scale_mismatch(evaluator, reference, f"{key}.potential")])
    problems += repeated_evaluators(config["relax"])
    if config["hull"]["reference"] == "mp" and data["source"] in ("demo", "mp20"):
        problems.append(
            f"hull.reference is 'mp', but data.source: {data['source']} has no competing phases with the Materials "
            "Project's energies; use data.source: materials_project, or hull.reference: evaluator"
        )
    if config["hull"]["reference"] == "mp" and data["source"] == "files" and data["phases"] == EMBEDDED_PHASES:
        problems.append(
            "hull.reference is 'mp', but data.phases: demo has energies of SevenNet-0, not of the Materials Project; "
            "use hull.reference: evaluator, or a file of phases"
        )
    if config["table2"]["structure_cutoff"] <= config["table2"]["structure_novelty_cutoff"]:
        problems.append(
            f"table2.structure_novelty_cutoff is {config['table2']['structure_novelty_cutoff']:g}; it must be below "
            f"table2.structure_cutoff ({config['table2']['structure_cutoff']:g})"
        )
    for name, system in config["systems"].items():
        problems += _check_keys_of_kind(name, system)
        stages = system.get("stages", [])
        if len(set(stages)) != len(stages) or ("sft" in stages and stages.index("sft") != 0):
            problems.append(f"systems.{name}.stages is {stages}; give each stage at most once, where sft comes first")
        if system.get("grpo") and "grpo" not in stages:
            problems.append(f"systems.{name}.grpo is {system['grpo']}, but its stages are {stages}; add grpo to them")
    return problems + _check_prompt(Path(config["prompt"]["path"]))


def _check_prompt(template: Path) -> list[str]:
    """Return the problem with the prompt file, if any."""
    if not template.is_file():
        reason = "is a folder" if template.is_dir() else "does not exist"
        return [f"prompt.path is {str(template)!r}, which {reason}; the paper's prompt is resources/prompt.txt"]
    try:
        text = template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [f"prompt.path is {str(template)!r}, which cannot be read as UTF-8 text ({error}); save it as UTF-8"]
    if text.count("{formula}") != 1:
        n = text.count("{formula}")
        return [f"{template} contains {{formula}} {n} times; write it exactly once, where the chemical formula belongs"]
    return []
