"""Paths that somebody built by hand at both providers' consoles, for tests of adoptions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from livekit.protocol import sip

from app.dev.sandbox.call import trace_call
from app.domain.events import Origin
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, ORIGINATION_URL, TRUNK, PathChoice
from tests.support.changed_path import CALLER, OTHER_CALLER, ROLLS, SOURCES, ChangedPath
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import ProviderConsole

OTHER_NUMBER = "+15145550002"
"""Another number of the account."""

VOICE_URL = "https://example.com/voice"
"""What the number did before it was put on a trunk: it is kept at Twilio, and sleeps."""


@dataclass
class HandMade:
    """The path of one number, made by hand, and an agent that may adopt it."""

    path: ChangedPath
    ids: dict[str, str] = field(default_factory=dict)
    """Step -> the object that a call passes."""

    @property
    def number(self) -> str:
        """The number, E.164."""
        return self.path.number

    @property
    def sip_url(self) -> str:
        """Where LiveKit is called."""
        return f"sip:{self.path.sandbox.inside.credentials.sip_host};transport=tcp"

    @property
    def number_url(self) -> str:
        """The URL of the number's record."""
        record = self.record(self.number)
        return f"/2010-04-01/Accounts/{record['account_sid']}/IncomingPhoneNumbers/{record['sid']}.json"

    def record(self, number: str) -> Mapping[str, Any]:
        """Return a number's record."""
        rows = self.path.sandbox.inside.store.numbers.rows.values()
        return next(row for row in rows if row["phone_number"] == number)

    def trunk(self, **fields: str) -> str:
        """Make a Twilio trunk and put the number on it; return its sid."""
        made = self.path.console.twilio("POST", "/v1/Trunks", **{"FriendlyName": "Front desk line", **fields})
        self.ids[TRUNK] = str(made["sid"])
        self.put(self.number)
        return self.ids[TRUNK]

    def put(self, number: str) -> None:
        """Put a number on the trunk."""
        on = f"/v1/Trunks/{self.ids[TRUNK]}/PhoneNumbers"
        self.path.console.twilio("POST", on, PhoneNumberSid=self.record(number)["sid"])

    def url(self, sip_url: str = "", **fields: str) -> str:
        """Make an origination URL on the trunk, to LiveKit unless said otherwise; return its sid."""
        usual = {"FriendlyName": "to LiveKit", "Priority": "1", "Weight": "1", "Enabled": "true"}
        urls = f"/v1/Trunks/{self.ids[TRUNK]}/OriginationUrls"
        made = self.path.console.twilio("POST", urls, SipUrl=sip_url or self.sip_url, **{**usual, **fields})
        self.ids.setdefault(ORIGINATION_URL, str(made["sid"]))
        return str(made["sid"])

    def inbound(self, **fields: Any) -> str:
        """Make a LiveKit trunk with the number; return its id."""
        info = sip.SIPInboundTrunkInfo(**{"name": "Front desk", "numbers": [self.number], **fields})
        made = sip.SIPInboundTrunkInfo.FromString(
            self._send("CreateSIPInboundTrunk", sip.CreateSIPInboundTrunkRequest(trunk=info))
        )
        self.ids.setdefault(INBOUND_TRUNK, made.sip_trunk_id)
        return made.sip_trunk_id

    def rule(self, *agents: tuple[str, str], **fields: Any) -> str:
        """Make a dispatch rule for that trunk with these agents and what their jobs get; return its id."""
        usual = {"name": "Callers", "trunk_ids": [self.ids[INBOUND_TRUNK]]}
        info = sip.SIPDispatchRuleInfo(**{**usual, **fields})
        if info.rule.WhichOneof("rule") is None:
            info.rule.dispatch_rule_individual.room_prefix = "desk"
        for name, metadata in agents:
            info.room_config.agents.add(agent_name=name, metadata=metadata)
        made = sip.SIPDispatchRuleInfo.FromString(
            self._send("CreateSIPDispatchRule", sip.CreateSIPDispatchRuleRequest(dispatch_rule=info))
        )
        self.ids.setdefault(DISPATCH_RULE, made.sip_dispatch_rule_id)
        return made.sip_dispatch_rule_id

    def _send(self, method: str, request: Any) -> bytes:
        return self.path.console.sip(method, request.SerializeToString())

    def objects(self) -> dict[str, object]:
        """Return everything at both providers, by id."""
        return self.path.sandbox.objects()

    def calls(self) -> list[tuple[object, ...]]:
        """Call the number and return what each caller gets, and by which objects."""
        inside, found = self.path.sandbox.inside, []
        with inside.store.lock:
            for caller in (CALLER, OTHER_CALLER, "anonymous"):
                for source in SOURCES:
                    for roll in ROLLS:
                        call = trace_call(inside, self.number, caller, source=source, roll=roll)
                        hops = [(each["hop"], each["id"], each["ok"]) for each in call["path"]]
                        found.append((call["reaches"], call["agents"], call["status"], hops))
        return found

    def adopt(self) -> None:
        """Adopt the path, and run it to its end."""
        self.path.wiring.adoption.adopt(self.path.agent_id, self.number, origin=Origin())
        self.path.drive()

    def deprovision(self, choice: PathChoice | None) -> None:
        """Give the path back, or take it down."""
        self.path.wiring.provisioning.deprovision(self.path.agent_id, origin=Origin(), path=choice)
        self.path.drive()


