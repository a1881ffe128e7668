"""Which generated structures are unique among the samples and absent from the training set; as generated, unrelaxed."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from hullseeker.logs import close_with_counts, logging_to, progress
from hullseeker.matching import TIME_LIMIT_S, Crystal, group_by_formula, matches_any
from hullseeker.provenance import describe_run
from hullseeker.structures import has_structure, to_structure
from hullseeker.tables import read_table, write_table
from hullseeker.time_limits import TimeLimitError, time_limit


def novelty_rows(samples: Sequence[Mapping], known: Mapping[str, Sequence[Crystal]]) -> list[dict]:
    """Return one novelty row per sample, in the samples' order; `known` is the training set by reduced formula."""
    earlier: dict[str, list[Crystal]] = defaultdict(list)
    rows = []
    for sample in progress(samples, "novelty"):
        row = {"structure_id": sample["structure_id"], "status": "not_attempted", "error": sample["error"]}
        if has_structure(sample):
            try:
                crystal, formula = Crystal(to_structure(sample)), sample["formula"]
                with time_limit(TIME_LIMIT_S):
                    is_unique = not matches_any(crystal, earlier[formula])
                    is_novel = not matches_any(crystal, known.get(formula, ()))
            except (TimeLimitError, Exception) as error:  # noqa: BLE001  pymatgen may raise anything on a degenerate cell
                row |= {"status": "match_failed", "error": f"the matcher failed: {type(error).__name__}: {error}"}
            else:
                earlier[formula].append(crystal)
                row |= {"status": "ok", "error": None, "is_unique": is_unique, "is_novel": is_novel}
        rows.append(row)
    return rows


def main(snakemake) -> None:
    started = time.perf_counter()
    inputs = snakemake.input
    with logging_to(snakemake.log[0], "assess_novelty") as log:
        samples = read_table(inputs.samples, "samples").to_pylist()
        formulas = {row["formula"] for row in samples if has_structure(row)}
        materials = read_table(inputs.materials, "materials").to_pylist()
        training = [row for row in materials if row["split"] == "train"]
        if not training:
            log.warning("no row of %s is of the split 'train': every structure will count as novel", inputs.materials)
        known = group_by_formula((row["formula"], to_structure(row)) for row in training if row["formula"] in formulas)
        rows = novelty_rows(samples, known)
        write_table(snakemake.output[0], rows, "novelty", describe_run({}, [inputs.samples, inputs.materials]))
        close_with_counts(log, (row["status"] for row in rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
