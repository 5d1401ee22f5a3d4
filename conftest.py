"""Set before anything imports triton or transformers: no hub, and kernels interpreted where no GPU is."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
