"""The same saga without Trunkline: the same calls through the same adapters, in sequence, and nothing stored."""

import json
import uuid

from app.domain.sip_uris import SipUri, parse_sip_uri
from app.path.observed import NumberRouting
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec, Label, OriginationUrlSpec, TrunkSpec
from app.providers.base import Carrier, VoicePlatform
from app.wiring import Wiring

AGENT_NAME = "bench"

SHARED_TAG = "straight/shared"
"""The name of the trunk that numbers share."""


class NotBuiltError(Exception):
    """The path does not read as it was written."""


class Saga:
    """One function per resource; each returns plain text, so that an engine can store it."""

    def __init__(self, carrier: Carrier, platform: VoicePlatform, sip_uri: SipUri) -> None:
        self._carrier, self._platform, self._sip_uri = carrier, platform, sip_uri

    @classmethod
    def of(cls, wiring: Wiring) -> "Saga":
        """Use the adapters of an installation."""
        return cls(wiring.carrier, wiring.platform, wiring.settings.livekit_sip_uri)

    def look_up(self, number: str) -> str:
        """Find the number; return its sid."""
        found = self._carrier.find_number(number)
        if not found.is_voice or found.routing.trunk_sid:
            raise NotBuiltError("the number is not free")
        return found.sid

    def create_trunk(self, tag: str) -> str:
        """Create the Twilio trunk; return its sid."""
        return self._carrier.create_trunk(TrunkSpec(tag)).sid

    def create_url(self, trunk_sid: str, tag: str) -> str:
        """Create the origination URL; return its sid."""
        return self._carrier.create_origination_url(trunk_sid, OriginationUrlSpec(tag, self._sip_uri)).sid

    def create_inbound_trunk(self, number: str, agent_id: str) -> str:
        """Create the LiveKit trunk; return its id."""
        return self._platform.create_inbound_trunk(InboundTrunkSpec(_label(agent_id), number)).id

    def create_rule(self, inbound_id: str, agent_id: str) -> str:
        """Create the dispatch rule; return its id."""
        return self._platform.create_dispatch_rule(DispatchRuleSpec(_label(agent_id).tag, inbound_id, AGENT_NAME)).id

    def attach(self, trunk_sid: str, number_sid: str) -> None:
        """Attach the number."""
        self._carrier.attach_number(trunk_sid, number_sid, NumberRouting(None, None, None))

    def read_back(self, number: str, number_sid: str, trunk_sid: str, inbound_id: str, rule_id: str) -> None:
        """Read what is the number's: its trunk, and LiveKit's trunk and rule."""
        if self._carrier.get_number(number_sid).routing.trunk_sid != trunk_sid:
            raise NotBuiltError("the number is not on the trunk")
        trunks = self._platform.list_inbound_trunks(number)
        rules = self._platform.list_dispatch_rules(inbound_id)
        if [trunk.id for trunk in trunks] != [inbound_id] or [rule.id for rule in rules] != [rule_id]:
            raise NotBuiltError("the path is not whole")

    def check_urls(self, trunk_sid: str) -> None:
        """Read where the trunk leads."""
        urls = self._carrier.list_origination_urls(trunk_sid)
        if not any(parse_sip_uri(url.sip_url) == self._sip_uri for url in urls):
            raise NotBuiltError("the trunk leads elsewhere")

    def make_shared(self) -> str:
        """Make a trunk for numbers to share; return its sid."""
        trunk_sid = self.create_trunk(SHARED_TAG)
        self.create_url(trunk_sid, SHARED_TAG)
        return trunk_sid

    def provision(self, number: str, *, is_checked: bool = False) -> None:
        """Build the path of a number on a trunk of its own; read all of it back where `is_checked`."""
        agent_id = str(uuid.uuid4())
        tag = _label(agent_id).tag
        number_sid = self.look_up(number)
        trunk_sid = self.create_trunk(tag)
        self.create_url(trunk_sid, tag)
        inbound_id = self.create_inbound_trunk(number, agent_id)
        rule_id = self.create_rule(inbound_id, agent_id)
        self.attach(trunk_sid, number_sid)
        if is_checked:
            self.check_urls(trunk_sid)
            self.read_back(number, number_sid, trunk_sid, inbound_id, rule_id)


def _label(agent_id: str) -> Label:
    metadata = {"managedBy": "straight", "instance": "straight", "agentId": agent_id}
    return Label(f"straight/{agent_id}", json.dumps(metadata))
