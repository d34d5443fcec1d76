"""Random configurations of both providers, biased so that many calls get through, and their smallest failing form.

Objects are written into the sandbox's store as they are, also those that a provider's API would refuse today: older
servers have taken them. A configuration is drawn by its seed alone.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from livekit.protocol import sip

from app.dev.sandbox import ACCOUNT_SID
from app.dev.sandbox.exchange import RequestLog
from app.dev.sandbox.livekit import read_body
from app.dev.sandbox.state import CLOUD, OPEN_SOURCE, OPEN_SOURCE_1_13_7, Credentials, Sandbox, Switches
from app.dev.sandbox.store import Store
from app.dev.sandbox.twilio_wire import number_record, origination_url_record, trunk_record
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.options import (
    NO_OPTIONS,
    OPTIONS,
    AgentOptions,
    DispatchKind,
    HeaderSet,
    RuleAgent,
    TransferMode,
    options_json,
)
from app.domain.sip_uris import TWILIO_SIGNALLING, parse_sip_uri
from app.path.observed import Observed, ResourceKey, Unreadable
from app.path.spec import Label, PathSpec, Profile
from app.providers import livekit_records, twilio_records
from app.providers.base import read_records

CALLED = "+15145551234"
OTHERS = ("+15145551235", "+442079460123")
CALLERS = ("+15005550006", "+13105550100", "+266696687", "anonymous", "+442079460123456")
"""Among them what Twilio writes for a hidden number, in two forms, and the longest number that there is."""

LONGEST_CALLER = 16
"""Characters; longer texts stand in lists as well, but nobody calls with one."""

AGENT = "front-desk"
PRESET = "studio"
"""The one room preset that the LiveKit server has."""

CLOUD_HOST, OWN_HOST = "sandbox.sip.livekit.cloud", "sip.example.org"
SERVERS = {CLOUD: CLOUD_HOST, OPEN_SOURCE: OWN_HOST, OPEN_SOURCE_1_13_7: OWN_HOST}

ODD_TEXTS = (
    "",
    " ",
    "\x00",
    "+",
    "\uff11\uff15\uff11\uff14",
    "\u0661\u0665\u0661\u0664",
    "x" * 300,
    "a,b",
    "\r\n",
    "é",
    "+1514555\x001234",
    "[" * 50,
)

ADDRESSES = tuple(address for block in TWILIO_SIGNALLING for address in ip_network(block))
"""All that Twilio's SIP trunks call from: 32."""

Json = dict[str, Any]
Thing = TypeVar("Thing")


