"""What Snakemake needs around its jobs: the config, preflight, Slurm, failed jobs, bundles."""
