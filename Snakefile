from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")

# Scripts, resources and results are addressed by paths relative to the checkout.
if not Path(workflow.basedir).samefile(Path.cwd()):
    raise SystemExit(
        f"Snakemake runs in {Path.cwd()}, but this workflow works only in its own checkout; run it there "
        f"(cd {workflow.basedir}), without --snakefile and --directory"
    )


configfile: "config.yaml"


report: "report/workflow.rst"


# Settings and functions that the rules share.
include: "rules/config.smk"
include: "rules/systems.smk"
include: "rules/evaluators.smk"
include: "rules/requests.smk"
include: "rules/targets.smk"
include: "rules/planned.smk"
# Rules from the data set to tables and figures.
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/sample.smk"
include: "rules/cdvae.smk"
include: "rules/relax.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
# Embedded resources, downloads, and checks before and after a run.
include: "rules/embedded.smk"
include: "rules/prefetch.smk"
include: "rules/checks.smk"
include: "rules/end_of_run.smk"


localrules:
    all,
    table1,
    table2,
    tables,
    figures,


rule all:
    default_target: True
    input:
        PRODUCTS["tables"],
        PRODUCTS["figures"],


# Has no job of its own: onstart in checks.smk runs the checks in Snakemake's own process.
rule preflight:
    localrule: True


rule table1:
    input:
        PRODUCTS["table1"],


rule table2:
    input:
        PRODUCTS["table2"],


rule tables:
    input:
        PRODUCTS["tables"],


rule figures:
    input:
        PRODUCTS["figures"],
