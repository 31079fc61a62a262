"""YAML shipped with the package: banks, protocols, example configurations, SLURM scripts."""
