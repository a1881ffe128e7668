"""Train CDVAE on the training split; a killed run resumes from its last checkpoint."""

import json
import time

import torch

from hullseeker.cdvae.data import Prepared, prepare
from hullseeker.cdvae.saved_model import save_model
from hullseeker.cdvae.training import Training, curve_rows
from hullseeker.data.selection import rows_in_use
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run, sha256_of_file, sha256_of_json
from hullseeker.tables.parquet import read_table, write_table


def prepared_splits(rows: list[dict], settings: dict, log) -> tuple[dict[str, Prepared], dict[str, int]]:
    """Return train and val as inputs of CDVAE, and the number of crystals left out of each; log the reasons."""
    splits, n_left_out = {}, {}
    for split in ("train", "val"):
        splits[split], refused = prepare(rows_in_use(rows, split), settings)
        n_left_out[split] = len(refused)
        for name, reason in refused.items():
            log.warning("%s is left out: %s", name, reason)
        log.info("%s: %d crystals, %d left out", split, len(splits[split].crystals), len(refused))
    return splits, n_left_out


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    params = snakemake.params
    settings, bounds = dict(params.settings), dict(params.bounds)
    with logging_to(snakemake.log[0], "train_cdvae") as log:
        rows = read_table(snakemake.input.materials, "materials").to_pylist()
        splits, n_left_out = prepared_splits(rows, settings, log)
        identity = sha256_of_json(
            [settings, bounds, sha256_of_file(snakemake.input.materials), params.seed, params.code]
        )
        training = Training(settings, bounds, splits["train"], splits["val"], params.seed, params.checkpoint, identity)
        if training.resumed:
            log.info("resuming after epoch %d", training.state.epoch)
        n_epochs = settings["training"]["n_epochs"]

        def report(entry: dict) -> None:
            if entry["epoch"] % max(1, n_epochs // 20) == 0:
                log.info(
                    "epoch %(epoch)d: loss %(loss).4g, validation loss %(eval_loss).4g, rate %(learning_rate).2g", entry
                )

        model = training.run(report)
        save_model(model, snakemake.output.model)
        metadata = describe_run(settings, [snakemake.input.materials], params.seed)
        metadata["left_out"] = json.dumps({"why": f"each with its reason in {snakemake.log[0]}", **n_left_out})
        curve = curve_rows(training.state.history)
        weight_change = {"stage": "cdvae", "quantity": "weight_change", "value": training.weight_change()}
        write_table(
            snakemake.output.curve, [*curve, {**weight_change, "step": training.state.step}], "training_curve", metadata
        )
        log.info(
            "done: %d epochs, %d steps, weights of epoch %d, %.1f s",
            training.state.epoch,
            training.state.step,
            training.state.best_epoch,
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
