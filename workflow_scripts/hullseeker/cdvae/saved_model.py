"""A trained CDVAE on disk: a folder with model.safetensors and config.json; no pickle.

Needs: torch, safetensors, torch_geometric.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from hullseeker.cdvae.model import Cdvae
from hullseeker.runtime.atomic_writes import replacing

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_model(model: Cdvae, folder: str | Path) -> None:
    """Write settings, then weights, each file atomically."""
    folder = Path(folder)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(
            json.dumps({"settings": model.settings, "bounds": model.bounds}, indent=1), encoding="utf-8"
        )
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)


def load_model(folder: str | Path, device: str, sampling: dict | None = None) -> Cdvae:
    """Return the model on a device, in evaluation mode, with `sampling` settings replaced if given.

    Raises FileNotFoundError if the folder has no model.
    """
    folder = Path(folder)
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}; run the rule train_cdvae, which makes it")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    settings = config["settings"] | ({"sampling": dict(sampling)} if sampling else {})
    model = Cdvae(settings, config["bounds"])
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.to(device).eval()
