"""Processes: others to work for this one, that end when it does, however it ends."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def spawned(workers: int) -> ProcessPoolExecutor:
    """A pool of processes. Spawned: a fork would copy the locks of whatever threads the caller runs."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)


def _end_with_parent() -> None:
    """A worker holds both ends of its queue, so it would wait forever for a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker has an initializer"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
