"""Training on several processes, one a GPU, with PyTorch's own engine.

`world` joins the processes; `tensor` and `context` are what a mixer needs to compute its part of a layer or of a
sequence; `parallelize` puts a model on the mesh, in the one order that works; `weights` stores whole tensors into its
shards and reads them back; `gradients` sums and measures what the shards hold; `spawn` starts the processes of one
machine.
"""
