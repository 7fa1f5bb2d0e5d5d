"""The kernels in Triton: a program as records in memory, forward and backward passes."""
