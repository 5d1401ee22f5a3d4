"""Triton kernels, each defined first in plain PyTorch in `reference.py`; imports nothing but torch and triton."""
