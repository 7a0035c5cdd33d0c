"""Tokens: shards are encoded into Megatron's indexed format, listed in a blend, and read back in training order.

`encode.encode_shard` and `blend.write_blend` make the files; `loader.BlendLoader` reads batches from them.
"""
