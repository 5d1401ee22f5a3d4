"""What the teacher's room notes of its choices, told on the terminal: which backend computes, and why."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from distill.progress import Progress


class _Teller(logging.Handler):
    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.say(record.getMessage())


@contextmanager
def told(progress: Progress) -> Iterator[None]:
    """Say on `progress` what is logged inside."""
    teller, logger = _Teller(progress), logging.getLogger("teacher")
    level = logger.level
    logger.addHandler(teller)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(teller)
