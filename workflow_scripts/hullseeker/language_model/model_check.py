"""Whether a tokenizer, its chat template and its end tokens can work here: mended where it is safe, else refused.

Needs: transformers, imported when a tokenizer is read. As a program,
`python -m hullseeker.language_model.model_check FOLDER` prints what is wrong with a model, one JSON list; the checks
before the first job run it so, in about 3 s and without reading weights.
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
# Of the atomic numbers 1 to 103.
ELEMENT_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr"
)
PROBE = "What are lengths, angles and coordinates of the crystal NaCl?\n5.7 5.7 5.7"
# A template that asks for the date is given this one, whatever the day: Thursday, 1 January 2026, midnight.
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
# trim_blocks takes the line end after the tag, so that what follows is the template as it was.
PIN_OF_DATE = (
    "{%- macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{code}', '{value}')" for code, value in _PINNED.items())
    + " }}{%- endmacro %}\n"
)
# What models call it: Qwen3, GLM and SmolLM3; DeepSeek and Granite.
THINKING_OFF = tuple(f"{{%- set {name} = false %}}\n" for name in ("enable_thinking", "thinking"))


class ModelCheckError(ValueError):
    """A model that cannot work here: the sentence says why and what to do."""


def folder_of(model: str | Path) -> Path | None:
    """Return a model's folder: itself, or the whole snapshot of a hub name in the cache; None where there is none."""
    if Path(model).is_dir():
        return Path(model)
    snapshot = snapshot_of(str(model))
    return snapshot if snapshot is not None and not missing_in_model(snapshot) else None


def read_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer as it was saved; one saved under the generic class keeps its own pre-tokenizer.

    AutoTokenizer goes by the model's architecture and would put that architecture's pre-tokenizer in its place.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    saved = Path(folder) / "tokenizer_config.json"
    generic = saved.is_file() and json.loads(saved.read_text()).get("tokenizer_class") in GENERIC_TOKENIZERS
    loader = PreTrainedTokenizerFast if generic else AutoTokenizer
    return loader.from_pretrained(str(folder), padding_side="left")


def texts_to_survive() -> list[str]:
    """Return texts in the form of crystals: every digit, every decimal place, every element."""
    numbers = "\n".join(f"0.{i:02d} 0.{(7 * i) % 100:02d} 0.{99 - i:02d}" for i in range(100))
    elements = "\n".join(f"{symbol}\n0.00 0.25 0.50" for symbol in ELEMENT_SYMBOLS.split())
    return [f"5.2 11.8 40.3\n90 90 120\nMg\n{numbers}", f"5.7 4.1 9.6\n88 101 74\n{elements}"]


def mend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, prompt: str = PROBE, answers: Sequence[str] | None = None
) -> list[str]:
    """Mend a tokenizer in place so that prompts and answers work, and return what was done, one sentence each.

    The date of a template is pinned, thinking is switched off where the template has a switch, what the template closes
    an answer with becomes the end token, and the end token pads where nothing does. All of it stands in the tokenizer
    and its template, so it is saved with it. Raises ModelCheckError where no safe mending helps.
    """
    answers = texts_to_survive() if answers is None else answers
    template, done = _template_of(tokenizer), []
    if "strftime_now" in template and PIN_OF_DATE not in template:
        template = PIN_OF_DATE + template
        done.append("the chat template asks for today's date; every prompt has 1 January 2026 instead")
    for switch in THINKING_OFF:
        try:
            if _render(tokenizer, switch + template, prompt) != _render(tokenizer, template, prompt):
                closing_token(tokenizer, switch + template, prompt, answers)
                template = switch + template
                done.append("the chat template lets the model think before it answers; every prompt switches that off")
        except ModelCheckError:
            continue
    closing = closing_token(tokenizer, template, prompt, answers)
    tokenizer.chat_template = template
    if tokenizer.eos_token_id != closing:
        before, tokenizer.eos_token = tokenizer.eos_token, tokenizer.convert_ids_to_tokens(closing)
        done.append(f"an answer ends with {tokenizer.eos_token}, with which the chat template closes it, not {before}")
        if closing_token(tokenizer, template, prompt, answers) != closing:
            raise ModelCheckError(
                f"the chat template closes an answer with {tokenizer.eos_token}, and with something else where that is "
                "the end token; set eos_token in tokenizer_config.json to what closes an answer"
            )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        done.append(f"no token pads; the end token {tokenizer.eos_token} does now")
    return done


