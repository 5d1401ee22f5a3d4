"""What rooms note of their choices, told on the terminal: which backend computes and why, which state is damaged."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from distill.progress import Progress

ROOMS = ("teacher", "distill.train")
"""Loggers that are heard."""


class _Teller(logging.Handler):
    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.say(record.getMessage())


@contextmanager
def told(progress: Progress) -> Iterator[None]:
    """Say on `progress` what is logged inside."""
    teller = _Teller(progress)
    loggers = [logging.getLogger(room) for room in ROOMS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(teller)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(teller)