class Draw:
    """Draws from one seed."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(repr(seed))  # noqa: S311  # not a secret

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def one(self, choices: Sequence[Thing]) -> Thing:
        return choices[int(self._random.random() * len(choices))]

    def some(self, choices: Sequence[Thing], most: int) -> list[Thing]:
        return [self.one(choices) for _ in range(int(self._random.random() * (most + 1)))] if choices else []

    def roll(self) -> float:
        return self._random.random()


@dataclass
class Configuration:
    """All objects of both providers, what LiveKit's server is, and the ids of our path among them."""

    server: str
    numbers: list[Json]
    trunks: list[Json]
    urls: list[Json]
    livekit_trunks: list[sip.SIPInboundTrunkInfo]
    rules: list[sip.SIPDispatchRuleInfo]
    ids: dict[str, str] = field(default_factory=dict)
    options: AgentOptions = NO_OPTIONS

    def sandbox(self) -> Sandbox:
        """Return a sandbox that holds exactly these objects."""
        switches = Switches(livekit_server=self.server, room_presets=(PRESET,))
        sandbox = Sandbox(Credentials(sip_host=SERVERS[self.server]), Store(), RequestLog(read_body), switches=switches)
        for kind, rows in (("numbers", self.numbers), ("trunks", self.trunks), ("origination_urls", self.urls)):
            for row in rows:
                sandbox.store.put(kind, row["sid"], row)
        for trunk in self.livekit_trunks:
            sandbox.store.put("livekit_trunks", trunk.sip_trunk_id, trunk)
        for rule in self.rules:
            sandbox.store.put("livekit_rules", rule.sip_dispatch_rule_id, rule)
        return sandbox

    def observed(self) -> Observed:
        """Read all of it with the adapters' own readers."""
        odd: dict[ResourceKey, list[Unreadable]] = {}
        read = self._read
        numbers = read(odd, (NUMBER, ""), self.numbers, twilio_records.read_number, "PN")
        trunks = read(odd, (TRUNK, ""), self.trunks, twilio_records.read_trunk, "TK")
        urls = {
            sid: read(
                odd,
                (ORIGINATION_URL, sid),
                [url for url in self.urls if url["trunk_sid"] == sid],
                twilio_records.read_origination_url,
                "OU",
            )
            for sid in (trunk.sid for trunk in trunks)
        }
        inbound = read(odd, (INBOUND_TRUNK, ""), self.livekit_trunks, livekit_records.read_trunk, "")
        rules = read(odd, (DISPATCH_RULE, ""), self.rules, livekit_records.read_rule, "")
        return Observed(
            {number.sid: number for number in numbers},
            {trunk.sid: trunk for trunk in trunks},
            {sid: sorted(listed, key=twilio_records.by_age) for sid, listed in urls.items()},
            {trunk.id: trunk for trunk in inbound},
            {rule.id: rule for rule in rules},
            odd,
        )

    @staticmethod
    def _read(
        odd: dict[ResourceKey, list[Unreadable]], key: ResourceKey, rows: list[Any], reader: Any, kind: str
    ) -> list[Any]:
        def describe(row: Any) -> Unreadable:
            return twilio_records.unreadable_record(row, kind) if kind else livekit_records.unreadable_record(row)

        return read_records(rows, reader, describe, odd.setdefault(key, []))

    def spec(self) -> PathSpec:
        """Return the path that we want: to `AGENT`, through the objects that `ids` names."""
        uri = parse_sip_uri(f"sip:{SERVERS[self.server]};transport=tcp")
        profile = Profile(uri, room_presets=frozenset({PRESET}))
        agent_id = "00000000-0000-4000-8000-000000000001"
        label = Label(f"trunkline/test/{agent_id}")
        return PathSpec(profile, "test", agent_id, AGENT, "{}", CALLED, label, dict(self.ids), options=self.options)

    def callers(self) -> list[str]:
        """Return one caller of each kind that some object tells from the others, and one that none names."""
        named = {text for trunk in self.livekit_trunks for text in trunk.allowed_numbers}
        named |= {text for rule in self.rules for text in rule.inbound_numbers}
        named |= set(self.options.allowed_callers or ())
        # A From header has no control characters.
        return [*CALLERS, "+12025550199", *sorted(text for text in named - set(CALLERS) if text and text.isprintable())]

    def sources(self) -> list[str]:
        """Return an address of Twilio for each kind that the allowed addresses tell from the others."""
        entries = sorted({text for trunk in self.livekit_trunks for text in trunk.allowed_addresses})
        networks = [network for network in map(_network, entries) if network]
        kinds: dict[tuple[bool, ...], str] = {}
        for address in ADDRESSES:
            kinds.setdefault(tuple(address in network for network in networks), str(address))
        return list(kinds.values())

    def rolls(self) -> list[float]:
        """Return a draw for each URL of each tier of priority."""
        found = {0.0}
        for sid in {url["trunk_sid"] for url in self.urls}:
            enabled = [url for url in self.urls if url["trunk_sid"] == sid and url["enabled"]]
            for priority in {url["priority"] for url in enabled}:
                weights = [url["weight"] for url in enabled if url["priority"] == priority]
                total, passed = sum(weights), 0
                for weight in weights[:-1]:
                    passed += weight
                    if 0 < passed < total:
                        # In the middle of the next one's share: no rounding decides there.
                        found.add((passed + 0.5) / total)
        return sorted(found)


@lru_cache
def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


