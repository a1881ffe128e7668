"""Wall time and peak memory of a command and all its children: python bench/measure_run.py make demo

Memory is the sum of proportional set sizes (pages shared by n processes count 1/n each), sampled every second.
"""

import subprocess
import sys
import time

import psutil


def tree_memory_bytes(root: psutil.Process) -> int:
    """Return the summed PSS of a process and its descendants; processes that end meanwhile are ignored."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def main() -> int:
    started, peak = time.monotonic(), 0
    child = subprocess.Popen(sys.argv[1:])
    root = psutil.Process(child.pid)
    while child.poll() is None:
        peak = max(peak, tree_memory_bytes(root))
        time.sleep(1)
    print(f"exit {child.returncode}, {time.monotonic() - started:.1f} s, peak {peak / 1e9:.2f} GB", file=sys.stderr)
    return child.returncode


if __name__ == "__main__":
    sys.exit(main())
