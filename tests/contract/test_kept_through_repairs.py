"""What an operator sets by hand is there after a repair, a move and an audit with repairs, by the whole application.

The path is provisioned, everything is set at once, and the path is damaged before each of the three, so that each has
something to write. One test for each setting: at LiveKit against the sandbox or `--livekit`, at Twilio against the
sandbox or `--twilio-emulator`; the other provider is the sandbox then.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from livekit import api
from livekit.protocol import sip
from test_livekit_kept_settings import UNKNOWN_FIELD, with_setting

from app.dev.localstack.servers import PostgresServer
from app.dev.sandbox import ACCOUNT_SID, AUTH_TOKEN, LIVEKIT_API_KEY, LIVEKIT_API_SECRET, SIP_HOST
from app.domain.events import Origin
from app.domain.operations import OperationStatus, PhoneStatus
from app.settings import SettingsError, load_settings
from app.wiring import build
from tests.support.livekit_server import LiveKitServer
from tests.support.saga import RecordingPublisher
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import SandboxApp, without_pauses
from tests.support.twilio_server import TRUNKING, V1_TRUNKS, TwilioServer

AT_ONCE = timedelta()
"""How long an operation is waited for that has ended."""

CONFIG = api.RoomConfiguration

LIVEKIT_TRUNK = {
    "krisp_enabled": api.SIPInboundTrunkInfo(krisp_enabled=True),
    "headers": api.SIPInboundTrunkInfo(headers={"X-Tenant": "7"}),
    "headers_to_attributes": api.SIPInboundTrunkInfo(headers_to_attributes={"X-Caller-Name": "name"}),
    "attributes_to_headers": api.SIPInboundTrunkInfo(attributes_to_headers={"ticket": "X-Ticket"}),
    "include_headers": api.SIPInboundTrunkInfo(include_headers=sip.SIP_X_HEADERS),
    "max_call_duration": api.SIPInboundTrunkInfo(max_call_duration=Duration(seconds=1800)),
    "ringing_timeout": api.SIPInboundTrunkInfo(ringing_timeout=Duration(seconds=60)),
    "media_timeout": api.SIPInboundTrunkInfo(media=sip.SIPMediaConfig(media_timeout=Duration(seconds=45))),
}

DISPATCH_RULE = {
    "attributes": api.SIPDispatchRuleInfo(attributes={"tenant": "7"}),
    "metadata": api.SIPDispatchRuleInfo(metadata='{"team": "night"}'),
    "hide_phone_number": api.SIPDispatchRuleInfo(hide_phone_number=True),
    "room_preset": api.SIPDispatchRuleInfo(room_preset="recorded"),
    "krisp_enabled": api.SIPDispatchRuleInfo(krisp_enabled=True),
    "second agent": api.SIPDispatchRuleInfo(
        room_config=CONFIG(agents=[api.RoomAgentDispatch(agent_name="recorder", metadata='{"bucket": "b"}')])
    ),
    "empty_timeout": api.SIPDispatchRuleInfo(room_config=CONFIG(empty_timeout=90)),
    "departure_timeout": api.SIPDispatchRuleInfo(room_config=CONFIG(departure_timeout=15)),
    "max_participants": api.SIPDispatchRuleInfo(room_config=CONFIG(max_participants=3)),
    "media_timeout": api.SIPDispatchRuleInfo(media=sip.SIPMediaConfig(media_timeout=Duration(seconds=45))),
}

TWILIO_TRUNK = {
    "TransferMode": "sip-only",
    "TransferCallerId": "from-transferor",
    "CnamLookupEnabled": "true",
    "DisasterRecoveryUrl": "https://example.com/recovery",
}

NUMBER = {"FriendlyName": "Front desk", "StatusCallback": "https://example.com/status"}

FIELDS = {
    "TransferMode": "transfer_mode",
    "TransferCallerId": "transfer_caller_id",
    "CnamLookupEnabled": "cnam_lookup_enabled",
    "DisasterRecoveryUrl": "disaster_recovery_url",
    "FriendlyName": "friendly_name",
    "StatusCallback": "status_callback",
}


class Seen(NamedTuple):
    """Our objects as the providers have them."""

    trunk: api.SIPInboundTrunkInfo
    rule: api.SIPDispatchRuleInfo
    twilio_trunk: dict[str, Any]
    number: dict[str, Any]


class Path:
    """A provisioned path, changed at the providers' consoles."""

    def __init__(self, app: SandboxApp, livekit: LiveKitServer, twilio: TwilioServer) -> None:
        self.app, self._livekit, self._twilio = app, livekit, twilio
        self.holder = app.agent_id

    def seen(self) -> Seen:
        """Read our objects."""
        agent = self.app.wiring.agents.get(self.holder)
        return Seen(
            self._livekit.trunk(agent.livekit_inbound_trunk_id),
            self._livekit.rule(agent.livekit_dispatch_rule_id),
            self._twilio.trunk_record(agent.twilio_trunk_sid),
            self._twilio.record(agent.twilio_phone_number_sid),
        )

    def set_everything(self) -> None:
        """Set all settings by hand."""
        trunk, rule, twilio_trunk, number = self.seen()
        for setting in (*LIVEKIT_TRUNK.values(), UNKNOWN_FIELD):
            trunk = with_setting(trunk, setting)
        for setting in (*DISPATCH_RULE.values(), UNKNOWN_FIELD):
            rule = with_setting(rule, setting)
        self._write(trunk, rule)
        assert self._twilio.raw("POST", f"{V1_TRUNKS}/{twilio_trunk['sid']}", TRUNKING, data=TWILIO_TRUNK).ok
        assert self._twilio.raw("POST", f"{self._twilio.numbers_path}/{number['sid']}.json", data=NUMBER).ok

    def damage(self) -> None:
        """Give each of our objects something that stops calls, or another name."""
        trunk, rule, twilio_trunk, _ = self.seen()
        trunk.allowed_addresses[:] = ["192.0.2.0/24"]
        rule.rule.dispatch_rule_individual.pin = "1234"
        self._write(trunk, rule)
        path = f"{V1_TRUNKS}/{twilio_trunk['sid']}"
        assert self._twilio.raw("POST", path, TRUNKING, data={"FriendlyName": "by hand"}).ok
        [url] = self._twilio.raw("GET", f"{path}/OriginationUrls", TRUNKING).json()["origination_urls"]
        assert self._twilio.raw("POST", f"{path}/OriginationUrls/{url['sid']}", TRUNKING, data={"Enabled": "false"}).ok

    def check_whole(self) -> None:
        """Check that what was damaged is mended."""
        trunk, rule, twilio_trunk, _ = self.seen()
        assert list(trunk.allowed_addresses) != ["192.0.2.0/24"]
        assert rule.rule.dispatch_rule_individual.pin == ""
        assert twilio_trunk["friendly_name"] != "by hand"

    def repair(self) -> None:
        """Repair it as a person asks for it."""
        operation = self.app.wiring.maintenance.repair(self.holder, takeover=False, origin=Origin()).operation
        self.app.drive()
        assert operation is not None
        assert self.app.wiring.provisioning.wait(operation.id, AT_ONCE).status is OperationStatus.SUCCEEDED

    def move(self) -> None:
        """Move the number to another agent."""
        other = self.app.wiring.agents.create("night desk", "night-desk", {}).id
        self.app.wiring.maintenance.move(self.holder, other, origin=Origin())
        self.app.drive()
        self.holder = other
        assert self.app.wiring.agents.get(other).phone_provisioning_status is PhoneStatus.PROVISIONED

    def _write(self, trunk: Message, rule: Message) -> None:
        self._livekit.sip(lambda sip: sip.update_inbound_trunk(trunk.sip_trunk_id, trunk))
        self._livekit.sip(lambda sip: sip.update_dispatch_rule(rule.sip_dispatch_rule_id, rule))


