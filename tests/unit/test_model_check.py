"""Tokenizers, chat templates and end tokens: mended where that is safe, refused in a sentence where it is not."""

import datetime
import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
import trl
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Element

from configs import text_format
from hullseeker.language_model.crystal_text import make_prompt, parse_crystal
from hullseeker.language_model.generation import (
    context_tokens,
    load_language_model,
    load_tokenizer,
    longest_prompt_that_fits,
    render_prompts,
    sample_completions,
    sha256_of_prompts,
)
from hullseeker.language_model.model_check import (
    ELEMENT_SYMBOLS,
    PIN_OF_DATE,
    ModelCheckError,
    mend_tokenizer,
    problems_of,
    read_tokenizer,
    unusable_model,
)
from hullseeker.workflow.preflight import missing_base_model
from train_grpo import max_tokens_of_rollouts
from train_sft import as_tokens

ROOT = Path(__file__).parents[2]
BASE_MODEL = ROOT / "resources" / "base_model"
PLAIN = (BASE_MODEL / "chat_template.jinja").read_text()
PROMPT = (ROOT / "resources" / "prompt.txt").read_text()
CRYSTAL = "5.7 5.7 5.7\n90 90 90\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"
END, IM_END = 0, 2
# As Qwen3's: an empty think block before an answer, and in the prompt only where thinking is off.
THINK = """{%- for message in messages %}{%- if message.role == 'user' %}{{- '<|im_start|>user\n' + message.content
+ '<|im_end|>\n' }}{%- else %}{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message.content + '<|im_end|>\n'
}}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""
WITHOUT_SWITCH = THINK.replace("enable_thinking is defined and enable_thinking is false", "false")
DATED = """{% set d = strftime_now('%d %b %Y') if strftime_now is defined else 'never' %}<|im_start|>system
Today: {{ d }}<|im_end|>
"""
DATE_CODES = [*(f"%{code}" for code in "dmYybBaAHIMSpjFTe"), "-", "/", ",", "of"]


def make_model(folder: Path, template: str | None = PLAIN, **changes) -> Path:
    """Copy the embedded model, with another template, and keys of its files changed (None: removed)."""
    shutil.copytree(BASE_MODEL, folder)
    if template is None:
        (folder / "chat_template.jinja").unlink()
    else:
        (folder / "chat_template.jinja").write_text(template)
    for name, keys in changes.items():
        path = folder / f"{name}.json"
        held = {**json.loads(path.read_text()), **keys}
        path.write_text(json.dumps({key: value for key, value in held.items() if value is not None}))
    return folder


def learned_of(tokenizer) -> list[int]:
    tokens = as_tokens(tokenizer, PROMPT, "NaCl", CRYSTAL)
    return [i for i, mask in zip(tokens["input_ids"], tokens["completion_mask"], strict=True) if mask]


def test_the_embedded_model_needs_no_mending():
    tokenizer = read_tokenizer(BASE_MODEL)
    assert mend_tokenizer(tokenizer) == []
    assert tokenizer.chat_template == PLAIN and problems_of(BASE_MODEL) == []


def test_the_elements_are_all():
    assert ELEMENT_SYMBOLS.split() == [Element.from_Z(z).symbol for z in range(1, 104)]


def test_without_a_pad_token_the_end_token_pads(tmp_path):
    folder = make_model(
        tmp_path / "m", tokenizer_config={"pad_token": None}, config={"pad_token_id": None}, generation_config={}
    )
    assert read_tokenizer(folder).pad_token_id is None
    model, tokenizer = load_language_model(folder)
    assert (tokenizer.pad_token_id, model.generation_config.pad_token_id) == (IM_END, IM_END)
    asked = [make_prompt(PROMPT, formula) for formula in ("NaCl", "Sr2TiO4")]
    how = {"temperature": 0.7, "top_p": 0.8, "max_new_tokens": 100}
    together = sample_completions(model, tokenizer, asked, [1, 2], **how)
    assert together == [sample_completions(model, tokenizer, [asked[i]], [i + 1], **how)[0] for i in (0, 1)]
    assert together == sample_completions(*load_language_model(BASE_MODEL), asked, [1, 2], **how)


def test_what_the_template_closes_an_answer_with_is_the_end(tmp_path):
    """As in the base models of Qwen2.5: <|endoftext|> is named as the end token, and an answer closes with another."""
    folder = make_model(
        tmp_path / "m",
        tokenizer_config={"eos_token": "<|endoftext|>"},
        config={"eos_token_id": END},
        generation_config={"eos_token_id": END},
    )
    assert read_tokenizer(folder).eos_token_id == END
    model, tokenizer = load_language_model(folder)
    assert tokenizer.eos_token_id == IM_END and model.generation_config.eos_token_id == [IM_END, END]
    assert IM_END in learned_of(tokenizer)
    (found,) = sample_completions(
        model, tokenizer, [make_prompt(PROMPT, "NaCl")], [1], temperature=0, top_p=1.0, max_new_tokens=100
    )
    assert found.ended and found.n_tokens < 40 and parse_crystal(found.text, text_format()).columns
    tokenizer.save_pretrained(tmp_path / "trained")
    assert read_tokenizer(tmp_path / "trained").eos_token_id == IM_END
    assert mend_tokenizer(read_tokenizer(tmp_path / "trained")) == []


def test_an_empty_think_block_belongs_to_the_prompt(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        tokenizer = load_tokenizer(make_model(tmp_path / "m", THINK), logging.getLogger())
    assert "lets the model think before it answers; every prompt switches that off" in caplog.text
    (shown,) = render_prompts(tokenizer, [PROMPT])
    assert shown.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(learned_of(tokenizer)) == f"{CRYSTAL}<|im_end|>\n"
    tokenizer.save_pretrained(tmp_path / "trained")
    assert mend_tokenizer(read_tokenizer(tmp_path / "trained")) == []
    # TRL renders by the template alone.
    assert (
        read_tokenizer(tmp_path / "trained").apply_chat_template(
            [{"role": "user", "content": PROMPT}], tokenize=False, add_generation_prompt=True
        )
        == shown
    )


def test_a_date_in_the_template_is_one_date_for_ever(tmp_path, monkeypatch):
    folder = make_model(tmp_path / "m", DATED + PLAIN)

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 7, 14, 15, 16, 17, tzinfo=tz)

    own = read_tokenizer(folder)
    before = [render_prompts(own, [PROMPT])[0], sha256_of_prompts(load_tokenizer(folder), [PROMPT])]
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    assert "Today: 14 Jul 2031" in render_prompts(own, [PROMPT])[0] != before[0]
    tokenizer = load_tokenizer(folder)
    assert render_prompts(tokenizer, [PROMPT])[0].startswith("<|im_start|>system\nToday: 01 Jan 2026<|im_end|>\n")
    assert sha256_of_prompts(tokenizer, [PROMPT]) == before[1]
    tokenizer.save_pretrained(tmp_path / "trained")
    assert mend_tokenizer(read_tokenizer(tmp_path / "trained")) == []
    assert read_tokenizer(tmp_path / "trained").chat_template == PIN_OF_DATE + DATED + PLAIN


@given(st.lists(st.sampled_from(DATE_CODES), max_size=6))
@settings(max_examples=30, deadline=None)
def test_a_pinned_date_is_what_the_calendar_says(codes):
    tokenizer = load_tokenizer(BASE_MODEL)
    wanted = " ".join(codes)
    template = PIN_OF_DATE + "{{ strftime_now('" + wanted + "') }}|" + PLAIN
    shown = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], chat_template=template, tokenize=False)
    assert shown.split("|")[0] == datetime.datetime(2026, 1, 1).strftime(wanted)


def test_the_prompts_hash_is_of_the_set_of_rendered_prompts():
    tokenizer = load_tokenizer(BASE_MODEL)
    one = sha256_of_prompts(tokenizer, ["a", "b"])
    assert one == sha256_of_prompts(tokenizer, ["b", "a", "b"]) != sha256_of_prompts(tokenizer, ["a"])
    tokenizer.chat_template = "Hi. " + PLAIN
    assert sha256_of_prompts(tokenizer, ["a", "b"]) != one


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "there is no chat template"),
        (
            "{% for m in messages %}{% if m.role=='user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
            "{% endif %}{% endfor %}",
            "closes no answer with a special token",
        ),
        (
            THINK.replace("enable_thinking is defined and enable_thinking is false", "false"),
            "writes '<think>\\n\\n</think>\\n\\n' before an answer",
        ),
        (PLAIN.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"), "changes the prompt"),
        ("{{ messages | length }}" + PLAIN, "changes the prompt"),
        (PLAIN.replace("message['content']", "'Hello'"), "leaves out the prompt's text"),
        (
            "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + PLAIN,
            "fails on a prompt and its answer (TemplateError: one turn only)",
        ),
        ("{% for", "fails on a prompt (TemplateSyntaxError"),
        (PLAIN.replace("message['content']", "message['content'] | replace('0.25', '0.250')"), "instead of '"),
        (PLAIN.replace("<|im_end|>", "### End"), "closes no answer with a special token"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(tmp_path, template, words):
    folder = make_model(tmp_path / "m", template)
    (problem,) = problems_of(folder)
    assert words in problem and "\n" not in problem
    with pytest.raises(ModelCheckError) as refused:
        load_tokenizer(folder)
    assert str(refused.value) == problem


def test_a_tokenizer_that_loses_text_or_is_of_another_model_is_refused(tmp_path):
    folder = make_model(tmp_path / "lower")
    held = json.loads((folder / "tokenizer.json").read_text())
    held["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(held))
    (problem,) = problems_of(folder)
    assert "text ('90 90 120\\nmg" in problem and "instead of '90 90 120\\nMg" in problem
    n = len(read_tokenizer(BASE_MODEL))
    folder = make_model(tmp_path / "small", config={"vocab_size": n - 1})
    assert problems_of(folder) == [
        f"the tokenizer has {n} tokens and the model {n - 1} embeddings; they are not of one model"
    ]
    (tmp_path / "small" / "tokenizer.json").write_text("{")
    (problem,) = problems_of(folder)
    assert problem.startswith("its tokenizer cannot be read (")


def test_templates_by_name_and_thinking_that_is_called_otherwise():
    tokenizer = read_tokenizer(BASE_MODEL)
    tokenizer.chat_template = {"tool_use": "{{ 'no' }}", "default": THINK.replace("enable_thinking", "thinking")}
    assert len(mend_tokenizer(tokenizer)) == 1
    assert render_prompts(tokenizer, ["x"])[0].endswith("</think>\n\n")
    tokenizer.chat_template = {"tool_use": PLAIN}
    with pytest.raises(ModelCheckError, match="no chat template"):
        mend_tokenizer(tokenizer)


def of_family(family: str):
    """The embedded tokenizer with a family's chat template as TRL ships it, and the special tokens that it names."""
    tokenizer = read_tokenizer(BASE_MODEL)
    template = (Path(trl.__file__).parent / "chat_templates" / f"{family}.jinja").read_text()
    named = set(re.findall(r"<\|[^|<>\s]+\|>|<｜[^｜]+｜>|<end_of_turn>|<start_of_turn>", template))
    tokenizer.add_special_tokens({"bos_token": "<bos>", "extra_special_tokens": sorted(named)})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("family", "end", "n_mended", "before_an_answer"),
    [
        ("qwen2_5", "<|im_end|>", 0, "<|im_start|>assistant\n"),
        ("qwen3", "<|im_end|>", 1, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("qwen3_instruct_2507", "<|im_end|>", 0, "<|im_start|>assistant\n"),
        ("llama3_2", "<|eot_id|>", 2, "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("gemma3", "<end_of_turn>", 1, "<start_of_turn>model\n"),
        ("phi3_5", "<|end|>", 1, "<|assistant|>\n"),
        ("cohere", "<|END_OF_TURN_TOKEN|>", 1, "<|CHATBOT_TOKEN|>"),
        ("nemotron_3_nano", "<|im_end|>", 1, "<|im_start|>assistant\n<think></think>"),
    ],
)
def test_templates_of_models_in_use(family, end, n_mended, before_an_answer):
    tokenizer = of_family(family)
    assert len(mend_tokenizer(tokenizer)) == n_mended
    assert tokenizer.eos_token == end and tokenizer.convert_tokens_to_ids(end) in learned_of(tokenizer)
    (shown,) = render_prompts(tokenizer, [PROMPT])
    assert shown.endswith(before_an_answer) and PROMPT.strip() in shown
    assert tokenizer.decode(learned_of(tokenizer)).startswith(f"{CRYSTAL}{end}")
    assert mend_tokenizer(tokenizer) == []


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("deepseek_r1_distill", "changes the prompt"),
        ("gptoss", "writes '<|channel|>final<|message|>' before an answer"),
        ("glm4moe", "closes no answer"),
    ],
)
def test_templates_in_use_that_cannot_be_trained_on(family, words):
    with pytest.raises(ModelCheckError, match=re.escape(words)):
        mend_tokenizer(of_family(family))


