"""Write docs/rulegraph.md, the graph of the rules of the paper's experiment; `--check` compares the file instead."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "rulegraph.md"
HEADING = """# The rules of the paper's experiment

An arrow points from a rule to a rule that uses its output. Shards and systems are not shown; `snakemake -n` counts
the jobs. `make rulegraph` generates this page from `snakemake --rulegraph`, and a test compares it with the rules.
Dashed arrows: the number of jobs of `relax_phases` and `reconstruct_cdvae` is known only after the plan before them.

"""
# Dependencies of rules whose jobs a checkpoint creates; Snakemake leaves them out.
BEHIND_CHECKPOINTS = (
    ("plan_phase_relaxations", "relax_phases"),
    ("plan_reconstructions", "reconstruct_cdvae"),
    ("reconstruct_cdvae", "make_reconstruction_table"),
    ("relax_phases", "build_reference"),
    ("train_cdvae", "reconstruct_cdvae"),
)


def page(graph: str) -> str:
    """Convert Snakemake's mermaid output to the page, with rules by name, edges sorted and no colours."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    edges = sorted({(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)})
    lines = [f"    {a} --> {b}" for a, b in edges if b != "all"]
    lines += [f"    {a} -.-> {b}" for a, b in BEHIND_CHECKPOINTS]
    return HEADING + "\n".join(["```mermaid", "flowchart TB", *lines, "```", ""])


def main() -> None:
    snakemake = Path(sys.executable).with_name("snakemake")
    command = [str(snakemake), "--rulegraph", "mermaid-js"]
    text = page(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    if "--check" not in sys.argv:
        PAGE.write_text(text)
    elif PAGE.read_text() != text:
        sys.exit("docs/rulegraph.md does not match the rules; run `make rulegraph`")


if __name__ == "__main__":
    main()