class Drawer:
    """Draws one configuration."""

    def __init__(self, seed: object) -> None:
        self.draw = Draw(seed)
        self.server = self.draw.one(tuple(SERVERS))
        self.host = SERVERS[self.server]
        self.trouble = self.draw.one((0.0, 0.01, 0.03, 0.1, 0.3))
        """How likely each field is set to something else than what a whole path has."""
        self.is_secure = self.draw.chance(0.3)
        """Whether our path is mostly drawn as an encrypted one."""
        self._made = 0

    def configuration(self) -> Configuration:
        draw = self.draw
        trunks = [self._trunk() for _ in range(draw.one((1, 1, 2, 3)) if not self.rare() else 0)]
        trunk_sids = [trunk["sid"] for trunk in trunks]
        urls = [self._url(sid, at) for sid in trunk_sids for at in range(draw.one((1, 1, 1, 2, 3, 4)))]
        numbers = [self._number(CALLED, trunk_sids)]
        numbers += [self._number(text, trunk_sids) for text in OTHERS[: draw.one((0, 1, 2))]]
        inbound = [self._livekit_trunk(at) for at in range(self._count())]
        inbound_ids = [trunk.sip_trunk_id for trunk in inbound]
        rules = [self._rule(inbound_ids, at) for at in range(self._count())]
        made = Configuration(self.server, numbers, trunks, urls, inbound, rules)
        made.ids = self._ids(made)
        if draw.chance(0.5):
            self._set_options(made)
        if self.odd():
            draw.one((made.livekit_trunks, made.rules)).reverse()
        return made

    def odd(self) -> bool:
        return self.draw.chance(self.trouble)

    def rare(self) -> bool:
        """Tell whether to change what stops every call."""
        return self.draw.chance(self.trouble / 4)

    def _count(self) -> int:
        return self.draw.one((1, 1, 1, 2, 2, 3, 4, 5)) if not self.rare() else 0

    def _ids(self, made: Configuration) -> dict[str, str]:
        """Return which objects are ours: mostly those of the path, sometimes any, sometimes gone ones."""
        number = made.numbers[0]
        trunk_sid = number["trunk_sid"] or ""
        url = next((url["sid"] for url in made.urls if url["trunk_sid"] == trunk_sid), "OU" + "0" * 32)
        first_trunk = made.livekit_trunks[0].sip_trunk_id if made.livekit_trunks else "ST_gggggggggggg"
        first_rule = made.rules[0].sip_dispatch_rule_id if made.rules else "SDR_gggggggggggg"
        if self.odd():
            trunk_sid = made.trunks[-1]["sid"] if made.trunks else trunk_sid
        return {
            NUMBER: number["sid"],
            TRUNK: trunk_sid or "TK" + "0" * 32,
            ORIGINATION_URL: url,
            INBOUND_TRUNK: first_trunk,
            DISPATCH_RULE: first_rule,
        }

    def _hex(self) -> str:
        self._made += 1
        return f"{self._made:032x}"

    def _id(self, prefix: str) -> str:
        self._made += 1
        alphabet = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
        # Ids of LiveKit are random, so that the order of creation is not that of its lists.
        head = self.draw.one(alphabet)
        return f"{prefix}_{head}" + "".join(alphabet[2 + int(digit)] for digit in f"{self._made:011d}")

    def _odd_text(self) -> str:
        return self.draw.one(ODD_TEXTS)

    def _odd_number(self) -> str:
        return self._odd_text()[:LONGEST_CALLER]

    # Twilio

    def _number(self, text: str, trunk_sids: Sequence[str]) -> Json:
        draw = self.draw
        record = number_record(ACCOUNT_SID, text) | {"sid": "PN" + self._hex()}
        record["trunk_sid"] = trunk_sids[0] if trunk_sids else None
        if self.rare():
            record["trunk_sid"] = draw.one((None, "", "TK" + "f" * 32, *trunk_sids))
        if not record["trunk_sid"]:
            record["voice_application_sid"] = draw.one(("", "AP" + "1" * 32))
        record["voice_url"] = draw.one((None, "", "https://flows.example.com/1", "https://demo.twilio.com/welcome"))
        if self.rare():
            record["voice_receive_mode"] = draw.one(("fax", "voice", "", None))
        if self.rare():
            record["status"] = draw.one(("in-use", "", None, "suspended", "pending"))
        if self.rare():
            record["capabilities"] = draw.one(({"voice": False}, {"voice": True}, {"sms": True}))
        return record

    def _trunk(self) -> Json:
        draw = self.draw
        record = trunk_record(ACCOUNT_SID) | {"sid": "TK" + self._hex(), "friendly_name": self._odd_text()[:64]}
        record["secure"] = self.is_secure != self.odd()
        record["transfer_mode"] = draw.one(("disable-all", "enable-all", "sip-only"))
        record["disaster_recovery_url"] = draw.one((None, "https://example.com/down"))
        return record

    def _url(self, trunk_sid: str, at: int) -> Json:
        draw = self.draw
        is_first = at == 0 and not self.rare()
        fields = {
            "weight": draw.one((1, 10, 10, 10, 65535, 0)) if self.odd() or not is_first else 10,
            "priority": 10 if is_first else draw.one((0, 10, 10, 20, 20, 65535)),
            "enabled": not self.rare() if is_first else draw.chance(0.5),
            "friendly_name": self._odd_text()[:64],
            "sip_url": self._sip_url() if is_first and not self.rare() else self._any_sip_url(),
        }
        record = origination_url_record(ACCOUNT_SID, trunk_sid, fields) | {"sid": "OU" + self._hex()}
        # Twilio's dates are whole seconds; the order of creation is that of the sids here.
        return record | {"date_created": "2026-01-01T00:00:00Z"}

    def _sip_url(self) -> str:
        host, own = self.host, self.draw.one
        return own(
            (
                f"sip:{host};transport=tcp",
                f"sip:{host};transport=tcp",
                f"sip:{host}",
                f"sip:{host.upper()};transport=TLS",
                f"sip:{host}:5060;transport=tcp",
                f"sip:{host}:5061;transport=tls",
                f"sip:{host};transport=udp;edge=dublin",
                f"sip:{host};transport=tcp;region=ie1",
                f"sip:{host};transport=tcp?X-Team=a",
                f"SIP:{host}.;transport=tcp",
                f"sips:{host}",
                f" sip:{host} ",
                f"sip:{host.replace('.', '.eu.', 1) if self.server == CLOUD else host};transport=tcp",
                f"sip:{CALLED}@{host};transport=tcp",
            )
        )

    def _any_sip_url(self) -> str:
        host = self.host
        if self.draw.chance(0.5):
            return self._sip_url()
        return self.draw.one(
            (
                "sip:elsewhere.example.com;transport=tcp",
                "sip:other.sip.livekit.cloud",
                f"sip:agent@{host}",
                f"sip:{OTHERS[0]}@{host}",
                f"sip:agent:secret@{host}",
                f"sip:@{host}",
                f"sip:{host}:5080;transport=tcp",
                f"sip:{host}:99999",
                f"sip:{host}:0",
                f"sip:{host}:",
                f"sip:{host};transport=ws",
                f"sip:{host};transport=",
                f"sip:{host};transport=tcp;transport=udp",
                f"sip:{host};;lr",
                f"sip:x.{host}",
                f"sip:{host}..",
                f"sip:-{host}",
                f"sip:{host}/a",
                f"sip:a@b@{host}",
                f"sip:{host};transport=tcp;edge=",
                f"sip:{host};edge=no where",
                "sip:[2001:db8::1];transport=tcp",
                "sip:[::1",
                "sip:x]",
                "sip:",
                "tel:+15145551234",
                f"https://{host}/",
                host,
                self._odd_text(),
            )
        )

    # LiveKit

    def _forms(self) -> tuple[str, ...]:
        """Return the number as it may be written on a trunk: all the same to LiveKit."""
        return (CALLED, CALLED, CALLED, "15145551234", "+1 (514) 555-1234", "1-514-555-1234 ")

    def _livekit_trunk(self, at: int) -> sip.SIPInboundTrunkInfo:
        draw = self.draw
        trunk = sip.SIPInboundTrunkInfo(sip_trunk_id=self._id("ST"), name=self._odd_text(), metadata=self._odd_text())
        if at == 0 and not self.odd():
            numbers = [draw.one(self._forms())]
        elif self.odd():
            numbers = draw.one(([], [CALLED], ["5145551234"], ["\u0660"], [self._odd_text()]))
        else:
            numbers = [] if at == 1 and draw.chance(0.5) else draw.one(([OTHERS[0]], [*OTHERS]))
        if self.odd():
            numbers = [*numbers, *draw.some((*self._forms(), *OTHERS, "+15145550000", self._odd_text()), 2)]
        trunk.numbers.extend(numbers)
        if draw.chance(max(0.1, self.trouble)):
            trunk.allowed_numbers.extend(draw.some(self._caller_forms(), 3))
        if draw.chance(max(0.3, self.trouble)):
            trunk.allowed_addresses.extend(self._addresses())
        if self.rare():
            trunk.auth_username = draw.one(("", "user", "user"))
            trunk.auth_password = draw.one(("", "password"))
        self._set_media(trunk)
        self._set_durations(trunk)
        if draw.chance(0.2):
            trunk.krisp_enabled = True
            trunk.headers["X-Team"] = "a"
        return trunk

    def _set_durations(self, trunk: sip.SIPInboundTrunkInfo) -> None:
        draw = self.draw
        if self.rare():
            trunk.ringing_timeout.CopyFrom(draw.one(_DURATIONS))
        if self.rare():
            trunk.max_call_duration.CopyFrom(draw.one(_DURATIONS))
        if self.odd():
            trunk.ringing_timeout_status = draw.one((486, 480, 503, 603, 100))

    def _caller_forms(self) -> tuple[str, ...]:
        return (*CALLERS, "15005550006", "+1 (500) 555-0006", "+13105550101", CALLED, self._odd_number())

    def _addresses(self) -> list[str]:
        draw = self.draw
        if not draw.chance(max(0.2, self.trouble)):
            return draw.one((list(TWILIO_SIGNALLING), ["0.0.0.0/0"], [*TWILIO_SIGNALLING, "10.0.0.0/8"]))
        odd = ("oops;", "not-an-address", "54.172.60.1", "54.0.0.0/8", "198.51.100.0/24", "54.172.60.0/33", "::/0")
        odd += ("::ffff:54.172.60.0/126", "54.172.60.0/30 ", "054.172.60.0/30", "54.172.60.3/31", "128.0.0.0/1")
        odd += ("0.0.0.0/1", "54.172.60.0/255.255.255.252", "sip://54.172.60.0", self._odd_text())
        return draw.some((*TWILIO_SIGNALLING, *odd), 9)

    def _set_media(self, info: sip.SIPInboundTrunkInfo | sip.SIPDispatchRuleInfo) -> None:
        draw = self.draw
        if self.is_secure or draw.chance(0.1) or self.odd():
            value = draw.one((1, 1, 2)) if self.is_secure != self.odd() else draw.one((0, 1, 1, 2))
            way = draw.one(("both", "both", "new", "old"))
            if way != "old":
                info.media.encryption = value
            if way != "new":
                info.media_encryption = draw.one((0, 1, 2)) if self.odd() else value
        if self.odd():
            info.media.only_listed_codecs = draw.chance(0.5)
            info.media.codecs.extend(draw.some(_CODECS, 3))

    def _rule(self, trunk_ids: Sequence[str], at: int) -> sip.SIPDispatchRuleInfo:
        draw = self.draw
        rule = sip.SIPDispatchRuleInfo(
            sip_dispatch_rule_id=self._id("SDR"), name=self._odd_text(), metadata=self._odd_text()
        )
        if at == 0 and trunk_ids and not self.odd():
            rule.trunk_ids.append(trunk_ids[0])
        elif draw.chance(0.8 if at < 2 else 0.97):  # two catch-alls contradict each other
            rule.trunk_ids.extend(unique([draw.one(self._rule_trunks(trunk_ids)) for _ in range(draw.one((1, 1, 2)))]))
            if self.odd():
                rule.trunk_ids.append(draw.one(rule.trunk_ids))
        self._set_kind(rule, at)
        if self.odd() or (at and draw.chance(0.4)):
            rule.inbound_numbers.extend(draw.some(self._caller_forms(), 2))
        if self.odd() or (at and draw.chance(0.4)):
            rule.numbers.extend(draw.some((CALLED, *OTHERS, *OTHERS, "15145551234", "agent", self._odd_text()), 2))
        self._set_agents(rule, at)
        if draw.chance(0.1):
            rule.room_preset = PRESET
        if self.odd():
            rule.room_preset = draw.one(("", PRESET, "unknown", self._odd_text()))
        self._set_media(rule)
        rule.hide_phone_number = draw.chance(0.2)
        rule.krisp_enabled = draw.chance(0.2)
        if draw.chance(0.2):
            rule.attributes["team"] = "a"
        return rule

    def _set_agents(self, rule: sip.SIPDispatchRuleInfo, at: int) -> None:
        draw = self.draw
        names = [AGENT] if draw.chance(0.9 if at == 0 else 0.4) else []
        if self.odd() or at:
            others = (["someone"], [], [""], ["", AGENT])
            names = draw.one((names, names, [*names, "recorder"], ["recorder", *names], *others))
        for name in names:
            rule.room_config.agents.add(agent_name=name, metadata=draw.one(("{}", "{}", self._odd_text())))

    def _rule_trunks(self, trunk_ids: Sequence[str]) -> tuple[str, ...]:
        """Return the trunks of further rules: mostly others than the path's, where they would contradict its rule."""
        others = (*trunk_ids[1:], *trunk_ids[1:], "ST_gone22222222")
        return (*others, *trunk_ids) if self.draw.chance(0.3) else others

    def _set_kind(self, rule: sip.SIPDispatchRuleInfo, at: int) -> None:
        draw = self.draw
        room = "call"
        if self.odd():
            room = draw.one(("", "", "a" * 240, "b" * 256, "c" * 257, "é" * 125, self._odd_text()))
        elif at:
            room = draw.one(("call", "a", "b", "zz"))
        pin = draw.one(("", "", "1234", "99")) if self.odd() or (at and draw.chance(0.1)) else ""
        kind = draw.one(("individual", "individual", "direct", "callee")) if at or self.odd() else "individual"
        one = getattr(rule.rule, f"dispatch_rule_{kind}")
        one.pin = pin
        if kind == "direct":
            one.room_name = room
        else:
            one.room_prefix = room
        if kind == "individual":
            one.no_randomness = self.odd()
        if kind == "callee":
            one.randomize = draw.chance(0.5)
        one.SetInParent()

    # Options

    def _set_options(self, made: Configuration) -> None:
        """Draw options, and set the path to them: mostly all of it, sometimes a part, sometimes otherwise."""
        options = made.options = random_options(self.draw)
        trunk = next((each for each in made.livekit_trunks if each.sip_trunk_id == made.ids[INBOUND_TRUNK]), None)
        rule = next((each for each in made.rules if each.sip_dispatch_rule_id == made.ids[DISPATCH_RULE]), None)
        if trunk is not None:
            self._set_trunk(trunk, options)
        if rule is not None:
            self._set_rule(rule, options)
        if options.pin and self.draw.chance(0.3) and len(made.rules) > 1:
            # Another rule asks first, with a PIN of its own or the same.
            other = self.draw.one(made.rules[1:]).rule
            getattr(other, other.WhichOneof("rule")).pin = self.draw.one(("", *PINS))

    def _set_trunk(self, trunk: sip.SIPInboundTrunkInfo, options: AgentOptions) -> None:
        if options.allowed_callers is not None and not self.odd():
            trunk.allowed_numbers[:] = options.allowed_callers
            if self.odd():
                trunk.allowed_numbers.append(self._odd_number())
        if options.ringing_s is not None and not self.odd():
            trunk.ringing_timeout.CopyFrom(Duration(seconds=options.ringing_s))
        if options.max_duration_s is not None and not self.odd():
            trunk.max_call_duration.CopyFrom(Duration(seconds=options.max_duration_s))

    def _set_rule(self, rule: sip.SIPDispatchRuleInfo, options: AgentOptions) -> None:
        self._set_room(rule.rule, options)
        if options.room_preset is not None and not self.odd():
            rule.room_preset = options.room_preset
        if options.hide_phone_number is not None:
            rule.hide_phone_number = options.hide_phone_number
        for agent in options.agents or ():
            rule.room_config.agents.add(agent_name=agent.name, metadata=agent.metadata)

    def _set_room(self, rule: sip.SIPDispatchRule, options: AgentOptions) -> None:
        kind = (options.dispatch_kind or DispatchKind.INDIVIDUAL).value
        if self.odd():
            kind = self.draw.one(("individual", "direct", "callee"))
        one = getattr(rule, f"dispatch_rule_{kind}")
        one.SetInParent()
        one.pin = self.draw.one(("", *PINS)) if self.odd() else options.pin or ""
        if kind == "direct":
            one.room_name = options.room_name or "lobby"
            return
        prefix = one.room_prefix or "call" if options.room_prefix is None or self.odd() else options.room_prefix
        one.room_prefix = prefix
        if kind == "individual" and options.randomize is not None:
            one.no_randomness = not options.randomize
        if kind == "callee":
            one.randomize = bool(options.randomize)


