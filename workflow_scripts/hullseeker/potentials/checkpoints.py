"""Safety check of checkpoints: loading one must not execute arbitrary code.

Needs: torch.
"""

from __future__ import annotations

from pathlib import Path

# Globals that a checkpoint's pickle may reference, besides those that torch considers safe.
_SAFE_GLOBALS = frozenset(
    [
        "numpy.ndarray",
        "numpy.dtype",
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    ]
)


def require_safe_checkpoint(checkpoint: str | Path) -> None:
    """Raise ValueError if loading a checkpoint would call any function that does not construct arrays.

    The pickle is inspected, not executed. The packages of the potentials load any pickle (weights_only=False).
    """
    import torch

    setting = f"relax.model is {str(checkpoint)!r}"
    try:
        unsafe = set(torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint)) - _SAFE_GLOBALS
    except Exception as error:
        raise ValueError(f"{setting}, which torch cannot read as a checkpoint: {error}") from error
    if unsafe:
        raise ValueError(
            f"{setting}, and loading it would call {', '.join(sorted(unsafe))}; save the model's state as tensors, "
            "numbers and arrays only"
        )
