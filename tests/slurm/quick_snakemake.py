"""Snakemake, but it asks Slurm for its jobs every second, where on a real cluster it asks ever more rarely."""

import sys

import snakemake_executor_plugin_slurm as plugin
from snakemake.cli import main

plugin.Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)
sys.exit(main(sys.argv[1:]))
