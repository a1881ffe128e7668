"""The estimate before a training: by hand for Qwen2.5-7B, and against what a small model really holds."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from hullseeker.language_model.settings_that_fit import BEGIN, END, markdown, qwen_7b
from hullseeker.language_model.training_estimate import (
    DEVICES,
    Plan,
    layer_activation_bytes,
    log_estimate,
    memory_bytes,
    peak_bytes,
    plan_of,
    shape_of,
    step_time_s,
)
from processes_examples import settings_of

ROOT = Path(__file__).parents[2]
SMALL = Qwen2Config(
    vocab_size=700,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)


def test_qwen_7b_by_hand():
    """7,615,616,512 weights as its model card says (7.61B); per layer q and o 3584, k and v 512, MLP 18,944 wide."""
    shape = qwen_7b()
    attention = 2 * 3584 * 3584 + 2 * 3584 * 512 + 3584 + 2 * 512
    layer = attention + 3 * 3584 * 18944 + 2 * 3584
    assert shape.n_parameters == 28 * layer + 2 * 152064 * 3584 + 3584 == 7_615_616_512
    adapters = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert shape.n_adapter_parameters == 28 * 16 * adapters == 40_370_176


def test_memory_by_hand():
    shape = qwen_7b()
    lora = Plan("lora", 2, True, True, 64, 8, 200, 824)
    (update,) = memory_bytes(shape, lora, 80e9).values()
    assert update["weights"] == 7_615_616_512 * 2 + 40_370_176 * 4
    assert update["optimizer"] == 2 * update["gradients"] == 2 * 40_370_176 * 4
    assert update["loss"] == 4096 * 32768 * 2 + 8 * 824 * 3584 * 4
    full = replace(lora, method="full", weight_bytes=4, n_processes=4, sharing="FSDP")
    (update,) = memory_bytes(shape, full, 80e9).values()
    # ZeRO stage 3: 16 bytes a weight, here all in float32, over the processes.
    assert update["weights"] + update["gradients"] + update["optimizer"] == 16 * 7_615_616_512 / 4
    grpo = replace(lora, batch_size=128, answer_tokens=512, engine="transformers")
    rollouts = memory_bytes(shape, grpo, 80e9)["rollouts"]
    assert rollouts["keys and values"] == 128 * 712 * 57_344
    assert "gradients" not in rollouts
    colocated = memory_bytes(shape, replace(grpo, engine="vllm_colocate", vllm_memory_share=0.3), 80e9)
    assert colocated["update"]["vLLM"] == colocated["rollouts"]["vLLM"] == 24e9
    asleep = replace(grpo, engine="vllm_colocate", vllm_memory_share=0.3, vllm_sleep=True)
    assert "vLLM" not in memory_bytes(shape, asleep, 80e9)["update"]


def test_time_by_hand():
    shape = qwen_7b()
    plan = Plan("full", 2, True, True, 64, 8, 200, 824, n_processes=4)
    per_token = 2 * (7_615_616_512 - 152064 * 3584) + 2 * 1024 * 3584 * 28
    expected = 64 * 1024 * per_token * 4 / (4 * 989e12 * 0.4)
    assert step_time_s(shape, plan, DEVICES["H100"]) == {"update": pytest.approx(expected)}
    lora = replace(plan, method="lora", checkpointing=False, engine="transformers")
    parts = step_time_s(shape, lora, DEVICES["H100"])
    assert parts["update"] == pytest.approx(expected / 2)
    assert parts["rewards"] == pytest.approx(64 * 9.2e-3 / 4)
    read = 2 * 7_615_616_512 + 16 * 512 * 57_344
    assert parts["rollouts"] == pytest.approx(824 * (read / (3.35e12 * 0.6) + 28 * 0.9e-3))


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_small_model_holds_what_is_estimated(method, dtype, autocast):
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(SMALL).to(getattr(torch, dtype))
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    weight_bytes = {"float32": 4, "bfloat16": 2}[dtype]
    plan = Plan(method, weight_bytes, autocast, False, 2, 2, 20, 44)
    held = memory_bytes(shape_of(SMALL, 4), plan, 1e9)["update"]
    weights = list(model.parameters())
    assert held["weights"] == sum(p.numel() * p.element_size() for p in weights)

    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in weights}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(0, 700, (2, 64))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    decoder = model.get_base_model().model if method == "lora" else model.model
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = decoder(input_ids=ids, attention_mask=mask).last_hidden_state
    assert held["activations"] == 128 * 3 * layer_activation_bytes(shape_of(SMALL, 4), plan)
    # Weights cast under autocast are kept too, but those of embedding and head, which are not in these layers.
    casts = 2 * sum(p.numel() for p in decoder.layers.parameters()) if autocast and dtype == "float32" else 0
    assert sum(kept.values()) == pytest.approx(held["activations"] + casts, rel=0.2)

    optimizer = torch.optim.AdamW([p for p in weights if p.requires_grad])
    hidden.float().sum().backward()
    for p in weights:  # the head, which is outside what ran
        if p.requires_grad and p.grad is None:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    assert held["gradients"] == sum(p.grad.numel() * p.grad.element_size() for p in weights if p.grad is not None)
    states = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    assert held["optimizer"] == sum(t.numel() * t.element_size() for t in states)


def test_checkpointing_keeps_one_layer_and_the_stream():
    shape, plan = qwen_7b(), Plan("lora", 2, True, False, 64, 8, 200, 824)
    whole, less = (
        memory_bytes(shape, replace(plan, checkpointing=c), 80e9)["update"]["activations"] for c in (False, True)
    )
    layer = layer_activation_bytes(shape, plan)
    assert whole == 8 * 1024 * 28 * layer
    assert less == 8 * 1024 * (28 * 3584 * 2 + layer)


def test_what_does_not_fit_is_said(caplog):
    base = {"dtype": "float32", "device": "cuda"}
    plan = plan_of("sft", settings_of("sft", method="full", max_length_tokens=1024), base, 200, "MULTI_GPU")
    with caplog.at_level(logging.INFO):
        log_estimate(logging.getLogger(), qwen_7b(), plan, DEVICES["H100"], 80e9)
    assert "does not fit" in caplog.text and "smaller device_batch_size" in caplog.text
    assert "weights 30.5, optimizer 60.9" in caplog.text and "a step takes at least" in caplog.text
    assert peak_bytes(memory_bytes(qwen_7b(), plan, 80e9)) > 120e9


def test_the_table_of_the_docs_is_the_estimate():
    """Repair: make training-table."""
    text = (ROOT / "docs" / "training_at_scale.md").read_text()
    assert text.split(BEGIN)[1].split(END)[0].strip() == markdown()
