"""Texts that somebody may have written at a provider, each of which stopped something once, and more of their kinds."""

import json
from collections.abc import Iterator

from hypothesis import strategies as st

ODD_URIS = (
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
    """Yield metadata that calls itself a mark of the instance, and names no agent as we name one."""
    yield from DEEP
    for name in (*_NO_AGENTS, agent.upper()):
        agent_id = name % agent if isinstance(name, str) and "%s" in name else name
        yield json.dumps({"managedBy": "trunkline", "instance": instance, "agentId": agent_id})
    for nobody in (None, [instance], 1):
        yield json.dumps({"managedBy": "trunkline", "instance": nobody, "agentId": agent})


def id_of(text: object) -> str:
    """Name a test by its text."""
    return ascii(text)[:40]


ANY_TEXT = st.one_of(st.sampled_from(ODD_URIS), st.text(st.characters(), max_size=20), st.text(max_size=20))
"""Every kind of text, halves of surrogate pairs among them."""

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
"""What may stand where a text is expected."""