PINS = ("1234", "99", "4711000011112222")


def random_options(draw: Draw) -> AgentOptions:
    """Draw options of a call, valid ones, each of them set or not."""
    kind = draw.one((None, None, *DispatchKind))
    is_direct, e164 = kind is DispatchKind.DIRECT, [text for text in CALLERS if text.startswith("+")]
    return AgentOptions(
        dispatch_kind=kind,
        room_name=draw.one(("lobby", "a" * 256)) if is_direct else None,
        room_prefix=None if is_direct else draw.one((None, "", "front", "a" * 220)),
        randomize=None if is_direct else draw.one((None, True, False)),
        pin=draw.one((None, None, *PINS)),
        agents=draw.one((None, (), (RuleAgent("recorder", "{}"),), (RuleAgent("recorder", "{}"), RuleAgent("coach")))),
        empty_timeout_s=draw.one((None, 60)),
        departure_timeout_s=draw.one((None, 5)),
        max_participants=draw.one((None, 2)),
        room_preset=draw.one((None, None, PRESET)),
        participant_metadata=draw.one((None, "", '{"team": "a"}')),
        participant_attributes=draw.one((None, (), (("team", "a"),))),
        hide_phone_number=draw.one((None, True, False)),
        ringing_s=draw.one((None, 1, 30, 180)),
        max_duration_s=draw.one((None, 10, 1800)),
        krisp=draw.one((None, True, False)),
        allowed_callers=tuple(unique([draw.one(e164), *draw.some(e164, 2)])) if draw.chance(0.3) else None,
        headers_to_attributes=draw.one((None, (("X-Team", "team"),))),
        include_headers=draw.one((None, *HeaderSet)),
        transfer=draw.one((None, *TransferMode)),
    )


