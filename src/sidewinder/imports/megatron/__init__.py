"""Reads checkpoints of Megatron-LM's core models: Mamba-2, Mamba-2 hybrids and Transformers in the classic format.

`import_megatron(source, destination)` makes a checkpoint folder of ours. It reads the five repositories that the
authors of arXiv 2406.07887 released:

- nvidia/mamba2-8b-3t-4k
- nvidia/mamba2-hybrid-8b-3t-4k, nvidia/mamba2-hybrid-8b-3t-32k, nvidia/mamba2-hybrid-8b-3t-128k
- nvidia/gpt3-8b-multi-3.5t-base

Fetch one whole repository (about 16 GB: latest_checkpointed_iteration.txt, release/mp_rank_00/model_optim_rng.pt and
the tokenizer), give its folder as `source`, and have 18 GB free at the destination. Memory stays near the largest
tensor, 2 GB, beside pages of the file that the system may drop. No code in the file is run: see `pickled`.

No released file was at hand when this was written; tests write files of that format. So check after importing:

1. Parameters, as `sidewinder.model.count_parameters` gives them for the returned description: Mamba-2 8,236,999,680;
   hybrid 8,654,517,248; Transformer 8,540,135,424. The import compares every tensor with a model of that description.
2. In model.json: the Transformer's activation is squared ReLU (`relu2`) and its RoPE turns half of each head, after its
   launch script; the hybrid's `rope` is null.
3. PIQA, 0-shot by plain log-likelihood on all 1,838 items: 79.27 for mamba2-8b-3t-4k and 79.65 for
   mamba2-hybrid-8b-3t-4k in an independent run of the same files.

What the pickled arguments lack is taken thus: 128 states in 8 groups a Mamba-2 layer (constants of the code until March
2025), RoPE base 10,000 on whole heads, LayerNorm with epsilon 1e-5 and weights not centred at zero, exact GELU (but a
Transformer without `squared_relu` is refused). Heads and the context length must be there.

Modules, in the order of the work: `folder` finds the files, `archive` and `pickled` read them, `state` gathers the
tensors of all ranks, `sizes` tells the model, `layout` knows names and row orders, `writing` writes, `job` joins them.
"""

from __future__ import annotations

from sidewinder.imports.megatron.job import import_megatron

__all__ = ["import_megatron"]
