"""Write docs/rulegraph.md, the rules of the paper's experiment and what follows what; `--check` compares instead."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "rulegraph.md"
HEADING = """# The rules of the paper's experiment

An arrow goes from a rule to one that needs what it makes. Shards and systems are left out: `snakemake -n` counts them.
Made by `make rulegraph` from `snakemake --rulegraph`; a test holds it against the rules. Dashed: how many jobs there
are of `relax_phases` and `reconstruct_cdvae`, if any, is known only when the plan before them has been made.

"""
# Snakemake does not draw rules whose jobs a checkpoint decides on.
BEHIND_CHECKPOINTS = (
    ("plan_phase_relaxations", "relax_phases"),
    ("plan_reconstructions", "reconstruct_cdvae"),
    ("reconstruct_cdvae", "make_reconstruction_table"),
    ("relax_phases", "build_reference"),
    ("train_cdvae", "reconstruct_cdvae"),
)


def page(graph: str) -> str:
    """Return the page of a graph as Snakemake prints it for mermaid: by name, in order, without its colours."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    edges = sorted({(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)})
    lines = [f"    {a} --> {b}" for a, b in edges if b != "all"]
    lines += [f"    {a} -.-> {b}" for a, b in BEHIND_CHECKPOINTS]
    return HEADING + "\n".join(["```mermaid", "flowchart TB", *lines, "```", ""])


def main() -> None:
    snakemake = Path(sys.executable).with_name("snakemake")
    words = [str(snakemake), "--rulegraph", "mermaid-js"]
    text = page(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    if "--check" not in sys.argv:
        PAGE.write_text(text)
    elif PAGE.read_text() != text:
        sys.exit("docs/rulegraph.md is not of these rules; write it with `make rulegraph`")


if __name__ == "__main__":
    main()