def closing_token(tokenizer: PreTrainedTokenizerBase, template: str, prompt: str, answers: Sequence[str]) -> int:
    """Return the id of the special token that a template closes answers with; ModelCheckError where it does not work.

    A template works where a prompt holds its text and goes on, unchanged, with nothing but the answer and one special
    token; whitespace around an answer is no harm, as no crystal depends on it.
    """
    shown = _render(tokenizer, template, prompt)
    if prompt.strip() not in shown:
        raise ModelCheckError("the chat template leaves out the prompt's text; use an instruct model")
    start = _encode(tokenizer, shown)
    if not start:
        raise ModelCheckError("the tokenizer makes no tokens of a prompt; use another model")
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    closings = set()
    for answer in answers:
        whole = _encode(tokenizer, _render(tokenizer, template, prompt, answer))
        if whole[: len(start)] != start:
            raise ModelCheckError("the chat template changes the prompt when an answer follows; use another model")
        after = whole[len(start) :]
        n_answer = next((i for i, token in enumerate(after) if token in special), None)
        if n_answer is None:
            raise ModelCheckError(
                "the chat template closes no answer with a special token, so the model would never learn to stop; "
                "use an instruct model, or add the end token to its template"
            )
        found = tokenizer.decode(after[:n_answer], skip_special_tokens=True)
        if found.strip() != answer:
            shown = tokenizer.decode(after, skip_special_tokens=False)
            if answer in shown and not shown.startswith(answer):
                raise ModelCheckError(
                    f"the chat template writes {shown.partition(answer)[0]!r} before an answer and not at the end of a "
                    "prompt; use a model whose template does not, or move it in the template"
                )
            raise ModelCheckError(
                f"the tokenizer, or the chat template, makes {_difference(answer, found)} of a crystal's text; use "
                "another model"
            )
        closings.add(after[n_answer])
    if len(closings) > 1:
        raise ModelCheckError(f"the chat template closes answers with several tokens: {sorted(closings)}")
    return closings.pop()


def check_embeddings(n_tokens: int, n_embeddings: int) -> None:
    """Raise ModelCheckError where a tokenizer has tokens that the model has no embedding of."""
    if n_tokens > n_embeddings:
        raise ModelCheckError(
            f"the tokenizer has {n_tokens} tokens and the model {n_embeddings} embeddings; they are not of one model"
        )


def problems_of(folder: str | Path) -> list[str]:
    """Return why the model in a folder cannot work here, without its weights; nothing where it can or is mended."""
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
    """Return why a base model that is on this disk cannot work, one line each; nothing where it is not here.

    In a process of its own, as transformers brings torch; where this Python lacks transformers, the jobs find it out.
    """
    folder = folder_of(model)
    if folder is None or missing_in_model(folder) or find_spec("transformers") is None:
        return []
    here = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])),
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
        problems = [f"the check of its tokenizer did not end well ({type(error).__name__})"]
    return [f"base_model.path is {str(model)!r}, which cannot work: {problem}" for problem in problems]


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ModelCheckError("there is no chat template, and prompts are conversations; use an instruct model")
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


def _difference(meant: str, found: str) -> str:
    """Return what was found where two texts first differ, and what was meant."""
    at = next((i for i, (a, b) in enumerate(zip(meant, found, strict=False)) if a != b), min(len(meant), len(found)))
    return f"{found[max(0, at - 10) : at + 20]!r} instead of {meant[max(0, at - 10) : at + 20]!r}"


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(problems_of(sys.argv[1])))