def build_by_hand(sandbox: Sandbox, number: str, agent_name: str) -> dict[str, str]:
    """Build a path for a new number as somebody does at the consoles; return its objects by the sandbox's kinds."""
    console = ProviderConsole(sandbox)
    trunk = str(console.twilio("POST", "/v1/Trunks", FriendlyName=f"line {number}")["sid"])
    url = console.twilio(
        "POST",
        f"/v1/Trunks/{trunk}/OriginationUrls",
        FriendlyName="to LiveKit",
        SipUrl=sandbox.settings()["LIVEKIT_SIP_URI"],
        Priority="1",
        Weight="7",
        Enabled="true",
    )
    inbound = console.livekit(
        "CreateSIPInboundTrunk",
        trunk={"name": f"line {number}", "numbers": [number], "metadata": '{"costCentre":  42}'},
    )
    rule = console.livekit(
        "CreateSIPDispatchRule",
        dispatch_rule={
            "name": f"callers of {number}",
            "trunk_ids": [inbound["sip_trunk_id"]],
            "rule": {"dispatch_rule_individual": {"room_prefix": "desk"}},
            "room_config": {"agents": [{"agent_name": agent_name, "metadata": '{"tone":  "kind"}'}]},
        },
    )
    sandbox.number(number, trunkSid=trunk, voiceUrl=VOICE_URL)
    return {
        "trunks": trunk,
        "originationUrls": str(url["sid"]),
        "livekitTrunks": str(inbound["sip_trunk_id"]),
        "livekitRules": str(rule["sip_dispatch_rule_id"]),
    }


_INFOS = {"ST": sip.SIPInboundTrunkInfo, "SDR": sip.SIPDispatchRuleInfo}


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, set[str]]:
    """Return the fields in which objects differ, by id; "made" and "gone" for whole objects."""
    found = {key: {"made" if key in after else "gone"} for key in before.keys() ^ after.keys()}
    for key in before.keys() & after.keys():
        one, other = _fields(key, before[key]), _fields(key, after[key])
        names = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
        if names or before[key] != after[key]:
            found[key] = names
    return found


def _fields(key: str, record: object) -> dict[str, object]:
    if isinstance(record, Mapping):
        return dict(record)
    info = _INFOS[key.partition("_")[0]].FromString(record)
    return {field.name: str(value) for field, value in info.ListFields()}


Shape = Callable[[HandMade], object]


def plain(made: HandMade) -> None:
    """Build what LiveKit's guide to Twilio ends with."""
    made.trunk()
    made.url()
    made.inbound()
    made.rule(("front-desk", '{"tone": "kind"}'))
