"""Estimate of a training from the config: memory per device by part, and the minimum time per step.

Needs: torch, transformers. Exact: weights, gradients and optimizer (mixed-precision Adam, Rajbhandari et al. 2020,
ZeRO, arXiv 1910.02054, section 3.1), the key-value cache, and the tiles of the loss. Activations are counted per layer
of Qwen2 and Llama architectures (gated MLP, RMSNorm, torch's fused attention), following Korthikanti et al. 2022,
arXiv 2205.05198. Operations per step: Kaplan et al. 2020, arXiv 2001.08361, section 2.1. The overhead of frameworks and
the achieved fraction of a device's peak speed are assumptions, defined below.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

# Tile size in which TRL computes logits (trl.kernels.chunked_logprob, trl.trainer.utils): tokens x vocabulary.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Assumed overhead: CUDA context and libraries, and memory lost to fragmentation in the allocator.
CONTEXT_BYTES, FRAGMENTED_SHARE = 1.5e9, 0.10
# Assumptions: achieved fraction of the peak speed in an update and of the bandwidth in decoding; Python overhead per
# layer and token in decoding (vLLM uses CUDA graphs).
UPDATE_EFFICIENCY, DECODE_EFFICIENCY = 0.4, 0.6
DECODE_OVERHEAD_S = {"transformers": 0.9e-3, "vllm_colocate": 0.1e-3, "vllm_server": 0.1e-3}
# Achieved all-gather bandwidth between the GPUs of one machine, per direction (NVLink 4: 450e9 peak).
LINK_BYTES_PER_S = 2.0e11
# Measured time of CHGNet for one crystal of ten atoms on one CPU thread.
REWARD_S = 9.2e-3


@dataclass(frozen=True)
class Device:
    """A device's specifications: memory (bytes), dense bf16 speed (FLOP/s) and memory bandwidth (bytes/s)."""

    name: str
    memory_bytes: float
    flops_per_s: float
    bytes_per_s: float


DEVICES = {
    "H200": Device("H200 141 GB", 141e9, 989e12, 4.8e12),
    "H100": Device("H100 80 GB", 80e9, 989e12, 3.35e12),
    "A100": Device("A100 80 GB", 80e9, 312e12, 2.04e12),
}


@dataclass(frozen=True)
class Shape:
    """The numbers of parameters and layer widths of a model that determine memory and time."""

    n_parameters: int
    n_adapter_parameters: int
    hidden: int
    intermediate: int
    n_layers: int
    attention_width: int
    key_value_width: int
    vocabulary: int


def shape_of(config, lora_rank: int) -> Shape:
    """Return the shape of a model from its transformers config, without allocating weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        n_parameters=sum(p.numel() for p in model.parameters()),
        n_adapter_parameters=sum(lora_rank * (m.in_features + m.out_features) for m in linears),
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        n_layers=config.num_hidden_layers,
        attention_width=config.num_attention_heads * head_width,
        key_value_width=(getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * head_width,
        vocabulary=config.vocab_size,
    )


@dataclass(frozen=True)
class Plan:
    """The settings that determine memory and time; `sharing` is accelerate's MULTI_GPU, FSDP or DEEPSPEED."""

    method: str
    weight_bytes: int
    autocast_bf16: bool
    checkpointing: bool
    batch_size: int
    device_batch_size: int
    prompt_tokens: int
    answer_tokens: int
    n_processes: int = 1
    sharing: str = "MULTI_GPU"
    # GRPO only: the engine that generates completions (None in SFT), and what goes with it.
    engine: str | None = None
    vllm_memory_share: float = 0.0
    vllm_sleep: bool = False
    has_reference: bool = False
    n_reward_workers: int = 0

    @property
    def length_tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    @property
    def n_shards(self) -> int:
        return self.n_processes if self.sharing in ("FSDP", "DEEPSPEED") else 1

    @property
    def compute_bytes(self) -> int:
        return 2 if self.autocast_bf16 else self.weight_bytes

    @property
    def trained_bytes(self) -> int:
        """Bytes per trained weight: 4 for adapters (peft) and for weights that are sharded under autocast."""
        sharded = self.n_shards > 1 and self.autocast_bf16
        return 4 if self.method == "lora" or sharded else self.weight_bytes


