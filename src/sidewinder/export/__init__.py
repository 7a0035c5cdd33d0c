"""Checkpoints in other systems' formats.

`huggingface` is the job. `target` chooses the transformers class for a model, `mamba` and `transformer` hold the
classes, `tokenizer` writes the tokenizer, `card` the model card, and `verify` loads what was written and compares.
"""
