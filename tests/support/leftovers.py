"""What a piece of code may leave in this process and should not: open file descriptors and threads."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def open_files() -> set[tuple[str, str]]:
    """Return each file descriptor with what it leads to: a number may be closed and used again."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a list of names
        # The one that lists is closed by now.
        with suppress(FileNotFoundError):
            found.add((name, str(Path(f"/proc/self/fd/{name}").readlink())))
    return found


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Hold the block to the threads of before, of which those of other tests may end at any time."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@contextmanager
def nothing_left() -> Iterator[None]:
    """Hold the block to the threads and the file descriptors of before."""
    before = open_files()
    with no_thread_left():
        yield
    assert open_files() <= before
