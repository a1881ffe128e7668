from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")

# Its files are found by their place in the checkout.
if not Path(workflow.basedir).samefile(Path.cwd()):
    raise SystemExit(
        f"Snakemake runs in {Path.cwd()}, and the workflow finds its files in its checkout alone; run it there "
        f"(cd {workflow.basedir}), without --snakefile and --directory"
    )


configfile: "config.yaml"


report: "report/workflow.rst"


# What the rules share.
include: "rules/config.smk"
include: "rules/systems.smk"
include: "rules/evaluators.smk"
include: "rules/requests.smk"
include: "rules/targets.smk"
include: "rules/planned.smk"
# The flow, from data to tables and figures.
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/sample.smk"
include: "rules/cdvae.smk"
include: "rules/relax.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
# Around it.
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


# The checks run where Snakemake does, before the first job: see onstart in checks.smk.
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
