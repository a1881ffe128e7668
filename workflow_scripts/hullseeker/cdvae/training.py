"""CDVAE training: Adam, learning rate reduced on plateau, checkpoints from which an interrupted run resumes exactly.

Needs: torch, safetensors, torch_geometric.

All random numbers of an epoch are derived from the seed and the epoch number. A run resumed at the end of an epoch
therefore uses the same random numbers as an uninterrupted run, without saved generator states.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hullseeker.cdvae.data import Batch, Prepared, lattice_scale
from hullseeker.cdvae.model import TERMS, Cdvae, Draws
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.provenance import seed_for

VALIDATED = ("coordinates", "types")
# Minimum number of noisy crystals per validation.
VALIDATION_DRAWS = 400


@dataclass
class State:
    """Progress of a training: epochs done, optimizer steps, best validation loss, and log of all epochs."""

    epoch: int = 0
    step: int = 0
    best: float = math.inf
    best_epoch: int = 0
    history: list[dict] = field(default_factory=list)


class Training:
    """Trains a new model, or resumes from the checkpoint if it belongs to this run.

    `identity` is a hash of everything that determines the run.
    """

    def __init__(
        self,
        settings: Mapping,
        bounds: Mapping,
        train: Prepared,
        val: Prepared,
        seed: int,
        checkpoint: Path,
        identity: str,
    ) -> None:
        self.settings, self.training_settings, self.seed = settings, settings["training"], seed
        self.train, self.val, self.checkpoint, self.identity = train, val, Path(checkpoint), identity
        mean, deviation = lattice_scale(train.crystals)
        torch.manual_seed(seed_for(seed, "train_cdvae", "weights"))
        self.model = Cdvae(settings, bounds)
        self.model.lattice_mean.copy_(mean)
        self.model.lattice_deviation.copy_(deviation)
        self.model.to(settings["device"])
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=self.training_settings["learning_rate"], fused=True
        )
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            factor=self.training_settings["plateau_factor"],
            patience=self.training_settings["plateau_patience_epochs"],
            min_lr=self.training_settings["min_learning_rate"],
        )
        self.state = State()
        self.best_weights = self.first_weights = self._weights()
        self.resumed = self._resume()

    def run(self, on_epoch: Callable[[dict], None] = lambda _: None) -> Cdvae:
        """Train to the last epoch; return the model with the weights of the best validation loss, in evaluation mode.

        Raises RuntimeError if these weights equal the initial ones.
        """
        while self.state.epoch < self.training_settings["n_epochs"]:
            self.state.epoch += 1
            entry = self._epoch()
            self.scheduler.step(entry["eval_loss"])
            self.state.history.append(entry)
            if entry["eval_loss"] < self.state.best:
                self.state.best, self.state.best_epoch = entry["eval_loss"], self.state.epoch
                self.best_weights = self._weights()
            if (
                self.state.epoch % self.training_settings["save_every_epochs"] == 0
                or self.state.epoch == self.training_settings["n_epochs"]
            ):
                self._save()
            on_epoch(entry)
        if not self.weight_change() > 0:
            raise RuntimeError(
                f"after {self.state.step} steps the weights of the best epoch, {self.state.best_epoch}, are those "
                "from the start; no epoch had a finite loss, or there are no crystals to train on"
            )
        self.model.load_state_dict(self.best_weights)
        return self.model.eval()

    def weight_change(self) -> float:
        """Return the norm of the change of all weights over the norm of the initial weights."""
        named = {name for name, _ in self.model.named_parameters()}
        squares = [
            ((self.best_weights[name] - first).double().square().sum().item(), first.double().square().sum().item())
            for name, first in self.first_weights.items()
            if name in named
        ]
        changes, norms = map(sum, zip(*squares, strict=True))
        return math.sqrt(changes / norms)

    def _epoch(self) -> dict:
        epoch, n_levels = self.state.epoch, self.settings["noise"]["n_levels"]
        teacher_forcing = epoch <= self.training_settings["teacher_forcing_epochs"]
        generator = torch.Generator().manual_seed(seed_for(self.seed, "train_cdvae", "epoch", epoch))
        order = torch.randperm(len(self.train.crystals), generator=generator).tolist()
        entry = {"epoch": epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        means = _Means()
        self.model.train()
        for batch, graph in self.train.batches(order, self.training_settings["batch_size"], self.settings["device"]):
            draws = self._draws(batch, n_levels, generator)
            losses = self.model.losses(batch, graph, draws, teacher_forcing)
            loss = self.model.total(losses)
            if not loss.isfinite():
                raise FloatingPointError(
                    f"the loss is {loss.item()} in epoch {epoch}; lower cdvae.training.learning_rate "
                    f"({self.training_settings['learning_rate']:g}) or gradient_clip "
                    f"({self.training_settings['gradient_clip']:g}), and run again"
                )
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_value_(self.model.parameters(), self.training_settings["gradient_clip"])
            self.optimizer.step()
            self.state.step += 1
            means.add({"loss": loss, **losses}, len(batch.n_atoms))
        entry |= means.values() | {"step": self.state.step}
        entry["eval_loss"] = self._validate() if self.val.crystals else self._of_validated(entry)
        return entry

    @torch.no_grad()
    def _validate(self) -> float:
        """Return the weighted loss of coordinates and types on the validation set, in predicted cells.

        The random numbers are the same in every epoch, so that epochs can be compared. A small set is repeated up to
        VALIDATION_DRAWS noisy crystals, so that the best epoch does not depend on few noise levels.
        """
        self.model.eval()
        generator = torch.Generator().manual_seed(seed_for(self.seed, "train_cdvae", "validation"))
        means = _Means()
        n_crystals = len(self.val.crystals)
        order = list(range(n_crystals)) * math.ceil(VALIDATION_DRAWS / n_crystals)
        for batch, graph in self.val.batches(order, self.training_settings["batch_size"], self.settings["device"]):
            draws = self._draws(batch, self.settings["noise"]["n_levels"], generator)
            means.add(self.model.losses(batch, graph, draws, teacher_forcing=False), len(batch.n_atoms))
        return self._of_validated(means.values())

    def _of_validated(self, losses: Mapping[str, float]) -> float:
        return sum(self.settings["loss_weights"][name] * losses[name] for name in VALIDATED)

    def _draws(self, batch: Batch, n_levels: int, generator: torch.Generator) -> Draws:
        cpu_draws = Draws.make(batch, self.settings["latent_size"], n_levels, generator)
        return Draws(*(value.to(self.settings["device"]) for value in vars(cpu_draws).values()))

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _save(self) -> None:
        """Write the state of the training to one file: tensors as safetensors, the rest as JSON in its header."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= {
            f"optimizer.{index}.{name}": value
            for index, weight_state in optimizer["state"].items()
            for name, value in weight_state.items()
        }
        metadata = {
            "identity": self.identity,
            "state": vars(self.state),
            "param_groups": optimizer["param_groups"],
            "scheduler": self.scheduler.state_dict(),
        }
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        with replacing(self.checkpoint) as temporary:
            save_file(tensors, temporary, {"training": json.dumps(metadata)})

    def _resume(self) -> bool:
        """Load the checkpoint; return whether a readable one of this run exists."""
        try:
            with safe_open(self.checkpoint, framework="pt", device=self.settings["device"]) as file:
                metadata = json.loads(file.metadata()["training"])
                if metadata["identity"] != self.identity:
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return False
        parts: dict[str, dict] = {"model": {}, "best": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, rest_of_name = name.split(".", 1)
            parts[part][rest_of_name] = value
        by_weight: dict[int, dict] = {}
        for name, value in parts["optimizer"].items():
            index, rest_of_name = name.split(".", 1)
            by_weight.setdefault(int(index), {})[rest_of_name] = value
        self.model.load_state_dict(parts["model"])
        self.best_weights = parts["best"]
        self.optimizer.load_state_dict({"state": by_weight, "param_groups": metadata["param_groups"]})
        self.scheduler.load_state_dict(metadata["scheduler"])
        self.state = State(**metadata["state"])
        return True


class _Means:
    """Accumulates means over all crystals from means over batches."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.n = 0

    def add(self, losses: Mapping[str, Tensor], n_crystals: int) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double() * n_crystals
        self.n += n_crystals

    def values(self) -> dict[str, float]:
        return {name: float(value / self.n) for name, value in self.sums.items()}


def curve_rows(history: Sequence[Mapping]) -> list[dict]:
    """Return the rows of the training curve, one per epoch and quantity; `step` counts optimizer steps."""
    names = {name: name for name in ("loss", "eval_loss", "learning_rate")} | {term: f"{term}_loss" for term in TERMS}
    return [
        {"stage": "cdvae", "step": entry["step"], "quantity": quantity, "value": entry[name]}
        for entry in history
        for name, quantity in names.items()
    ]
