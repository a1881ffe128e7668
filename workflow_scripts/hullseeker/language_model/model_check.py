"""Checks a tokenizer, its chat template and its end tokens; repairs what is safe to repair, refuses the rest.

Needs: transformers, imported when a tokenizer is read. `python -m hullseeker.language_model.model_check FOLDER` prints
the problems of a model as a JSON list. The checks before the first job run this program, which takes about 3 s and
reads no weights.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hullseeker.language_model.hub_models import missing_in_model, snapshot_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
CHECK_WITHIN_S = 300
# Atomic numbers 1 to 103.
ELEMENT_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr"
)
PROBE = "What are lengths, angles and coordinates of the crystal NaCl?\n5.7 5.7 5.7"
# Fixed date for templates that insert the current date: Thursday, 1 January 2026, midnight.
_PINNED = {
    "%Y": "2026",
    "%y": "26",
    "%m": "01",
    "%-m": "1",
    "%d": "01",
    "%-d": "1",
    "%e": " 1",
    "%j": "001",
    "%B": "January",
    "%b": "Jan",
    "%A": "Thursday",
    "%a": "Thu",
    "%H": "00",
    "%I": "12",
    "%p": "AM",
    "%M": "00",
    "%S": "00",
    "%F": "2026-01-01",
    "%T": "00:00:00",
}
# trim_blocks removes the newline after the tag, so that the rest of the template is unchanged.
PIN_OF_DATE = (
    "{%- macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{code}', '{value}')" for code, value in _PINNED.items())
    + " }}{%- endmacro %}\n"
)
# Names of the switch: enable_thinking in Qwen3, GLM and SmolLM3; thinking in DeepSeek and Granite.
THINKING_OFF = tuple(f"{{%- set {name} = false %}}\n" for name in ("enable_thinking", "thinking"))


class ModelCheckError(ValueError):
    """A model is unusable; the message says why and what to do."""


def existing_folder(model: str | Path) -> Path | None:
    """Return a model's folder: itself, or the complete snapshot of a hub name in the cache; None if there is none."""
    if Path(model).is_dir():
        return Path(model)
    snapshot = snapshot_of(str(model))
    return snapshot if snapshot is not None and not missing_in_model(snapshot) else None


def read_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer as it was saved; one of a generic class keeps its own pre-tokenizer.

    AutoTokenizer would choose the class of the model's architecture, and replace the pre-tokenizer.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    saved = Path(folder) / "tokenizer_config.json"
    generic = saved.is_file() and json.loads(saved.read_text()).get("tokenizer_class") in GENERIC_TOKENIZERS
    loader = PreTrainedTokenizerFast if generic else AutoTokenizer
    return loader.from_pretrained(str(folder), padding_side="left")


def round_trip_texts() -> list[str]:
    """Return crystal texts with every digit, decimal place and element, which the tokenizer must reproduce."""
    numbers = "\n".join(f"0.{i:02d} 0.{(7 * i) % 100:02d} 0.{99 - i:02d}" for i in range(100))
    elements = "\n".join(f"{symbol}\n0.00 0.25 0.50" for symbol in ELEMENT_SYMBOLS.split())
    return [f"5.2 11.8 40.3\n90 90 120\nMg\n{numbers}", f"5.7 4.1 9.6\n88 101 74\n{elements}"]


def mend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, prompt: str = PROBE, answers: Sequence[str] | None = None
) -> list[str]:
    """Repair a tokenizer in place so that prompts and answers work, and return one message per repair.

    Repairs: the date in the template is fixed, thinking is disabled if the template has a switch, the token with which
    the template closes an answer becomes the end token, and the end token becomes the padding token if there is none.
    All repairs are saved with the tokenizer and its template. Raises ModelCheckError if no safe repair is possible.
    """
    answers = round_trip_texts() if answers is None else answers
    template, repairs = _template_of(tokenizer), []
    if "strftime_now" in template and PIN_OF_DATE not in template:
        template = PIN_OF_DATE + template
        repairs.append("the chat template inserts today's date; every prompt has 1 January 2026 instead")
    for switch in THINKING_OFF:
        try:
            if _render(tokenizer, switch + template, prompt) != _render(tokenizer, template, prompt):
                closing_token(tokenizer, switch + template, prompt, answers)
                template = switch + template
                repairs.append(
                    "the chat template lets the model think before it answers; every prompt switches that off"
                )
        except ModelCheckError:
            continue
    closing = closing_token(tokenizer, template, prompt, answers)
    tokenizer.chat_template = template
    if tokenizer.eos_token_id != closing:
        previous_end, tokenizer.eos_token = tokenizer.eos_token, tokenizer.convert_ids_to_tokens(closing)
        repairs.append(
            f"the chat template closes an answer with {tokenizer.eos_token}, which becomes the end token instead of "
            f"{previous_end}"
        )
        if closing_token(tokenizer, template, prompt, answers) != closing:
            raise ModelCheckError(
                f"the chat template closes an answer with {tokenizer.eos_token}, but with something else once that is "
                "the end token; set eos_token in tokenizer_config.json to what closes an answer"
            )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        repairs.append(f"there is no padding token; the end token {tokenizer.eos_token} is used for padding")
    return repairs