_DURATIONS = tuple(
    Duration(seconds=seconds, nanos=nanos)
    for seconds, nanos in (
        (0, 0),
        (0, 1),
        (0, 999_999_999),
        (1, 0),
        (2, 0),
        (5, 0),
        (9, 999_999_999),
        (10, 0),
        (30, 0),
        (180, 0),
        (1800, 0),
        (86400, 0),
        (200000, 0),
        (-1, 0),
        (0, -5),
    )
)
"""Around the least that a call needs, the usual ones, and impossible ones."""

_CODECS = tuple(
    sip.SIPCodec(name=name, rate=rate)
    for name, rate in (
        ("PCMU", 0),
        ("PCMU", 8000),
        ("PCMA", 0),
        ("pcmu", 8000),
        ("pcmu", 0),
        ("PCMU", 16000),
        ("G722", 0),
        ("opus", 0),
        ("opus", 48000),
        ("telephone-event", 8000),
        ("", 8000),
        ("AMR-WB", 0),
    )
)


def configuration(seed: object) -> Configuration:
    """Draw a configuration."""
    return Drawer(seed).configuration()


def whole(server: str = CLOUD) -> Configuration:
    """Return the path of one number as we make it, and nothing else."""
    trunk = trunk_record(ACCOUNT_SID) | {"sid": "TK" + "1" * 32}
    number = number_record(ACCOUNT_SID, CALLED) | {"sid": "PN" + "1" * 32, "trunk_sid": trunk["sid"]}
    made = Configuration(server, [number], [trunk], [], [], [])
    add_url(made, f"sip:{SERVERS[server]};transport=tcp", priority=10)
    made.livekit_trunks.append(sip.SIPInboundTrunkInfo(sip_trunk_id="ST_222222222222", numbers=[CALLED]))
    made.rules.append(rule("SDR_222222222222", "ST_222222222222"))
    made.ids = {
        NUMBER: number["sid"],
        TRUNK: trunk["sid"],
        ORIGINATION_URL: made.urls[0]["sid"],
        INBOUND_TRUNK: "ST_222222222222",
        DISPATCH_RULE: "SDR_222222222222",
    }
    return made


