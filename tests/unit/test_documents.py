"""The documents say what the code says: lists, links, the reference, why each dependency is there.

After a change of the API that is meant: `UPDATE_API_MD=1 python -m pytest tests/unit/test_documents.py`; read the diff.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from app.dev.sandbox import faults
from app.dev.sandbox.magic_numbers import MAGIC_NUMBERS
from app.dev.sandbox.state import Switches, settings_json
from app.domain.errors import ErrorCode
from app.domain.events import EventName, WebhookEvent, payload_of
from app.domain.findings import FINDING_KINDS, FindingCode, Fix
from app.domain.operations import OperationStatus, PhoneStatus
from app.saga.state import Verdict
from app.settings import Settings
from app.views.option_schemas import WORDS
from app.web.problems import KINDS as PROBLEMS
from tests.support.reference import reference_page

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
DECISIONS = ROOT / "docs" / "decisions"
REFERENCE = ROOT / "docs" / "api.md"

README_WORDS = 1200
"""What somebody reads in five minutes; the rest has a page of its own."""

PICTURE_BYTES = 150_000
"""It is fetched with the page, and stays in the repository's history for ever."""

WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of the standard's own examples

MENDS = {
    Fix.REPAIR: "repair",
    Fix.TAKE_BACK: "repair, with `takeover` only",
    Fix.DELETE: "delete",
    Fix.NONE: "a person decides",
}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """Return what stands under a heading of the second rank."""
    return text_of(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table row whose first cell is a name in code."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names(text: str) -> list[str]:
    return [name for row in rows(text) for name in re.findall(r"`([^`]+)`", row[0])]


def in_order(values: Iterable[str]) -> list[str]:
    return sorted(str(value.value if isinstance(value, StrEnum) else value) for value in values)


def anchors(text: str) -> set[str]:
    """Return what a heading is reached by, as GitHub and others make it."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    table = text_of("docs/settings.md").split("\n## ")[0]

    assert in_order(names(table)) == in_order(name.upper() for name in Settings.model_fields)


def test_the_example_has_every_setting_and_nothing_else() -> None:
    assert in_order(re.findall(r"^#?([A-Z][A-Z_]+)=", text_of(".env.example"), re.MULTILINE)) == in_order(
        name.upper() for name in Settings.model_fields
    )


def test_the_guide_has_every_option_in_the_words_of_the_console() -> None:
    written = [row[:3] for row in rows(section("docs/guide.md", "Change an agent"))]

    assert written == [[f"`{path}`", words.help, words.default] for path, words in WORDS.items()]


def test_every_error_code_is_documented_with_its_status() -> None:
    told = {row[0].strip("`"): int(row[1]) for row in rows(text_of("docs/errors.md"))}

    assert told == {code.value: kind.status for code, kind in PROBLEMS.items()}
    assert in_order(names(text_of("docs/errors.md"))) == in_order(ErrorCode)


def test_every_event_of_the_trail_is_documented() -> None:
    assert in_order(names(section("docs/events.md", "The events of an operation"))) == in_order(EventName)


@pytest.mark.parametrize(("page", "heading"), [("docs/events.md", "Webhooks"), ("docs/webhooks.md", "Events")])
def test_every_webhook_event_is_documented(page: str, heading: str) -> None:
    assert in_order(names(section(page, heading))) == in_order(WebhookEvent)


def test_every_finding_is_documented_as_the_code_has_it() -> None:
    told = [tuple(row[1:]) for row in rows(section("docs/operations.md", "Configuration drift"))]

    assert names(section("docs/operations.md", "Configuration drift")) == [code.value for code in FindingCode]
    assert told == [
        (kind.severity.value, kind.sentence, MENDS[kind.fix]) for kind in (FINDING_KINDS[code] for code in FindingCode)
    ]


def test_every_magic_number_is_documented_as_the_sandbox_has_it() -> None:
    told = rows(section("docs/sandbox.md", "Magic numbers"))

    assert told == [[f"`{one.phone_number}`", one.happens, one.ends] for one in MAGIC_NUMBERS]


def test_every_field_and_kind_of_a_fault_is_documented() -> None:
    told = section("docs/sandbox.md", "Faults") + section("docs/sandbox.md", "Calls over SIP")

    assert faults.FIELDS | faults.KINDS | {faults.PAUSE, faults.RANDOM} <= set(re.findall(r"`\"?(\w+)\"?`", told))


def test_every_switch_is_documented() -> None:
    told = set(re.findall(r"`(\w+)`", section("docs/sandbox.md", "Switches")))

    assert settings_json(Switches()).keys() <= told


def test_no_document_calls_the_program_as_flask_does() -> None:
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]

    assert [page.name for page in pages if "flask --app" in page.read_text(encoding="utf-8")] == []


def test_every_status_is_documented() -> None:
    states = section("docs/operations.md", "States")

    assert in_order(names(states)) == in_order(PhoneStatus)
    assert {status.value for status in OperationStatus} <= set(re.findall(r"`(\w+)`", states))


def test_every_result_that_flower_shows_is_documented() -> None:
    results = section("docs/operations.md", "Flower").split("in its result how it went on:")[1].split(".\n")[0]
    told = set(re.findall(r"`(\w+)`", results))

    assert told == {verdict.value for verdict in Verdict} - {Verdict.CLAIMED, Verdict.ROLLING_BACK}


def test_the_reference_is_the_openapi_document() -> None:
    page = reference_page(json.loads(text_of("tests/api/openapi.json")))
    if os.environ.get("UPDATE_API_MD"):
        REFERENCE.write_text(page, encoding="utf-8")

    assert page == REFERENCE.read_text(encoding="utf-8")


def receiver_of_the_page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the receiver as docs/webhooks.md prints it; return its names."""
    monkeypatch.setenv("TRUNKLINE_WEBHOOK_SECRET", WEBHOOK_SECRET)
    (program,) = re.findall(r"^```python\n(.*?)^```", section("docs/webhooks.md", "Receive"), re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {"__name__": "receiver"}
    exec(compile(program, "docs/webhooks.md", "exec"), found)  # noqa: S102  # our own page
    return found


def deliver(receiver: dict[str, Any], event: str, data: dict[str, Any], message_id: str, **instead: str) -> int:
    """Post a message as we sign it; return the receiver's status."""
    body, now = payload_of(WebhookEvent(event), data), datetime.now(UTC)
    signature = Webhook(WEBHOOK_SECRET).sign(message_id, now, body)
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
        "Content-Type": "application/json",
    }
    client = receiver["app"].test_client()
    return int(client.post("/hooks/trunkline", data=body.encode(), headers=headers | instead).status_code)


@pytest.mark.parametrize("event", WebhookEvent)
def test_the_receiver_in_the_page_takes_every_event(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], event: WebhookEvent
) -> None:
    receiver, is_ping = receiver_of_the_page(monkeypatch), event is WebhookEvent.PING
    data = {} if is_ping else {"agentId": "7c1f", "phoneProvisioningStatus": "PROVISIONED"}

    assert [deliver(receiver, event, data, "msg_1") for _ in range(2)] == [204, 204]
    assert capsys.readouterr().out == ("" if is_ping else f"{event} 7c1f PROVISIONED\n")
    assert deliver(receiver, event, data, "msg_2", **{"webhook-signature": "v1,AAAA"}) == 401


