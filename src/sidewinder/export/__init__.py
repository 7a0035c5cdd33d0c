"""Checkpoints in other systems' formats, and what tells people about them.

`huggingface` is the job of a study; `convert` does the same for any checkpoint folder. `classes` lists the transformers
classes, which `mamba` and `transformer` describe and `target` chooses from; `write` writes the model, `tokenizer` the
tokenizer; `verify` loads what was written and compares. `cards` writes model cards, from the catalog.
"""
