"""Trunks with the pool's tag that no row refers to: deleted when nobody can use them, and never otherwise."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from app.db.models import Agent, Trunk
from app.domain.events import Origin
from app.domain.findings import FindingCode
from app.domain.operations import TrunkState
from app.path.marks import pool_tag
from tests.support.sandbox_app import FOREIGN_NUMBER, SandboxApp


def row(live: SandboxApp) -> Trunk:
    """The shared trunk that the live agent's number is on."""
    with live.wiring.sessions() as session:
        return session.scalars(select(Trunk)).one()


def made(live: SandboxApp, trunk_id: uuid.UUID, instance: str = "stage") -> str:
    return str(live.console.twilio("POST", "/v1/Trunks", FriendlyName=pool_tag(instance, trunk_id))["sid"])


def found(live: SandboxApp, *, fix: bool = True) -> list[tuple[str, str, str]]:
    audit = live.audit(fix=fix)
    return [(one["code"], one["resource"]["id"], one["fixed"]) for one in audit.findings]


def is_there(live: SandboxApp, sid: str) -> bool:
    return sid in str(live.sandbox.state()["trunks"])


def test_a_trunk_that_was_made_twice_is_an_orphan_and_goes(live: SandboxApp) -> None:
    own = row(live)
    twin = made(live, own.id)
    live.console.twilio(
        "POST",
        f"/v1/Trunks/{twin}/OriginationUrls",
        FriendlyName=pool_tag("stage", own.id),
        SipUrl="sip:sandbox.sip.livekit.cloud;transport=tcp",
        Weight="10",
        Priority="10",
        Enabled="true",
    )
    assert found(live) == [(FindingCode.ORPHAN, twin, "deleted")]
    assert not is_there(live, twin)
    assert is_there(live, own.twilio_trunk_sid or "none")
    assert found(live) == []


def test_one_of_another_database_of_ours_goes_too(live: SandboxApp) -> None:
    lost = made(live, uuid.uuid4())
    assert found(live) == [(FindingCode.ORPHAN, lost, "deleted")]


def test_a_twin_with_a_number_on_it_stays(live: SandboxApp) -> None:
    twin = made(live, row(live).id)
    number = live.wiring.carrier.find_number(FOREIGN_NUMBER).sid
    live.console.twilio("POST", f"/v1/Trunks/{twin}/PhoneNumbers", PhoneNumberSid=number)
    ((code, sid, fixed),) = [one for one in found(live) if one[1] == twin]
    assert (code, sid, fixed) == (FindingCode.ORPHAN, twin, "not deleted: twilio_trunk_in_use")
    assert is_there(live, twin)


def test_another_installations_pool_is_left_alone(live: SandboxApp) -> None:
    theirs = made(live, row(live).id, instance="other")
    assert found(live) == []
    assert is_there(live, theirs)


def test_a_young_one_is_left_alone(live: SandboxApp) -> None:
    twin = made(live, row(live).id)
    audits = replace(live.wiring.audits, orphan_grace=timedelta(hours=1))
    audit = audits.run_audit(audits.request_audit(fix=True, origin=Origin(requested_by="test")))
    assert audit is not None
    assert audit.findings == []
    assert is_there(live, twin)


@pytest.mark.parametrize("state", [TrunkState.CREATING, TrunkState.RETIRING])
def test_what_is_being_made_or_deleted_is_left_alone(live: SandboxApp, state: TrunkState) -> None:
    own = row(live)
    with live.wiring.sessions.begin() as session:
        session.execute(update(Trunk).values(state=state))
    twin = made(live, own.id)
    assert twin not in {sid for _, sid, _ in found(live)}
    assert is_there(live, twin)


def test_a_second_url_on_a_shared_trunk_goes(live: SandboxApp) -> None:
    own = row(live)
    second = live.console.twilio(
        "POST",
        f"/v1/Trunks/{own.twilio_trunk_sid}/OriginationUrls",
        FriendlyName=pool_tag("stage", own.id),
        SipUrl="sip:sandbox.sip.livekit.cloud;transport=tcp",
        Weight="10",
        Priority="10",
        Enabled="true",
    )["sid"]
    assert (FindingCode.ORPHAN, second, "deleted") in found(live)
    assert found(live) == []


def test_a_trunk_that_lost_its_row_keeps_the_numbers_that_are_on_it(live: SandboxApp) -> None:
    own = row(live)
    with live.wiring.sessions.begin() as session:
        session.execute(update(Agent).values(trunk_id=None))
        session.execute(delete(Trunk))
    assert (FindingCode.ORPHAN, own.twilio_trunk_sid, "not deleted: twilio_trunk_in_use") in found(live)
    assert is_there(live, own.twilio_trunk_sid or "none")