def test_the_receiver_in_the_page_loses_no_event_whose_work_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, worked = receiver_of_the_page(monkeypatch), []

    def fail_once(event: str, _data: object) -> None:
        worked.append(event)
        if len(worked) == 1:
            raise OSError("the disk is full")

    receiver["handle"] = fail_once
    assert [deliver(receiver, "phone.failed", {}, "msg_1") for _ in range(3)] == [500, 204, 204]
    assert worked == ["phone.failed"] * 2


def test_a_decision_says_why_each_dependency_is_there() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))
    wanted = [
        *project["project"]["dependencies"],
        *(one for group in project["dependency-groups"].values() for one in group),
    ]
    table = re.findall(r"^\| ([^|]+) \|", text_of("docs/decisions/0010-libraries.md"), re.MULTILINE)

    assert {re.split(r"[^\w-]", one)[0] for one in wanted} - set(re.findall(r"[a-z][\w-]*", " ".join(table))) == set()


def test_every_decision_is_listed_by_its_title_and_status() -> None:
    listed = re.findall(
        r"^\| (\d+) \| \[(.+)\]\((\S+)\) \| (.+) \|$", text_of("docs/decisions/README.md"), re.MULTILINE
    )
    files = sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))

    assert [file for _, _, file, _ in listed] == files
    assert [int(number) for number, *_ in listed] == list(range(1, len(files) + 1))
    for number, title, file, status in listed:
        assert file.startswith(f"{int(number):04}-")
        head = re.match(r"# (\d+)\. (.+)\n\nStatus: ([^;\n]+)", text_of(f"docs/decisions/{file}"))
        assert head is not None, file
        assert head.groups() == (number, title, status)


@pytest.mark.parametrize("page", sorted(DECISIONS.glob("[0-9]*.md")), ids=lambda page: page.name)
def test_every_decision_has_the_same_parts(page: Path) -> None:
    heads = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)

    assert [head for head in heads if head != "Alternatives"] == [
        "Context",
        "Decision",
        "Consequences",
        "What would change it",
    ]


def test_the_readme_leads_to_every_document() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+\.md)\)", text_of("README.md")))

    assert linked == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} | {"docs/decisions/README.md"}


def test_the_readme_is_short_and_shows_the_console() -> None:
    text = text_of("README.md")
    (picture,) = re.findall(r"^!\[[^\]]+\]\((\S+\.png)\)$", text, re.MULTILINE)

    assert len(text.split()) <= README_WORDS
    assert (ROOT / picture).stat().st_size <= PICTURE_BYTES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            dead.append(target)

    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_document_names_exists(page: Path) -> None:
    folders, endings = "app|tests|tasks|migrations|docs|deploy|\\.ci", "py|md|json|yaml|sql|conf|service|example"
    named = re.findall(rf"`((?:{folders})/[\w./@-]+?\.(?:{endings}))`", page.read_text(encoding="utf-8"))

    assert [name for name in named if not (ROOT / name).exists()] == []