def closing_token(tokenizer: PreTrainedTokenizerBase, template: str, prompt: str, answers: Sequence[str]) -> int:
    """Return the id of the special token with which a template closes answers; ModelCheckError if it is unusable.

    A usable template renders the prompt's text, followed unchanged by only the answer and one special token. Whitespace
    around an answer is allowed, because crystals do not depend on it.
    """
    shown = _render(tokenizer, template, prompt)
    if prompt.strip() not in shown:
        raise ModelCheckError("the chat template leaves out the prompt's text; use an instruct model")
    start = _encode(tokenizer, shown)
    if not start:
        raise ModelCheckError("the tokenizer returns no tokens for a prompt; use another model")
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    closings = set()
    for answer in answers:
        conversation = _encode(tokenizer, _render(tokenizer, template, prompt, answer))
        if conversation[: len(start)] != start:
            raise ModelCheckError("the chat template changes the prompt when an answer follows; use another model")
        after = conversation[len(start) :]
        n_answer = next((i for i, token in enumerate(after) if token in special), None)
        if n_answer is None:
            raise ModelCheckError(
                "the chat template closes no answer with a special token, so the model would never learn to stop; "
                "use an instruct model, or add the end token to its template"
            )
        decoded = tokenizer.decode(after[:n_answer], skip_special_tokens=True)
        if decoded.strip() != answer:
            shown = tokenizer.decode(after, skip_special_tokens=False)
            if answer in shown and not shown.startswith(answer):
                raise ModelCheckError(
                    f"the chat template writes {shown.partition(answer)[0]!r} before an answer and not at the end of a "
                    "prompt; use a model whose template does not, or move it in the template"
                )
            raise ModelCheckError(
                f"the tokenizer or the chat template changes a crystal's text ({_difference(answer, decoded)}); use "
                "another model"
            )
        closings.add(after[n_answer])
    if len(closings) > 1:
        raise ModelCheckError(f"the chat template closes answers with several tokens: {sorted(closings)}")
    return closings.pop()


def check_embeddings(n_tokens: int, n_embeddings: int) -> None:
    """Raise ModelCheckError if a tokenizer has more tokens than the model has embeddings."""
    if n_tokens > n_embeddings:
        raise ModelCheckError(
            f"the tokenizer has {n_tokens} tokens and the model {n_embeddings} embeddings; they are not of one model"
        )


def problems_of(folder: str | Path) -> list[str]:
    """Return why the model in a folder is unusable, without reading weights; empty if it is usable or repairable."""
    try:
        tokenizer = read_tokenizer(folder)
    except Exception as error:  # noqa: BLE001  transformers raises anything on a file it cannot use
        return [f"its tokenizer cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:300]})"]
    try:
        mend_tokenizer(tokenizer)
        config = json.loads((Path(folder) / "config.json").read_text())
        n_embeddings = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
        check_embeddings(len(tokenizer), n_embeddings or len(tokenizer))
    except ModelCheckError as error:
        return [str(error)]
    return []


def unusable_model(model: str | Path) -> list[str]:
    """Return why a base model on this disk is unusable, one line per problem; empty if it is not on this disk.

    The check runs in a separate process, because transformers imports torch. Without transformers it is skipped, and
    the jobs report the problems.
    """
    folder = existing_folder(model)
    if folder is None or missing_in_model(folder) or find_spec("transformers") is None:
        return []
    scripts_folder = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [scripts_folder, os.environ.get("PYTHONPATH", "")])),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    try:
        run = subprocess.run(
            [sys.executable, "-m", "hullseeker.language_model.model_check", str(folder.absolute())],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
            timeout=CHECK_WITHIN_S,
        )
        problems = json.loads(run.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError) as error:
        problems = [f"the check of its tokenizer failed ({type(error).__name__})"]
    return [f"base_model.path is {str(model)!r}, which cannot work: {problem}" for problem in problems]


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ModelCheckError("there is no chat template, but prompts are conversations; use an instruct model")
    return template


def _render(tokenizer: PreTrainedTokenizerBase, template: str, prompt: str, answer: str | None = None) -> str:
    messages = [{"role": "user", "content": prompt}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=answer is None
        )
    except Exception as error:  # noqa: BLE001  a template may raise anything
        what = "a prompt" if answer is None else "a prompt and its answer"
        raise ModelCheckError(
            f"the chat template fails on {what} ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
            "use another model"
        ) from error


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _difference(expected: str, actual: str) -> str:
    """Return both texts around their first difference."""
    start = next(
        (i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), min(len(expected), len(actual))
    )
    return f"{actual[max(0, start - 10) : start + 20]!r} instead of {expected[max(0, start - 10) : start + 20]!r}"


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(problems_of(sys.argv[1])))
