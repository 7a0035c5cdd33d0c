"""Evaluation of a checkpoint: one suite is one job that leaves scores.json and samples.parquet.

Read in this order: run (the job), scoring (teacher forcing, which most suites rest on), then a suite each:
bits_per_byte, phonebook, needle, and harness with adapter (our models behind lm-eval's interface) and cloze.
"""
