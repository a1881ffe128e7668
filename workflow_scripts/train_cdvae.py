"""Train CDVAE on the training split; a killed run goes on from its last checkpoint."""

import time

import torch

from hullseeker.cdvae.data import Prepared, prepare
from hullseeker.cdvae.saved_model import save_model
from hullseeker.cdvae.training import Training, curve_rows
from hullseeker.logs import logging_to
from hullseeker.provenance import describe_run, sha256_of_file, sha256_of_json
from hullseeker.tables import read_table, write_table


def prepared_splits(rows: list[dict], settings: dict, log) -> dict[str, Prepared]:
    """Return train and val as CDVAE takes them; each crystal that is refused is logged with the reason."""
    splits = {}
    for split in ("train", "val"):
        of_split = [row for row in rows if row["split"] == split]
        splits[split], refused = prepare(of_split, settings)
        for name, reason in refused.items():
            log.warning("%s is left out: %s", name, reason)
        log.info("%s: %d crystals, %d left out", split, len(splits[split].crystals), len(refused))
    return splits


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    params = snakemake.params
    settings, bounds = dict(params.settings), dict(params.bounds)
    with logging_to(snakemake.log[0], "train_cdvae") as log:
        rows = read_table(snakemake.input.materials, "materials").to_pylist()
        splits = prepared_splits(rows, settings, log)
        identity = sha256_of_json(
            [settings, bounds, sha256_of_file(snakemake.input.materials), params.seed, params.code]
        )
        training = Training(settings, bounds, splits["train"], splits["val"], params.seed, params.checkpoint, identity)
        if training.resumed:
            log.info("going on after epoch %d", training.state.epoch)
        n_epochs = settings["training"]["n_epochs"]

        def report(entry: dict) -> None:
            if entry["epoch"] % max(1, n_epochs // 20) == 0:
                log.info("epoch %(epoch)d: loss %(loss).4g, held out %(eval_loss).4g, rate %(learning_rate).2g", entry)

        model = training.run(report)
        save_model(model, snakemake.output.model)
        metadata = describe_run(settings, [snakemake.input.materials], params.seed)
        write_table(snakemake.output.curve, curve_rows(training.state.history), "training_curve", metadata)
        log.info(
            "done: %d epochs, %d steps, weights of epoch %d, %.1f s",
            training.state.epoch,
            training.state.step,
            training.state.best_epoch,
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
