"""Around the jobs of Snakemake: config, checks before a run, Slurm, failed jobs, bundles, hashes of code."""
