from snakemake.utils import min_version

min_version("9.27")


configfile: "config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/sample.smk"
include: "rules/cdvae.smk"
include: "rules/relax.smk"
include: "rules/resources.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/prefetch.smk"
include: "rules/preflight.smk"


localrules:
    all,
    preflight,
    table1,
    table2,
    tables,
    figures,


rule all:
    default_target: True
    input:
        [
            path
            for target in TARGETS or ["tables", "figures"]
            for path in PRODUCTS[target]
        ],


# The checks run where Snakemake does, before the first job: see onstart in common.smk.
rule preflight:
    input:
        PRODUCTS["preflight"],


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
