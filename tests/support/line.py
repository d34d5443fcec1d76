"""A whole path of one number at both providers, as data, to change in tests."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.options import RuleAgent
from app.domain.sip_uris import TWILIO_SIGNALLING, parse_sip_uri
from app.path.observed import (
    CarrierNumber,
    CarrierTrunk,
    DispatchRule,
    InboundTrunk,
    NumberRouting,
    Observed,
    OriginationUrl,
    ResourceKey,
    Unreadable,
)
from app.path.spec import Label, PathSpec, Profile

CALLED = "+15145550100"
CALLER = "+13105550199"
AGENT = "support"
CLOUD_URL = "sip:abc.sip.livekit.cloud;transport=tcp"
OWN_SERVER_URL = "sip:sip.example.com;transport=tcp"

CLOUD = Profile(parse_sip_uri(CLOUD_URL), allowed_addresses=TWILIO_SIGNALLING)
OWN_SERVER = Profile(parse_sip_uri(OWN_SERVER_URL), allowed_addresses=TWILIO_SIGNALLING)
"""An open-source LiveKit."""


@dataclass
class Line:
    """The objects of one path, and others that are added; every method changes it and returns it."""

    profile: Profile = CLOUD
    numbers: dict[str, CarrierNumber] = field(default_factory=dict)
    trunks: dict[str, CarrierTrunk] = field(default_factory=dict)
    urls: dict[str, list[OriginationUrl]] = field(default_factory=dict)
    inbound_trunks: dict[str, InboundTrunk] = field(default_factory=dict)
    rules: dict[str, DispatchRule] = field(default_factory=dict)
    unreadable: dict[ResourceKey, list[Unreadable]] = field(default_factory=dict)

    @classmethod
    def whole(cls, profile: Profile = CLOUD) -> Self:
        """Return a path as Trunkline makes it."""
        line = cls(profile)
        line.numbers["PN1"] = CarrierNumber("PN1", CALLED, "AC1", NumberRouting("TK1", None, None))
        line.add_trunk("TK1", is_secure=profile.is_secure)
        line.add_url("OU1", sip_url=str(profile.sip_uri))
        wanted = line.spec.inbound_trunk
        line.add_inbound("ST1", allowed_addresses=wanted.allowed_addresses)
        line.add_rule("SDR1")
        return line

    @property
    def spec(self) -> PathSpec:
        """Return what it should be."""
        ids = {NUMBER: "PN1", TRUNK: "TK1", ORIGINATION_URL: "OU1", INBOUND_TRUNK: "ST1", DISPATCH_RULE: "SDR1"}
        return PathSpec(self.profile, "test", "agent-1", AGENT, "{}", CALLED, Label("tag"), ids)

    def observed(self) -> Observed:
        """Return it as both providers would list it."""
        return Observed(self.numbers, self.trunks, self.urls, self.inbound_trunks, self.rules, self.unreadable)

    def number(
        self, trunk: str | None = "TK1", application: str | None = None, url: str | None = None, **to: Any
    ) -> Self:
        """Change our number."""
        self.numbers["PN1"] = replace(self.numbers["PN1"], routing=NumberRouting(trunk, application, url), **to)
        return self

    def trunk(self, **to: Any) -> Self:
        """Change our Twilio trunk."""
        self.trunks["TK1"] = replace(self.trunks["TK1"], **to)
        return self

    def url(self, **to: Any) -> Self:
        """Change our origination URL."""
        urls = self.urls["TK1"]
        self.urls["TK1"] = [replace(url, **to) if url.sid == "OU1" else url for url in urls]
        return self

    def inbound(self, **to: Any) -> Self:
        """Change our LiveKit trunk."""
        self.inbound_trunks["ST1"] = replace(self.inbound_trunks["ST1"], **to)
        return self

    def rule(self, **to: Any) -> Self:
        """Change our rule."""
        self.rules["SDR1"] = replace(self.rules["SDR1"], **to)
        return self

    def without(self, *ids: str) -> Self:
        """Delete objects of any kind."""
        for external_id in ids:
            for objects in (self.numbers, self.trunks, self.inbound_trunks, self.rules):
                objects.pop(external_id, None)  # type: ignore[attr-defined]
            self.urls = {sid: [url for url in urls if url.sid != external_id] for sid, urls in self.urls.items()}
        return self

    def cannot_read(self, kind: str, external_id: str, parent_id: str = "") -> Self:
        """Delete an object, and list one of its id that cannot be read."""
        self.without(external_id)
        self.unreadable[kind, parent_id] = [Unreadable(external_id, may_be_ours=True)]
        return self

    def add_trunk(self, sid: str, *, is_secure: bool = False) -> Self:
        """Add a Twilio trunk, without URLs."""
        self.trunks[sid] = CarrierTrunk(sid, "tag", is_secure, None)
        self.urls[sid] = []
        return self

    def add_url(self, sid: str, trunk_sid: str = "TK1", **to: Any) -> Self:
        """Add an origination URL like ours."""
        url = OriginationUrl(sid, trunk_sid, str(self.profile.sip_uri), True, "tag", None, 10, 10)
        self.urls[trunk_sid].append(replace(url, **to))
        return self

    def add_inbound(self, trunk_id: str, **to: Any) -> Self:
        """Add a LiveKit trunk with our number."""
        trunk = InboundTrunk(trunk_id, "tag", "{}", (CALLED,))
        self.inbound_trunks[trunk_id] = replace(trunk, **to)
        return self

    def add_rule(self, rule_id: str, **to: Any) -> Self:
        """Add a rule for our LiveKit trunk that starts our agent."""
        rule = DispatchRule(rule_id, "tag", "", ("ST1",), (RuleAgent(AGENT),), room="call")
        self.rules[rule_id] = replace(rule, **to)
        return self
