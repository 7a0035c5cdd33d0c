"""Triton kernels of the operations, one operation a file; what launches them lies beside the CPU forms."""