def plan_of(stage: str, settings: Mapping, base: Mapping, prompt_tokens: int, sharing: str) -> Plan:
    """Return the plan of a stage's settings (sft or grpo), with completions of the maximum length."""
    weight_bytes = {"float32": 4, "bfloat16": 2}[base["dtype"]]
    common = {
        "method": settings["method"],
        "weight_bytes": weight_bytes,
        "autocast_bf16": settings["autocast_bf16"],
        "checkpointing": settings["gradient_checkpointing"],
        "device_batch_size": settings["device_batch_size"],
        "prompt_tokens": prompt_tokens,
        "n_processes": settings["n_processes"],
        "sharing": sharing,
    }
    if stage == "sft":
        answer_tokens = max(0, settings["max_length_tokens"] - prompt_tokens)
        return Plan(**common, batch_size=settings["batch_size"], answer_tokens=answer_tokens)
    rollouts = settings["rollouts"]
    return Plan(
        **common,
        batch_size=settings["group_size"] * settings["prompts_per_step"],
        answer_tokens=settings["max_new_tokens"],
        engine=rollouts["engine"],
        vllm_memory_share=rollouts["vllm_memory_share"],
        vllm_sleep=rollouts["vllm_sleep"],
        has_reference=settings["kl_weight"] > 0 and settings["method"] == "full",
        n_reward_workers=settings["reward_workers"],
    )


def layer_activation_bytes(shape: Shape, plan: Plan) -> float:
    """Return the bytes per token that one layer keeps for its backward pass.

    Kept are: the float32 input of two norms, and their scaled output if they are trained; the input of each linear
    layer, with one copy per cast; queries, keys, values and result of attention; gate, activation, up projection and
    product of the MLP. For frozen linear layers, the adapters keep the inputs.
    """
    h, a, i, compute_bytes = shape.hidden, shape.attention_width, shape.intermediate, plan.compute_bytes
    if plan.method == "full":
        copies = 5 if plan.trained_bytes > compute_bytes else 2
        return 2 * h * (4 + plan.trained_bytes) + (copies * h + 5 * a + 4 * i) * compute_bytes
    casts = 2 if plan.autocast_bf16 else 4
    inputs = (2 * h + a + i) * 4 if compute_bytes == 4 else (5 * h + a + i) * casts
    return 2 * h * 4 + inputs + (4 * a + 3 * i) * compute_bytes


def memory_bytes(shape: Shape, plan: Plan, device_bytes: float) -> dict[str, dict[str, float]]:
    """Return bytes per device by phase (`update`, for GRPO also `rollouts`) and part, without overhead."""
    trained = shape.n_adapter_parameters if plan.method == "lora" else shape.n_parameters
    frozen = shape.n_parameters if plan.method == "lora" else 0
    shards, head = plan.n_shards, shape.vocabulary * shape.hidden
    tokens = plan.device_batch_size * plan.length_tokens
    completion_tokens = plan.device_batch_size * plan.answer_tokens
    common = {
        "weights": (frozen * plan.weight_bytes + trained * plan.trained_bytes) / shards,
        "optimizer": 2 * trained * plan.trained_bytes / shards,
        "reference model": plan.has_reference * shape.n_parameters * plan.weight_bytes / shards,
    }
    in_layer = (shape.n_parameters - head) / shape.n_layers
    if shards > 1:
        # Two layers and the head are gathered at a time.
        common["gathered"] = (2 * in_layer + head) * plan.compute_bytes
    layer = layer_activation_bytes(shape, plan)
    stream = shape.hidden * (plan.weight_bytes if plan.method == "lora" else plan.trained_bytes)
    bytes_per_token = shape.n_layers * stream + layer if plan.checkpointing else shape.n_layers * layer
    update = common | {
        "gradients": trained * plan.trained_bytes / shards,
        "activations": tokens * bytes_per_token,
        "loss": tile_bytes(shape, plan, completion_tokens) + (head * 4 if plan.method == "full" else 0),
    }
    if plan.autocast_bf16 and plan.method == "full" and plan.trained_bytes == 4 and shards == 1:
        update["autocast copies"] = trained * 2
    if plan.engine is None:
        return {"update": update}
    sequences = plan.batch_size / plan.n_processes
    rollouts = dict(common)
    if plan.engine == "transformers":
        cache = 2 * shape.n_layers * shape.key_value_width * plan.compute_bytes
        rollouts["keys and values"] = sequences * plan.length_tokens * cache
        rollouts["next logits"] = 3 * sequences * shape.vocabulary * 4
        if plan.sharing == "DEEPSPEED":
            rollouts["gathered"] = shape.n_parameters * plan.compute_bytes
    elif plan.engine == "vllm_colocate":
        rollouts["vLLM"] = plan.vllm_memory_share * device_bytes
        if not plan.vllm_sleep:
            update["vLLM"] = plan.vllm_memory_share * device_bytes
    return {"update": update, "rollouts": rollouts}


