#!/usr/bin/env python
"""Looks up every package of requirements.lock among the known vulnerabilities; run it with .venv/bin/python.

Asks the package registry and nobody else: each release's own page, as pip-audit does, or where the registry has none,
the project's page, which tells of its newest release only. What neither tells of is named, and passes only where HELD
says why, or where the newer release is younger than GRACE. Exit code 1: a vulnerable, withdrawn or vanished release, or
one that was not looked up and may not pass.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import local
from typing import Any

import requests
from packaging.requirements import Requirement
from packaging.version import Version
from pip_audit._service import PyPIService, ResolvedDependency, ServiceError

ACCEPTED: dict[str, str] = {}
"""Id of a vulnerability -> why we live with it for now, and what ends that."""

HELD: dict[str, str] = {
    "celery": "5.7.0 exits when Redis goes away while a task is in flight; ends with the release that does not",
    "deprecated": "3.0 needs Python 3.12; ends when OLDEST_PYTHON of run.py is that",
    "jsonschema-rs": "schemathesis, a tool of the tests, wants < 0.61",
    "packaging": "kombu[redis] wants exactly 26.3",
}
"""Package -> why it stays behind its newest release, so that a registry without pages of releases is silent."""

GRACE = timedelta(days=30)
"""How long a release may go without a look once a newer one is out: the time until the lock is upgraded next."""

TRIES = 3
"""Times that one page is asked for: a lost answer is not a package without a page."""

TIMEOUT_S = 10
"""Seconds for one page: the whole audit is a matter of a few."""

LOOKUPS_AT_ONCE = 8
"""Far below what a registry minds."""

LONGEST_TOLD = 200
"""Characters of a vulnerability's description: the ids lead to the rest."""

BY_RELEASE, BY_PROJECT, NOT_AT_ALL = "by their own page", "by their project's page", "not at all"

OLDER = "older than the newest release, and the registry has no page of its own for it"


@dataclass
class Lookup:
    """What the registry told of one pinned package."""

    name: str
    version: Version
    how: str = NOT_AT_ALL
    why_not: str = OLDER
    newer_since: datetime | None = None
    """When the first release after the pinned one came out."""
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


class Registry:
    """The package registry, for one thread."""

    def __init__(self) -> None:
        self.service = PyPIService(timeout=TIMEOUT_S)
        self.service.session.hooks["response"].append(self._or_project)
        self._lookup: Lookup

    def look_up(self, lookup: Lookup) -> None:
        """Ask about one package, and write down what was told."""
        self._lookup = lookup
        for _ in range(TRIES):
            try:
                _, found = self.service.query(ResolvedDependency(lookup.name, lookup.version))
                break
            except (ServiceError, requests.RequestException, ValueError) as error:
                lookup.how, lookup.why_not = NOT_AT_ALL, f"{type(error).__name__}: {error}"
        else:
            return
        for each in found:
            ids = {each.id, *each.aliases}
            fixed = ", ".join(map(str, each.fix_versions)) or "no release"
            told = f"{' '.join(sorted(ids))}, fixed in {fixed}: {each.description[:LONGEST_TOLD]}"
            if not ids & ACCEPTED.keys() and told not in lookup.problems:
                lookup.problems.append(told)

    def _or_project(self, response: requests.Response, **_: object) -> requests.Response:
        """Put the project's page in place of a release's page that does not exist, where it tells of that release."""
        lookup = self._lookup
        project = response.url.removesuffix(f"/{lookup.version}/json")
        if project == response.url:
            return response
        if response.ok:
            lookup.how = BY_RELEASE
            _note_withdrawal(lookup, response.json()["urls"])
            return response
        instead = self.service.session.get(f"{project}/json", timeout=TIMEOUT_S)
        if not instead.ok:
            return response
        page = instead.json()
        is_newest = Version(page["info"]["version"]) == lookup.version
        _note_withdrawal(lookup, page["urls"] if is_newest else page["releases"].get(str(lookup.version)))
        if is_newest:
            lookup.how = BY_PROJECT
        else:
            lookup.newer_since = _first_after(lookup.version, page["releases"])
        return instead if is_newest else response


def _note_withdrawal(lookup: Lookup, files: list[dict[str, Any]] | None) -> None:
    """Note a release that is gone from the registry, or was taken back by its authors."""
    if not files:
        lookup.problems.append("the registry has no such release")
    elif reasons := {each.get("yanked_reason") or "no reason given" for each in files if each["yanked"]}:
        lookup.problems.append(f"taken back by its authors: {', '.join(sorted(reasons))}")


def _first_after(version: Version, releases: dict[str, list[dict[str, Any]]]) -> datetime | None:
    """Return when the first final release after `version` was published; None where the registry does not say."""
    files = [file for text, each in releases.items() for file in each if version < Version(text) and _is_final(text)]
    return min((datetime.fromisoformat(file["upload_time_iso_8601"]) for file in files), default=None)


def _is_final(version: str) -> bool:
    return not Version(version).is_prerelease


def pinned(lock: Path) -> list[Lookup]:
    """Return what `lock` pins."""
    lines = [line.rstrip("\\ ") for line in lock.read_text(encoding="utf-8").splitlines() if line[:1].isalnum()]
    # A package with extras stands there several times.
    found = {(each.name, next(iter(each.specifier)).version): None for each in map(Requirement, lines)}
    return [Lookup(name, Version(version)) for name, version in found]


def look_up_all(lookups: list[Lookup]) -> None:
    """Ask the registry about each, several at once."""
    of_thread = local()

    def open_registry() -> None:
        of_thread.registry = Registry()

    def look_up(lookup: Lookup) -> None:
        of_thread.registry.look_up(lookup)

    with ThreadPoolExecutor(LOOKUPS_AT_ONCE, initializer=open_registry) as pool:
        list(pool.map(look_up, lookups))


def report(lookups: list[Lookup], now: datetime) -> tuple[list[str], bool]:
    """Return the lines to print, and whether all is well."""
    counts = [f"{sum(each.how is how for each in lookups)} {how}" for how in (BY_RELEASE, BY_PROJECT, NOT_AT_ALL)]
    lines = [f"{len(lookups)} packages looked up among known vulnerabilities: {', '.join(counts)}"]
    problems = [f"PROBLEM: {each}: {problem}" for each in lookups for problem in each.problems]
    for each in lookups:
        if each.how is not NOT_AT_ALL:
            continue
        excuse = _excuse(each, now)
        lines.append(f"NOT LOOKED UP: {each}: {excuse or each.why_not}")
        if excuse is None:
            problems.append(
                f"PROBLEM: {each}: not looked up; upgrade it (.ci/lock.py), or say in HELD why it must stay"
            )
    return lines + problems, not problems


def _excuse(lookup: Lookup, now: datetime) -> str | None:
    """Return why a package may go without a look; None where it may not."""
    since = lookup.newer_since
    if since is None or lookup.why_not is not OLDER:
        return None
    if lookup.name in HELD:
        return f"held back: {HELD[lookup.name]}"
    if now - since < GRACE:
        return f"a newer release came out on {since:%Y-%m-%d}; upgrade by {since + GRACE:%Y-%m-%d}"
    return None


def main(arguments: list[str]) -> int:
    """Audit the lock, or the one that is named."""
    lookups = pinned(Path(arguments[0]) if arguments else Path(__file__).parents[1] / "requirements.lock")
    look_up_all(lookups)
    lines, is_well = report(lookups, datetime.now(UTC))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
