"""Where commands go: variables, profiles of the file, or the installation; and what is said of wrong ones."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.__main__ import trunkline
from app.cli.output import CommandError
from app.cli.profiles import Target, config_path, find_target

FILE = """
[default]
url = "https://trunkline.example.com/"
key = "tl_default"

[staging]
url = "http://127.0.0.1:8000"
workspace = "acme"
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a file, and an environment without variables."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("TRUNKLINE_URL", "TRUNKLINE_KEY", "TRUNKLINE_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(text: str, mode: int = 0o600) -> None:
    config_path().parent.mkdir()
    config_path().write_text(text, encoding="utf-8")
    config_path().chmod(mode)


def test_without_anything_commands_work_on_the_installation() -> None:
    assert find_target(None, is_local=False) is None


@pytest.mark.parametrize("has_file", [True, False])
def test_without_settings_too_a_command_says_where_they_or_a_server_are_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, has_file: bool
) -> None:
    monkeypatch.chdir(home)
    for name in ("DATABASE_URL", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    if has_file:
        (home / ".env").write_text("TWILIO_AUTH_TOKEN=x\n", encoding="utf-8")

    ended = CliRunner().invoke(trunkline(), ["agents", "list"], prog_name="trunkline")

    assert ended.exit_code == 1
    lines = ended.stderr.splitlines()
    assert "DATABASE_URL: missing" in lines
    assert "How to fix them: trunkline doctor" in lines
    assert ("TRUNKLINE_URL and TRUNKLINE_KEY" in lines[-1]) is not has_file


def test_the_variables_name_a_server_and_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_URL", "https://one.example.com/trunkline/")
    monkeypatch.setenv("TRUNKLINE_KEY", "tl_one")

    found = find_target(None, is_local=False)

    assert found == Target("https://one.example.com/trunkline", "tl_one", "TRUNKLINE_KEY")
    assert "tl_one" not in repr(found)
    assert find_target(None, is_local=True) is None
    monkeypatch.setenv("TRUNKLINE_URL", "")
    assert find_target(None, is_local=False) is None


def test_white_space_around_them_is_that_of_a_mounted_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_URL", " https://one.example.com/\n")
    monkeypatch.setenv("TRUNKLINE_KEY", "tl_one\n")
    assert find_target(None, is_local=False) == Target("https://one.example.com", "tl_one", "TRUNKLINE_KEY")

    monkeypatch.setenv("TRUNKLINE_KEY", " \n")
    with pytest.raises(CommandError, match="TRUNKLINE_KEY: the key has characters that no key has"):
        find_target(None, is_local=False)


def test_a_profile_counts_before_the_variables_and_these_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    write(FILE)
    default = find_target(None, is_local=False)
    assert default is not None
    assert (default.url, default.key) == ("https://trunkline.example.com", "tl_default")

    monkeypatch.setenv("TRUNKLINE_KEY", "tl_one")
    monkeypatch.setenv("TRUNKLINE_PROFILE", "staging")
    staging = find_target(None, is_local=False)
    monkeypatch.setenv("TRUNKLINE_URL", "https://one.example.com")
    variables, named = find_target(None, is_local=False), find_target("staging", is_local=False)

    where = f"[staging] in {config_path()}"
    assert staging == named == Target("http://127.0.0.1:8000", "tl_one", "TRUNKLINE_KEY", "acme", where)
    assert variables is not None
    assert variables.url == "https://one.example.com"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (FILE, "nowhere", "There is no profile 'nowhere' in "),
        (FILE, "staging", "has no key, and TRUNKLINE_KEY is not set"),
        ("[default", None, "cannot be read: "),
        ("default = 1", None, "is no table of texts"),
        ('[default]\nkey = "k"', None, "has no url"),
        ('[default]\nurl = "https://a"\ntoken = "k"', None, "has token, which mean nothing"),
        ('[default]\nurl = "ftp://a"\nkey = "k"', None, "'ftp://a' is no URL of a server"),
        ('[default]\nurl = "https://u:p@a"\nkey = "k"', None, "is no URL of a server"),
        ('[default]\nurl = "https://a b"\nkey = "k"', None, "'https://a b' is no URL of a server"),
        ('[default]\nurl = "https://a"\nkey = "k k"', None, "the key has characters that no key has"),
    ],
)
def test_what_is_wrong_with_the_file_is_one_sentence(text: str, name: str | None, said: str) -> None:
    write(text)

    with pytest.raises(CommandError, match=re.escape(said)):
        find_target(name, is_local=False)


def test_a_url_without_a_key_and_a_key_that_others_may_read_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write(FILE, 0o644)
    with pytest.raises(CommandError, match="others may read the file: chmod 600"):
        find_target(None, is_local=False)

    monkeypatch.setenv("TRUNKLINE_URL", "https://one.example.com")
    with pytest.raises(CommandError, match="and TRUNKLINE_KEY is not: it is the API key"):
        find_target(None, is_local=False)
