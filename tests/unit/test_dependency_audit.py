"""The audit of the lock, with a registry that answers from a table."""

import importlib.util
import json
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.version import Version
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter

SCRIPT = Path(__file__).parents[2] / ".ci" / "audit.py"

FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "details": "It leaks.", "fixed_in": ["2.1"], "withdrawn": None}
NOW = datetime(2026, 11, 28, tzinfo=UTC)
FILE = {"yanked": False, "yanked_reason": None, "upload_time_iso_8601": "2026-11-01T10:00:00Z"}
OLD_FILE = {**FILE, "upload_time_iso_8601": "2026-10-01T10:00:00Z"}
YANKED = {**FILE, "yanked": True, "yanked_reason": "broken"}


class Pages(BaseAdapter):
    """Answers with the page whose path ends so, else 404."""

    def __init__(self, pages: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self.pages = pages

    def send(self, request: PreparedRequest, *_: Any, **__: Any) -> Response:
        response = Response()
        page = next((page for ending, page in self.pages.items() if str(request.url).endswith(ending)), None)
        response.status_code, response.url, response.request = 200 if page else 404, str(request.url), request
        response._content = json.dumps(page or {}).encode()
        return response

    def close(self) -> None:
        pass


def _page(version: str, *flaws: dict[str, Any], **releases: list[dict[str, Any]]) -> dict[str, Any]:
    return {"info": {"version": version}, "urls": [FILE], "releases": releases, "vulnerabilities": list(flaws)}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependency_audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _audited(audit: ModuleType, version: str, pages: dict[str, dict[str, Any]]) -> tuple[Any, list[str], bool]:
    registry, lookup = audit.Registry(), audit.Lookup("thing", Version(version))
    registry.service.session.mount("https://", Pages(pages))
    registry.look_up(lookup)
    return (lookup, *audit.report([lookup], NOW))


def test_a_release_without_a_flaw_is_well(audit: ModuleType) -> None:
    lookup, lines, is_well = _audited(audit, "2.0", {"/thing/2.0/json": _page("2.0")})

    assert (lookup.how, len(lines), is_well) == (audit.BY_RELEASE, 1, True)


@pytest.mark.parametrize("path", ["/thing/2.0/json", "/thing/json"])
def test_a_flaw_fails_the_audit_whichever_page_tells_of_it(audit: ModuleType, path: str) -> None:
    _, lines, is_well = _audited(audit, "2.0", {path: _page("2.0", FLAW)})

    assert not is_well
    assert lines[1] == "PROBLEM: thing==2.0: CVE-1 PYSEC-1, fixed in 2.1: It leaks."


def test_a_flaw_that_we_live_with_does_not(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(audit.ACCEPTED, "CVE-1", "not reachable from our code")

    assert _audited(audit, "2.0", {"/thing/2.0/json": _page("2.0", FLAW)})[2]


@pytest.mark.parametrize(
    ("newer", "is_well"),
    [
        ({"3.0": [FILE]}, True),
        ({"2.1": [OLD_FILE], "3.0": [FILE]}, False),
        ({"2.1rc1": [OLD_FILE], "3.0": [FILE]}, True),
        ({"1.9": [OLD_FILE], "3.0": [FILE]}, True),
    ],
    ids=["newer within the grace", "newer before it", "only a candidate before it", "an older line before it"],
)
def test_an_older_release_is_named_and_passes_only_for_a_while(
    audit: ModuleType, newer: dict[str, list[dict[str, Any]]], is_well: bool
) -> None:
    lookup, lines, found = _audited(audit, "2.0", {"/thing/json": _page("3.0", **{"2.0": [OLD_FILE], **newer})})

    assert (lookup.how, lookup.problems) == (audit.NOT_AT_ALL, [])
    assert lines[1].startswith("NOT LOOKED UP: thing==2.0: ")
    assert found is is_well
    assert is_well or lines[-1].startswith("PROBLEM: thing==2.0: not looked up; upgrade it")


def test_an_older_release_that_must_stay_says_why(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(audit.HELD, "thing", "3.0 eats the rows")
    _, lines, is_well = _audited(audit, "2.0", {"/thing/json": _page("3.0", **{"2.0": [FILE], "3.0": [OLD_FILE]})})

    assert (lines[1], is_well) == ("NOT LOOKED UP: thing==2.0: held back: 3.0 eats the rows", True)


def test_a_registry_that_does_not_answer_passes_nothing(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(audit.HELD, "thing", "3.0 eats the rows")
    _, lines, is_well = _audited(audit, "2.0", {})

    assert not is_well
    assert lines[-1].startswith("PROBLEM: thing==2.0: not looked up")


@pytest.mark.parametrize(
    ("files", "problem"),
    [([YANKED], "taken back by its authors: broken"), ([], "the registry has no such release")],
)
def test_a_withdrawn_or_vanished_release_is_a_problem(
    audit: ModuleType, files: list[dict[str, Any]], problem: str
) -> None:
    lookup, _, is_well = _audited(audit, "2.0", {"/thing/json": _page("3.0", **{"2.0": files})})

    assert (lookup.problems, is_well) == ([problem], False)


def test_the_lock_is_read_whole(audit: ModuleType) -> None:
    lock = SCRIPT.parents[1] / "requirements.lock"
    names = [lookup.name for lookup in audit.pinned(lock)]

    # A package that is required with extras has further lines, with brackets.
    lines = lock.read_text(encoding="utf-8").splitlines()
    assert len(names) == sum(line[:1].isalnum() and "[" not in line.partition("==")[0] for line in lines)
    assert {"flask", "celery", "pip-audit"} <= set(names)
