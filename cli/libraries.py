"""Settings of the libraries below, made once a command needs them: our progress speaks, theirs does not."""

import logging
import os

SPIN = "30000"
"""Turns a thread waits awake for work. On 2 idle cores the mini teacher trains at 14.2 k tokens/s with it, at
9.0 k asleep at once (OMP_WAIT_POLICY=PASSIVE) and at 14.8 k ten times as patient, which starves a busy machine."""
QUIET = ("bitsandbytes.backends.cpu.ops",)
"""Loggers that warn about kernels this machine simply does not have."""


def prepare() -> None:
    """Call before anything imports torch."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)

    import torch
    from transformers.utils import logging as transformers_logging

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed warns when it has to find out by itself
    transformers_logging.disable_progress_bar()
