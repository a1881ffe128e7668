"""Bootstrap intervals compared with scipy.stats.bootstrap: python bench/intervals.py [n_rows] [n_resamples]

Computes the interval of the mean of normally distributed numbers by mean_interval, and by scipy with the percentile
method and the same random stream. Prints CPU-seconds (medians of five runs) and the difference of the bounds.
"""

import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow_scripts"))

from hullseeker.metrics.intervals import mean_interval  # noqa: E402


def main() -> None:
    n_rows, n_resamples = [*map(int, sys.argv[1:]), *(10_000, 1000)[len(sys.argv) - 1 :]]
    values = np.sort(np.random.default_rng(0).normal(0, 1, n_rows))
    seconds: dict[str, list[float]] = {"here": [], "scipy": []}
    for _ in range(5):
        started = time.process_time()
        ours = mean_interval(values, 7, n_resamples)
        seconds["here"].append(time.process_time() - started)
        started = time.process_time()
        found = bootstrap(
            (values,), np.mean, n_resamples=n_resamples, method="percentile", rng=np.random.default_rng(7), batch=400
        ).confidence_interval
        seconds["scipy"].append(time.process_time() - started)
    here, scipy = (float(np.median(seconds[name])) for name in ("here", "scipy"))
    apart = max(abs(ours[0] - found.low), abs(ours[1] - found.high))
    print(f"{n_rows} rows, {n_resamples} resamples: here {here:.3f} CPU-s, scipy {scipy:.3f}, "
          f"ratio {scipy / here:.2f}; bounds {apart:.1e} apart")  # fmt: skip


if __name__ == "__main__":
    main()
