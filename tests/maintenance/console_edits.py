"""Edits of our resources at the providers' own consoles, by somebody who does not know of us."""

from collections.abc import Callable
from contextlib import suppress

from requests import RequestException

from app.db.models import Agent
from app.dev import sandbox as defaults
from app.providers.errors import ProviderError
from app.wiring import Wiring
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import ProviderConsole


class ConsoleEditor:
    """Edits one resource of an agent's path, if it exists."""

    def __init__(self, plain: Wiring, sandbox: Sandbox, their_trunk: str) -> None:
        self._plain, self._sandbox, self._their_trunk = plain, sandbox, their_trunk
        self._console = ProviderConsole(sandbox)

    def edit(self, kind: str, agent: Agent) -> None:
        """Make one of `EDITS`; nothing happens when the row has no id of the resource, or it is gone."""
        # The sandbox's faults apply to everybody's calls.
        with suppress(ProviderError, AssertionError, RequestException):
            EDITS[kind](self, agent)

    def _detach_number(self, agent: Agent) -> None:
        if agent.twilio_trunk_sid and agent.twilio_phone_number_sid:
            self._plain.carrier.detach_number(agent.twilio_trunk_sid, agent.twilio_phone_number_sid)

    def move_to_theirs(self, number_sid: str) -> None:
        """Put a number on the foreign trunk."""
        path = f"/2010-04-01/Accounts/{defaults.ACCOUNT_SID}/IncomingPhoneNumbers/{number_sid}.json"
        self._console.twilio("POST", path, TrunkSid=self._their_trunk)

    def _move_number(self, agent: Agent) -> None:
        if agent.twilio_phone_number_sid:
            self.move_to_theirs(agent.twilio_phone_number_sid)

    def _delete_trunk(self, agent: Agent) -> None:
        if agent.twilio_trunk_sid:
            self._plain.carrier.delete_trunk(agent.twilio_trunk_sid)

    def _secure_trunk(self, agent: Agent) -> None:
        if self._exists(agent.twilio_trunk_sid):
            self._console.twilio("POST", f"/v1/Trunks/{agent.twilio_trunk_sid}", Secure="true")

    def _delete_url(self, agent: Agent) -> None:
        if agent.twilio_trunk_sid and agent.twilio_origination_url_sid:
            self._plain.carrier.delete_origination_url(agent.twilio_trunk_sid, agent.twilio_origination_url_sid)

    def _disable_url(self, agent: Agent) -> None:
        self._change_url(agent, Enabled="false")

    def _divert_url(self, agent: Agent) -> None:
        self._change_url(agent, SipUrl="sip:elsewhere.example.com;transport=tcp")

    def _change_url(self, agent: Agent, **changes: str) -> None:
        if self._exists(agent.twilio_origination_url_sid):
            path = f"/v1/Trunks/{agent.twilio_trunk_sid}/OriginationUrls/{agent.twilio_origination_url_sid}"
            self._console.twilio("POST", path, **changes)

    def _delete_inbound_trunk(self, agent: Agent) -> None:
        if agent.livekit_inbound_trunk_id:
            self._plain.platform.delete_trunk(agent.livekit_inbound_trunk_id)

    def _delete_rule(self, agent: Agent) -> None:
        if agent.livekit_dispatch_rule_id:
            self._plain.platform.delete_dispatch_rule(agent.livekit_dispatch_rule_id)

    def _empty_rule(self, agent: Agent) -> None:
        if self._exists(agent.livekit_dispatch_rule_id):
            self._console.rule(str(agent.livekit_dispatch_rule_id), trunk_ids=[agent.livekit_inbound_trunk_id])

    def _exists(self, external_id: str | None) -> bool:
        return bool(external_id) and str(external_id) in str(self._sandbox.state())


EDITS: dict[str, Callable[[ConsoleEditor, Agent], None]] = {
    "detach_number": ConsoleEditor._detach_number,
    "move_number": ConsoleEditor._move_number,
    "delete_trunk": ConsoleEditor._delete_trunk,
    "secure_trunk": ConsoleEditor._secure_trunk,
    "delete_url": ConsoleEditor._delete_url,
    "disable_url": ConsoleEditor._disable_url,
    "divert_url": ConsoleEditor._divert_url,
    "delete_inbound_trunk": ConsoleEditor._delete_inbound_trunk,
    "delete_rule": ConsoleEditor._delete_rule,
    "empty_rule": ConsoleEditor._empty_rule,
}
"""Kind of edit -> its method."""
