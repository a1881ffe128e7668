"""Check of the configured device (CPU or GPU).

Needs: torch.
"""

from __future__ import annotations


def require_device(device: str, key: str) -> None:
    """Raise RuntimeError, naming the config key, if `device` is a GPU and torch finds none."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(
            f"{key} is {device!r}, but torch finds no GPU on this machine; run it on one, or set {key}: cpu"
        )
