"""The append-only file that lets the sandbox's state outlive its process."""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

Change = tuple[Any, ...]
"""`("put", kind, id, object)` or `("del", kind, id)`."""

LOCK_WAIT_S = 10.0
"""Seconds to wait for a predecessor that is still going down; past that two sandboxes share one file by mistake."""

LOCK_POLL_S = 0.02
"""Seconds between two tries for the lock: short beside the start of a Python process."""


class JournalInUseError(RuntimeError):
    """Another living sandbox writes to the same file."""


class Journal:
    """One JSON line per transaction, written in one call and flushed to the kernel before the answer leaves.

    A line is whole or it does not count, so a SIGKILL never leaves half a transaction. It does not fsync: the promise
    is about the process, not about the machine.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = self._take_lock()
        self._file: BinaryIO | None = None

    def _take_lock(self) -> BinaryIO:
        lock = self._path.with_name(self._path.name + ".lock").open("ab")
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.close()
                    raise JournalInUseError(f"{self._path} is in use by another sandbox") from None
                time.sleep(LOCK_POLL_S)
            else:
                return lock

    def replay(self) -> Iterator[Change]:
        """Yield every change on file, oldest first; a torn last line is left out."""
        if not self._path.exists():
            return
        with self._path.open("rb") as lines:
            for line in lines:
                try:
                    changes = json.loads(line)
                except ValueError:
                    return
                for change in changes:
                    yield tuple(change)

    def rewrite(self, changes: Iterable[Change]) -> None:
        """Replace the file by these changes and stand ready to append."""
        compact = self._path.with_name(self._path.name + ".new")
        with compact.open("wb") as file:
            for change in changes:
                file.write(_line([change]))
        compact.replace(self._path)
        if self._file is not None:
            self._file.close()
        self._file = self._path.open("ab", buffering=0)

    def append(self, changes: list[Change]) -> None:
        """Write one transaction."""
        if self._file is None:
            raise RuntimeError("rewrite() opens the journal, and has not run")
        os.write(self._file.fileno(), _line(changes))

    def close(self) -> None:
        """Let the file and its lock go."""
        if self._file is not None:
            self._file.close()
        self._lock.close()


def _line(changes: list[Change]) -> bytes:
    return json.dumps(changes, separators=(",", ":")).encode() + b"\n"