def add_url(made: Configuration, sip_url: str, priority: int, weight: int = 10) -> None:
    """Add an origination URL to the first trunk."""
    fields = {"sip_url": sip_url, "priority": priority, "weight": weight, "enabled": True, "friendly_name": ""}
    record = origination_url_record(ACCOUNT_SID, made.trunks[0]["sid"], fields)
    made.urls.append(record | {"sid": f"OU{len(made.urls) + 1:032x}", "date_created": "2026-01-01T00:00:00Z"})


def rule(
    rule_id: str, *trunk_ids: str, room: str = "call", agents: Sequence[str] = (AGENT,)
) -> sip.SIPDispatchRuleInfo:
    """Return an individual rule that starts these agents."""
    made = sip.SIPDispatchRuleInfo(sip_dispatch_rule_id=rule_id, trunk_ids=trunk_ids)
    made.rule.dispatch_rule_individual.room_prefix = room
    for name in agents:
        made.room_config.agents.add(agent_name=name)
    return made


def smaller(made: Configuration) -> Iterator[Configuration]:
    """Yield this configuration with one object less, or with one field of an object as if it had not been set."""
    for name in ("rules", "livekit_trunks", "urls", "trunks", "numbers"):
        for at in range(len(getattr(made, name))):
            if name == "numbers" and getattr(made, name)[at]["phone_number"] == CALLED:
                continue
            other = deepcopy(made)
            del getattr(other, name)[at]
            yield other
    for each in OPTIONS:
        if getattr(made.options, each.field) is not None:
            other = deepcopy(made)
            other.options = replace(made.options, **{each.field: None})
            yield other
    yield from _with_less_in_messages(made)


