"""Whether a checkpoint of a potential can be loaded without calling foreign code.

Needs: torch.
"""

from __future__ import annotations

from pathlib import Path

# What a checkpoint's pickle may name beside the tensors and containers that torch itself takes for safe.
_HARMLESS = frozenset(
    [
        "numpy.ndarray",
        "numpy.dtype",
        *(f"numpy.{core}.multiarray.{what}" for core in ("core", "_core") for what in ("_reconstruct", "scalar")),
    ]
)


def require_harmless(checkpoint: str | Path) -> None:
    """Raise ValueError where loading a checkpoint would call anything but what builds arrays; nothing is called here.

    The packages themselves load any pickle (weights_only=False).
    """
    import torch

    key = f"relax.model is {str(checkpoint)!r}"
    try:
        named = set(torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint)) - _HARMLESS
    except Exception as error:
        raise ValueError(
            f"relax.model is {str(checkpoint)!r}, which torch cannot read as a checkpoint: {error}"
        ) from error
    if named:
        raise ValueError(
            f"{key}, and loading it would call {', '.join(sorted(named))}; save the model's state as tensors, numbers "
            "and arrays alone"
        )