@contextmanager
def provisioned(livekit: LiveKitServer, twilio: TwilioServer, database_url: str) -> Iterator[Path]:
    """Yield a path that the whole application has provisioned; it is taken down afterwards."""
    number = twilio.number()["phone_number"]
    livekit.claim(number)
    settings = {
        "TWILIO_ACCOUNT_SID": twilio.account_sid,
        "TWILIO_AUTH_TOKEN": twilio.auth_token,
        "TWILIO_BASE_URL": twilio.url,
        "LIVEKIT_URL": livekit.url,
        "LIVEKIT_API_KEY": livekit.key,
        "LIVEKIT_API_SECRET": livekit.secret,
        "LIVEKIT_SIP_URI": f"sip:{SIP_HOST};transport=tcp",
        # Audits and sweeps know their own objects by it, and must take nobody else's for ours.
        "INSTANCE_NAME": f"test-{uuid.uuid4().hex[:10]}",
        "DATABASE_URL": database_url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "ORPHAN_GRACE_S": "0",
        "PROVIDER_TIMEOUT_S": "10",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        publisher = RecordingPublisher()
        try:
            wiring = without_pauses(build(load_settings(), publisher=publisher))
        except SettingsError as error:
            pytest.skip(f"Trunkline itself takes no such server: {error}")
    app = SandboxApp(wiring, publisher, Sandbox(twilio.url))
    path = Path(app, livekit, twilio)
    try:
        wiring.provisioning.provision(app.agent_id, number, takeover=False, origin=Origin())
        app.drive()
        assert app.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
        yield path
    finally:
        wiring.provisioning.deprovision(path.holder, origin=Origin())
        app.drive()
        wiring.close()


def after_each(path: Path) -> dict[str, Seen]:
    """Set everything, then damage and mend the path in each of the three ways; return what is there after each."""
    path.set_everything()
    path.damage()
    path.repair()
    path.check_whole()
    found = {"a repair": path.seen()}
    path.move()
    found["a move"] = path.seen()
    path.damage()
    path.app.audit(fix=True)
    path.check_whole()
    found["an audit with repairs"] = path.seen()
    return found


def through_all(livekit: LiveKitServer, twilio: TwilioServer, database_url: str) -> dict[str, Seen]:
    """Provision a path, return what is there after each of the three, and take it down."""
    try:
        with provisioned(livekit, twilio, database_url) as path:
            return after_each(path)
    finally:
        twilio.clean_up()
        assert livekit.delete_lost() == []


def own_database(server: PostgresServer, template: str) -> str:
    """Return the URL of a migrated database of this module's own."""
    name = f"kept_{uuid.uuid4().hex}"
    server.create_database(name, template)
    return server.url(name)


@pytest.fixture(scope="module")
def at_livekit(
    request: pytest.FixtureRequest,
    livekit_project: LiveKitServer,
    postgres_server: PostgresServer,
    template_database: str,
) -> dict[str, Seen]:
    """What is there after each of the three, with the LiveKit server that the options name."""
    livekit_project.requires("updates")
    sandbox: Sandbox = request.getfixturevalue("shared_with_others")
    twilio = TwilioServer(sandbox.base_url, ACCOUNT_SID, AUTH_TOKEN, sandbox)
    return through_all(livekit_project, twilio, own_database(postgres_server, template_database))


@pytest.fixture(scope="module")
def at_twilio(
    request: pytest.FixtureRequest,
    twilio_account: TwilioServer,
    postgres_server: PostgresServer,
    template_database: str,
) -> dict[str, Seen]:
    """What is there after each of the three, with the Twilio account that the options name."""
    sandbox: Sandbox = request.getfixturevalue("shared_with_others")
    livekit = LiveKitServer(sandbox.base_url, LIVEKIT_API_KEY, LIVEKIT_API_SECRET)
    return through_all(livekit, twilio_account, own_database(postgres_server, template_database))


def check_kept(now: Message, setting: Message) -> None:
    """Check that the object has the setting: messages field by field, lists and maps with its entries."""
    for field, value in setting.ListFields():
        there = getattr(now, field.name)
        if field.is_repeated and field.message_type and field.message_type.GetOptions().map_entry:
            assert dict(value).items() <= dict(there).items()
        elif field.is_repeated:
            assert all(one in list(there) for one in value)
        elif field.message_type and field.message_type.file.package != "google.protobuf":
            check_kept(there, value)
        else:
            assert there == value


@pytest.mark.parametrize("setting", LIVEKIT_TRUNK)
def test_a_setting_of_the_livekit_trunk_survives(setting: str, at_livekit: dict[str, Seen]) -> None:
    for seen in at_livekit.values():
        check_kept(seen.trunk, LIVEKIT_TRUNK[setting])


@pytest.mark.parametrize("setting", DISPATCH_RULE)
def test_a_setting_of_the_dispatch_rule_survives(setting: str, at_livekit: dict[str, Seen]) -> None:
    for seen in at_livekit.values():
        check_kept(seen.rule, DISPATCH_RULE[setting])


def test_a_field_that_no_version_has_survives(at_livekit: dict[str, Seen]) -> None:
    for seen in at_livekit.values():
        assert UNKNOWN_FIELD in seen.trunk.SerializeToString()
        assert UNKNOWN_FIELD in seen.rule.SerializeToString()


def test_the_agent_of_the_rule_is_ours_alone_beside_the_second(at_livekit: dict[str, Seen]) -> None:
    names = {after: [agent.agent_name for agent in seen.rule.room_config.agents] for after, seen in at_livekit.items()}
    assert names == {
        "a repair": ["front-desk", "recorder"],
        "a move": ["night-desk", "recorder"],
        "an audit with repairs": ["night-desk", "recorder"],
    }


@pytest.mark.parametrize("setting", TWILIO_TRUNK)
def test_a_setting_of_the_twilio_trunk_survives(setting: str, at_twilio: dict[str, Seen]) -> None:
    for seen in at_twilio.values():
        assert str(seen.twilio_trunk[FIELDS[setting]]).lower() == TWILIO_TRUNK[setting]


@pytest.mark.parametrize("setting", NUMBER)
def test_a_setting_of_the_number_survives(setting: str, at_twilio: dict[str, Seen]) -> None:
    for seen in at_twilio.values():
        assert seen.number[FIELDS[setting]] == NUMBER[setting]