def test_preflight_checks_a_model_on_the_disk(tmp_path, monkeypatch):
    folder = make_model(tmp_path / "m", None)
    assert missing_base_model(str(folder)) == [
        f"base_model.path is {str(folder)!r}, which cannot work: there is no chat template, but prompts are "
        "conversations; use an instruct model"
    ]
    assert unusable_model(make_model(tmp_path / "think", THINK)) == []
    assert unusable_model("owner/model-that-is-not-here") == []
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    put_in_cache(tmp_path / "hub", "owner/none", folder)
    (problem,) = missing_base_model("owner/none")
    assert problem.startswith("base_model.path is 'owner/none', which cannot work: there is no chat template")


def put_in_cache(cache: Path, name: str, folder: Path) -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return Path(shutil.copytree(folder, repository / "snapshots" / ("0" * 40)))


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "TokenizersBackend"])
def test_a_model_by_hub_name_gives_the_tokens_that_its_folder_gives(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = make_model(tmp_path / "m", tokenizer_config={"tokenizer_class": kind, "backend": None})
    put_in_cache(tmp_path / "hub", "owner/tiny", folder)
    text = "5.7 11.8 40.3\n90 90 120\nNa\n0.25 0.50 0.75"
    ids = load_tokenizer(folder)(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 17
    assert load_tokenizer("owner/tiny")(text, add_special_tokens=False)["input_ids"] == ids
    model, tokenizer = load_language_model("owner/tiny")
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    assert torch.equal(model.lm_head.weight, load_language_model(folder)[0].lm_head.weight)
    with pytest.raises(OSError, match="neither a folder here nor a hub name"):
        load_tokenizer("no/such/folder")


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused():
    tokenizer, context = load_tokenizer(BASE_MODEL), context_tokens(BASE_MODEL)
    n = longest_prompt_that_fits(tokenizer, ["x", PROMPT], 10, context, "grpo.max_new_tokens")
    ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in render_prompts(tokenizer, [PROMPT])]
    assert n == len(ids[0]) and context == 1024
    assert longest_prompt_that_fits(tokenizer, [PROMPT], 10, n + 10, "k") == n
    with pytest.raises(ValueError, match=f"the longest prompt has {n} tokens, and with k of 10 .* the {n + 9} tokens"):
        longest_prompt_that_fits(tokenizer, [PROMPT], 10, n + 9, "k")
    rollouts = {"engine": "vllm_colocate", "vllm_max_length_tokens": 100}
    limit = max_tokens_of_rollouts
    assert limit({"rollouts": rollouts}, 512) == 100 == limit({"rollouts": rollouts}, None)
    assert limit({"rollouts": {**rollouts, "engine": "transformers"}}, 512) == 512
