"""Rows of a table of changes to a path: what changes, and every reason why calls fail then."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.domain.findings import Callers
from app.domain.options import RuleAgent
from app.path.observed import Encryption
from app.path.reach import Reach, reach
from app.path.spec import Profile
from tests.support.line import AGENT, CALLED, CLOUD, OWN_SERVER, Line

SECURE = replace(CLOUD, sip_uri=CLOUD.sip_uri.over_tls(), is_secure=True)
OTHER_URL = "sip:pbx.example.com"
EU_URL = "sip:abc.eu.sip.livekit.cloud;transport=tcp"
SHORT_CALLED = CALLED.removeprefix("+")
OTHER_CALLER = "+13105550198"
RECORDER = (RuleAgent("recorder"),)
DISABLE, ALLOW, REQUIRE = Encryption

Change = Callable[[Line], Line]


def host(line: Line) -> str:
    """Return the URI of LiveKit without parameters."""
    return f"sip:{line.profile.sip_uri.host}"


def told(found: Reach) -> list[str]:
    """Return the reasons as `code id`, with a `~` where only some calls fail."""
    return [
        f"{'~' if callers is Callers.SOME else ''}{reason.code} {reason.resource[1] if reason.resource else ''}"
        for reason, callers in found.reasons
    ]


def reach_of(line: Line, *, caller: str | None = None, source: str | None = None) -> Reach:
    return reach(line.observed(), line.spec, caller=caller, source=source)


def everywhere(name: str, change: Change, *expected: str) -> list[object]:
    """Return a row for LiveKit Cloud and one for a server of one's own."""
    return [
        pytest.param(profile, change, list(expected), id=f"{name}, {where}")
        for profile, where in ((CLOUD, "Cloud"), (OWN_SERVER, "own server"))
    ]


def on_cloud(name: str, change: Change, *expected: str) -> list[object]:
    return [pytest.param(CLOUD, change, list(expected), id=name)]


def on_own_server(name: str, change: Change, *expected: str) -> list[object]:
    return [pytest.param(OWN_SERVER, change, list(expected), id=f"{name}, own server")]


def secured(name: str, change: Change, *expected: str) -> list[object]:
    return [pytest.param(SECURE, change, list(expected), id=f"{name}, secure line")]


def elsewhere(line: Line, *, secure: bool = False, url: str | None = None) -> Line:
    """Put our number on somebody else's trunk, which has one URL."""
    line.number("TK2").add_trunk("TK2", is_secure=secure)
    return line.add_url("OU2", "TK2", sip_url=url or str(line.profile.sip_uri))


def trunkless_rule(line: Line, **to: object) -> Line:
    return line.add_rule("SDR2", **{"trunk_ids": (), **to})


def numberless_trunk(line: Line) -> Line:
    """Add a trunk without numbers, for one caller, from which our rule takes calls too."""
    return line.rule(trunk_ids=("ST1", "ST2")).add_inbound("ST2", numbers=(), allowed_numbers=(OTHER_CALLER,))


def check_reasons(profile: Profile, change: Change, expected: list[str]) -> None:
    """Change a whole path, and expect these reasons and no other."""
    found = reach_of(change(Line.whole(profile)))

    assert told(found) == expected
    is_told_whose = all("Affected: " in reason.detail for reason, callers in found.reasons if callers is Callers.SOME)
    assert is_told_whose
    assert (AGENT in found.agents) or found.reasons
    assert not found.agents or not any(callers is Callers.ALL for _, callers in found.reasons)
