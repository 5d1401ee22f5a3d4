"""Settings of the libraries below, made once a command needs them: our progress speaks, theirs does not."""

import logging
import os

QUIET = ("bitsandbytes.backends.cpu.ops",)
"""Loggers that warn about kernels this machine simply does not have."""


def prepare() -> None:
    """Call before anything imports torch."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve whatever else the cores do
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)

    import torch
    from transformers.utils import logging as transformers_logging

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed warns when it has to find out by itself
    transformers_logging.disable_progress_bar()
