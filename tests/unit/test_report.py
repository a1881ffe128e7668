"""The words of the report follow the systems that there are: what was not done is not told."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from docutils.core import publish_doctree
from docutils.utils import Reporter
from jinja2 import Environment

ROOT = Path(__file__).parents[2]
CAPTIONS = sorted(path.name for path in (ROOT / "report").glob("*.rst"))
SAMPLES = {"kind": "samples", "label": "Mine", "path": "mine.csv"}
BASE = {"kind": "language_model", "label": "Base", "stages": []}
SFT = {"kind": "language_model", "label": "SFT", "stages": ["sft"]}
RL = {"kind": "language_model", "label": "RL", "stages": ["grpo"], "grpo": {"reward": "stable"}}
CDVAE = {"kind": "cdvae", "label": "CDVAE"}
EXPERIMENTS = {
    "samples": {"my-model": SAMPLES, "sft": SAMPLES},
    "base": {"base": BASE},
    "sft": {"sft": SFT, "mine": SAMPLES},
    "rl": {"base": BASE, "rl": RL},
    "cdvae": {"cdvae": CDVAE},
    "paper": None,
}


def words_of(caption: str, experiment: str, **params) -> str:
    """Return a caption as Snakemake renders it (its report module makes the environment so), on one line."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["systems"] = EXPERIMENTS[experiment] or config["systems"]
    params = {"evaluator": "E", "evaluators": {"a": "E", "b": "F"}, "n_replicates": 1, "paper_rows": {}, **params}
    given = SimpleNamespace(config=config, params=SimpleNamespace(**params))
    text = Environment(trim_blocks=True, lstrip_blocks=True).from_string((ROOT / "report" / caption).read_text())
    rendered = text.render(snakemake=given)
    settings = {"report_level": Reporter.WARNING_LEVEL, "halt_level": 5, "warning_stream": False}
    messages = publish_doctree(rendered, settings_overrides=settings)
    assert not list(messages.findall(lambda node: node.tagname == "system_message")), rendered
    return " ".join(rendered.split())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("caption", CAPTIONS)
def test_every_caption_is_well_formed(caption, experiment):
    words = words_of(caption, experiment)
    assert "{{" not in words and "{%" not in words and "None" not in words
    # A tag at the end of a line eats the line's end.
    assert not re.search(r"[a-z]\.[A-Z]", words)


# What else there is, there is without a model that is trained.
OF_SAMPLES = sorted({*CAPTIONS} - {"training_curves.rst", "reconstruction.rst", "comparison.rst"})


@pytest.mark.parametrize("caption", OF_SAMPLES)
def test_own_samples_were_written_by_no_language_model(caption):
    words = words_of(caption, "samples").lower()
    for absent in ("language model", "sft, supervised", "reinforcement learning finetuning", "cdvae", "the demo"):
        assert absent not in words


@pytest.mark.parametrize(
    ("experiment", "said", "unsaid"),
    [
        ("samples", ["Are these crystals", "No model was", "from ``mine.csv``", "in the files,"], ["One prompt"]),
        ("base", ["Does a language model write", "without training"], ["was trained on", "CHGNet potential", "CDVAE"]),
        ("sft", ["trained by sft", "read from files"], ["group relative", "repeats", "No model"]),
        ("rl", ["Does reinforcement learning", "A language model was trained by reinf"], ["SFT,", "paper's reward"]),
        ("cdvae", ["CDVAE, a diffusion autoencoder, was trained"], ["language model", "formulas and"]),
        (
            "paper",
            ["which repeats", "It was then trained further by reinf", "the paper's reward is", "CDVAE, a diffusion"],
            ["No model", "read from files"],
        ),
    ],
)  # fmt: skip
def test_the_first_page_tells_what_was_done(experiment, said, unsaid):
    words = words_of("workflow.rst", experiment)
    for word in said:
        assert word in words
    for word in unsaid:
        assert word not in words


def test_the_papers_numbers_are_explained_where_they_stand():
    assert "Where the paper printed" in words_of("table1.rst", "paper", paper_rows={"sft": "sft"})
    assert "paper printed" not in words_of("table1.rst", "samples")