def _with_less_in_messages(made: Configuration) -> Iterator[Configuration]:
    for name in ("rules", "livekit_trunks"):
        for at, message in enumerate(getattr(made, name)):
            for each, _ in message.ListFields():
                if each.name not in {"sip_trunk_id", "sip_dispatch_rule_id"}:
                    other = deepcopy(made)
                    getattr(other, name)[at].ClearField(each.name)
                    yield other
                if each.is_repeated and not (each.message_type and each.message_type.GetOptions().map_entry):
                    for place in range(len(getattr(message, each.name))):
                        other = deepcopy(made)
                        del getattr(getattr(other, name)[at], each.name)[place]
                        yield other


def smallest(made: Configuration, fails: Callable[[Configuration], bool]) -> Configuration:
    """Return a configuration that fails as this one does, and of which nothing more can be taken away."""
    while True:
        found = next((other for other in smaller(made) if fails(other)), None)
        if found is None:
            return made
        made = found


def described(made: Configuration) -> str:
    """Return a configuration for people: what differs from a plain path."""
    shown = [f"server {made.server}, ids {made.ids}, options {options_json(made.options)}"]
    keys = ("sid", "phone_number", "trunk_sid", "status", "capabilities", "voice_receive_mode")
    shown += [str({key: number[key] for key in keys}) for number in made.numbers]
    shown += [str({key: trunk[key] for key in ("sid", "secure")}) for trunk in made.trunks]
    keys = ("sid", "trunk_sid", "sip_url", "priority", "weight", "enabled")
    shown += [str({key: url[key] for key in keys}) for url in made.urls]
    shown += [" ".join(str(message).split()) for message in (*made.livekit_trunks, *made.rules)]
    return "\n".join(shown)


def unique(texts: Iterable[str]) -> list[str]:
    """Return the texts without repetitions, in their order."""
    return list(dict.fromkeys(texts))
