"""Checkpoints in other systems' formats.

`huggingface` is the job. `classes` lists the transformers classes, which `mamba` and `transformer` describe and
`target` chooses from; `tokenizer` writes the tokenizer, `card` the model card; `verify` loads what was written and
compares.
"""
