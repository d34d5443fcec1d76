"""Malformed texts that may be stored at a provider, each of which caused a failure once, and similar ones."""

import json
from collections.abc import Iterator

from hypothesis import strategies as st

MALFORMED_URIS = (
    "sip:[::1",
    "sip:x]",
    "sip:[v1.x]",
    "sip:a.example\uff1a5060",
    "sip:\u2100.example",
    "sip:a.example:port",
    "sip:a.example:99999",
    "sip:\x1bc@evil.example",
    "sip:\r\nx",
    "sip:\0",
    "sip:\ud800",
    "sip:;;;=",
    "sip:",
    "",
    "sip:" + "a" * 5000,
)

DEEP = ("[" * 50_000, '{"a":' * 20_000)
"""Nested deeper than a JSON reader goes."""

_NO_AGENTS = ("hello", None, [1], 7, True, {}, "", "\0", "\ud800", "{%s}", "urn:uuid:%s", "%s\0", " %s", "%s/x")


def damaged_marks(instance: str, agent: str) -> Iterator[str]:
    """Yield metadata that looks like a tag of the instance and does not name an agent as we do."""
    yield from DEEP
    for name in (*_NO_AGENTS, agent.upper()):
        agent_id = name % agent if isinstance(name, str) and "%s" in name else name
        yield json.dumps({"managedBy": "trunkline", "instance": instance, "agentId": agent_id})
    for nobody in (None, [instance], 1):
        yield json.dumps({"managedBy": "trunkline", "instance": nobody, "agentId": agent})


def id_of(text: object) -> str:
    """Name a test by its text."""
    return ascii(text)[:40]


ANY_TEXT = st.one_of(st.sampled_from(MALFORMED_URIS), st.text(st.characters(), max_size=20), st.text(max_size=20))
"""Texts of every kind, including halves of surrogate pairs."""

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
"""Values that may be found where a text is expected."""
