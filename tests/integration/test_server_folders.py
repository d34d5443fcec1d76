"""Folders of the tests' servers: what killed tests left in memory goes, what others use stays."""

import os
import time
from pathlib import Path

import pytest

from tests.support.servers import BEING_MADE_S, hold, remove_if_left


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, made some time ago."""
    made = tmp_path / "folder"
    made.mkdir()
    (made / "file").touch()
    then = time.time() - 2 * BEING_MADE_S
    os.utime(made, (then, then))
    return made


def test_a_folder_that_a_killed_test_left_is_removed(folder: Path) -> None:
    remove_if_left(folder)
    assert not folder.exists()


def test_a_folder_that_another_process_holds_stays(folder: Path) -> None:
    holder = hold(folder)
    try:
        remove_if_left(folder)
        assert (folder / "file").exists()
    finally:
        os.close(holder)


def test_a_folder_that_is_being_made_stays(folder: Path) -> None:
    os.utime(folder)
    remove_if_left(folder)
    assert (folder / "file").exists()


def test_a_folder_that_another_process_has_just_removed_is_no_error(tmp_path: Path) -> None:
    remove_if_left(tmp_path / "gone")
