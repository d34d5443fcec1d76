"""docs/clients.md says what `.ci/clients` does, and its examples call what there is."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
SCRIPT = (ROOT / ".ci" / "clients").read_text(encoding="utf-8")
DOCUMENT = json.loads((ROOT / "tests" / "api" / "openapi.json").read_text(encoding="utf-8"))

_PINNED = re.compile(r"@?[a-z][a-z/-]*(?:@|==)\d+\.\d+\.\d+")


def example(language: str) -> str:
    """Return the one block of a language that the page has."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return block


def test_the_page_names_the_versions_that_are_tried() -> None:
    lines = [line for line in SCRIPT.splitlines() if line.startswith(("NPM=(", "PIP=("))]
    tried = [version for line in lines for version in _PINNED.findall(line)]

    assert len(tried) == len(set(tried)) == 6
    assert set(_PINNED.findall(PAGE)) == set(tried)


def test_no_address_of_a_registry_is_in_the_script() -> None:
    assert "://" not in SCRIPT


def test_the_examples_call_what_the_document_has() -> None:
    calls = {operation["operationId"] for verbs in DOCUMENT["paths"].values() for operation in verbs.values()}
    modules = re.findall(r"^from trunkline_client\.api\.\w+ import (\w+)$", example("python"), re.MULTILINE)
    named = [re.sub(r"_(\w)", lambda found: found[1].upper(), name) for name in modules]
    posted = re.findall(r"client\.POST\(\"([^\"]+)\"", example("ts"))

    assert named == ["createAgent", "provisionPhone"]
    assert set(named) <= calls
    assert posted == ["/api/agents", "/api/agents/{agent_id}/provision-phone"]
    assert all("post" in DOCUMENT["paths"][path] for path in posted)
