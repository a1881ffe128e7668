"""The training of CDVAE: Adam, a rate that falls on a plateau, checkpoints from which a killed run goes on exactly.

Needs: torch, safetensors, torch_geometric.

All random numbers of an epoch come from the seed and the epoch's number. A run that goes on from the end of an epoch
therefore sees the numbers it would have seen, and no state of a generator needs to be kept.
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
# Noisy crystals that a validation looks at, at least.
VALIDATION_DRAWS = 400


@dataclass
class State:
    """Where a training is: epochs done, optimizer steps, the best validation so far, and the log of all epochs."""

    epoch: int = 0
    step: int = 0
    best: float = math.inf
    best_epoch: int = 0
    history: list[dict] = field(default_factory=list)


class Training:
    """A training of a new model, or of the checkpoint's where that is of exactly this run.

    `identity` is a hash of all that determines the run.
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
        self.settings, self.how, self.seed = settings, settings["training"], seed
        self.train, self.val, self.checkpoint, self.identity = train, val, Path(checkpoint), identity
        mean, deviation = lattice_scale(train.crystals)
        torch.manual_seed(seed_for(seed, "train_cdvae", "weights"))
        self.model = Cdvae(settings, bounds)
        self.model.lattice_mean.copy_(mean)
        self.model.lattice_deviation.copy_(deviation)
        self.model.to(settings["device"])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.how["learning_rate"], fused=True)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            factor=self.how["plateau_factor"],
            patience=self.how["plateau_patience_epochs"],
            min_lr=self.how["min_learning_rate"],
        )
        self.state = State()
        self.best_weights = self.first_weights = self._weights()
        self.resumed = self._resume()

    def run(self, on_epoch: Callable[[dict], None] = lambda _: None) -> Cdvae:
        """Train to the last epoch; return the model with the weights of the best validation loss, ready to sample.

        Raises RuntimeError where they are those that it started with.
        """
        while self.state.epoch < self.how["n_epochs"]:
            self.state.epoch += 1
            entry = self._epoch()
            self.scheduler.step(entry["eval_loss"])
            self.state.history.append(entry)
            if entry["eval_loss"] < self.state.best:
                self.state.best, self.state.best_epoch = entry["eval_loss"], self.state.epoch
                self.best_weights = self._weights()
            if self.state.epoch % self.how["save_every_epochs"] == 0 or self.state.epoch == self.how["n_epochs"]:
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
        """Return the norm of the change of all weights from the start over the norm of all weights."""
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
        forced = epoch <= self.how["teacher_forcing_epochs"]
        generator = torch.Generator().manual_seed(seed_for(self.seed, "train_cdvae", "epoch", epoch))
        order = torch.randperm(len(self.train.crystals), generator=generator).tolist()
        entry = {"epoch": epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        means = _Means()
        self.model.train()
        for batch, graph in self.train.batches(order, self.how["batch_size"], self.settings["device"]):
            draws = self._draws(batch, n_levels, generator)
            losses = self.model.losses(batch, graph, draws, forced)
            loss = self.model.total(losses)
            if not loss.isfinite():
                raise FloatingPointError(
                    f"the loss is {loss.item()} in epoch {epoch}; lower cdvae.training.learning_rate "
                    f"({self.how['learning_rate']:g}) or gradient_clip ({self.how['gradient_clip']:g}), and run again"
                )
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_value_(self.model.parameters(), self.how["gradient_clip"])
            self.optimizer.step()
            self.state.step += 1
            means.add({"loss": loss, **losses}, len(batch.n_atoms))
        entry |= means.values() | {"step": self.state.step}
        entry["eval_loss"] = self._validate() if self.val.crystals else self._of_validated(entry)
        return entry

    @torch.no_grad()
    def _validate(self) -> float:
        """Return the weighted loss of coordinates and types on the validation set, in predicted cells.

        Its random numbers are the same in every epoch, so that epochs can be compared. A small set is gone through
        several times: one noise level per crystal of fifty would choose the best epoch by luck.
        """
        self.model.eval()
        generator = torch.Generator().manual_seed(seed_for(self.seed, "train_cdvae", "validation"))
        means = _Means()
        n_crystals = len(self.val.crystals)
        order = list(range(n_crystals)) * math.ceil(VALIDATION_DRAWS / n_crystals)
        for batch, graph in self.val.batches(order, self.how["batch_size"], self.settings["device"]):
            draws = self._draws(batch, self.settings["noise"]["n_levels"], generator)
            means.add(self.model.losses(batch, graph, draws, teacher_forcing=False), len(batch.n_atoms))
        return self._of_validated(means.values())

    def _of_validated(self, losses: Mapping[str, float]) -> float:
        return sum(self.settings["loss_weights"][name] * losses[name] for name in VALIDATED)

    def _draws(self, batch: Batch, n_levels: int, generator: torch.Generator) -> Draws:
        on_cpu = Draws.make(batch, self.settings["latent_size"], n_levels, generator)
        return Draws(*(value.to(self.settings["device"]) for value in vars(on_cpu).values()))

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _save(self) -> None:
        """Write all of the training into one file: tensors as safetensors, the rest as JSON in its header."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= {
            f"optimizer.{index}.{name}": value
            for index, of_weight in optimizer["state"].items()
            for name, value in of_weight.items()
        }
        about = {
            "identity": self.identity,
            "state": vars(self.state),
            "param_groups": optimizer["param_groups"],
            "scheduler": self.scheduler.state_dict(),
        }
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        with replacing(self.checkpoint) as beside:
            save_file(tensors, beside, {"training": json.dumps(about)})

    def _resume(self) -> bool:
        """Take up the checkpoint; return whether there was one of this run that can be read."""
        try:
            with safe_open(self.checkpoint, framework="pt", device=self.settings["device"]) as file:
                about = json.loads(file.metadata()["training"])
                if about["identity"] != self.identity:
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return False
        parts: dict[str, dict] = {"model": {}, "best": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        by_weight: dict[int, dict] = {}
        for name, value in parts["optimizer"].items():
            index, rest = name.split(".", 1)
            by_weight.setdefault(int(index), {})[rest] = value
        self.model.load_state_dict(parts["model"])
        self.best_weights = parts["best"]
        self.optimizer.load_state_dict({"state": by_weight, "param_groups": about["param_groups"]})
        self.scheduler.load_state_dict(about["scheduler"])
        self.state = State(**about["state"])
        return True


class _Means:
    """Means over crystals of losses that are means over batches."""

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
    """Return the rows of the training curve, one per epoch and quantity; a step is one of the optimizer."""
    names = {name: name for name in ("loss", "eval_loss", "learning_rate")} | {term: f"{term}_loss" for term in TERMS}
    return [
        {"stage": "cdvae", "step": entry["step"], "quantity": ours, "value": entry[name]}
        for entry in history
        for name, ours in names.items()
    ]