def tile_bytes(shape: Shape, plan: Plan, n_tokens: int) -> float:
    """Return the bytes of the loss of n_tokens: a tile of logits, and the gradient of the hidden states in float32.

    Without tiles, the logits would be n_tokens x vocabulary in the compute dtype and again in float32.
    """
    tile = min(n_tokens, TILE_TOKENS) * min(shape.vocabulary, TILE_VOCABULARY)
    return tile * plan.compute_bytes + n_tokens * shape.hidden * 4


def peak_bytes(parts: Mapping[str, Mapping[str, float]]) -> float:
    """Return the bytes of the larger phase, including overhead."""
    return CONTEXT_BYTES + (1 + FRAGMENTED_SHARE) * max(sum(phase.values()) for phase in parts.values())


def step_time_s(shape: Shape, plan: Plan, device: Device) -> dict[str, float]:
    """Return the minimum seconds per step by part; rollouts and rewards are in GRPO only."""
    per_token = 2 * (shape.n_parameters - shape.vocabulary * shape.hidden)
    per_token += 2 * plan.length_tokens * shape.attention_width * shape.n_layers
    passes = 1 + (1 if plan.method == "lora" else 2) + (1 if plan.checkpointing else 0)
    flop = plan.batch_size * plan.length_tokens * per_token * passes
    parts = {"update": flop / (plan.n_processes * device.flops_per_s * UPDATE_EFFICIENCY)}
    if plan.engine is None:
        return parts
    sequences = plan.batch_size / plan.n_processes
    cache_bytes = 2 * shape.n_layers * shape.key_value_width * 2 * sequences * plan.length_tokens / 2
    bytes_read = shape.n_parameters * plan.compute_bytes + cache_bytes
    token_s = bytes_read / (device.bytes_per_s * DECODE_EFFICIENCY) + shape.n_layers * DECODE_OVERHEAD_S[plan.engine]
    if plan.engine == "transformers" and plan.sharing == "FSDP" and plan.n_shards > 1:
        token_s += shape.n_parameters * plan.compute_bytes / LINK_BYTES_PER_S
    n_scoring = plan.n_processes * max(1, plan.n_reward_workers)
    return {"rollouts": plan.answer_tokens * token_s, "rewards": plan.batch_size * REWARD_S / n_scoring} | parts


def log_estimate(log, shape: Shape, plan: Plan, device: Device | None, memory_of_device_bytes: float) -> None:
    """Log memory by part and, if the device's speed is known, the minimum time per step; warn if it does not fit."""
    parts = memory_bytes(shape, plan, memory_of_device_bytes)
    for phase, sizes in parts.items():
        summary = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in sizes.items() if size)
        log.info("estimate, %s, GB per process: %s", phase, summary)
    peak, n_logits = peak_bytes(parts) / 1e9, plan.device_batch_size * plan.answer_tokens * shape.vocabulary
    log.info(
        "estimate: at most %.3g GB with overhead, %.3g GB available; without tiling the logits would add %.3g GB",
        peak,
        memory_of_device_bytes / 1e9,
        n_logits * (plan.compute_bytes + 4) / 1e9,
    )
    if peak * 1e9 > memory_of_device_bytes:
        log.warning(
            "the estimate does not fit: use a smaller device_batch_size, gradient_checkpointing, method: lora, or more "
            "processes with resources/accelerate/fsdp.yaml; docs/training_at_scale.md has settings that fit"
        )
    if device is not None:
        times = step_time_s(shape, plan, device)
        summary = ", ".join(f"{name} {seconds:.3g}" for name, seconds in times.items())
        log.info("estimate: a step takes at least %.3g s on %s (%s)", sum(times.values()), device.name, summary)


def device_here(device: str) -> tuple[Device | None, float]:
    """Return this process's device (None if its speed is unknown) and its memory (bytes).

    The speed of a CPU is measured with a matrix product.
    """
    import torch

    if device == "cuda":
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        device_specs = next((matrix for name, matrix in DEVICES.items() if name in properties.name), None)
        return device_specs, float(properties.total_memory)
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    matrix, times = torch.ones(512, 512), []
    for _ in range(3):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    # The memory bandwidth of one core is an assumption; Python overhead dominates for small models.
    return Device("this CPU", memory, 2 * 512**3 / min(times), 1e10), memory
