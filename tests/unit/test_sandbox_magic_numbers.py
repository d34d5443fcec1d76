"""Where the sandbox's magic numbers are seen: when one asks for them, and in no list before."""

from typing import Any

import pytest
from test_sandbox_process import RunningSandbox, emptied_sandbox

from app.dev import sandbox as defaults
from app.dev.sandbox.magic_numbers import BY_NUMBER, MAGIC_NUMBERS

OWN, MAGIC = "+15145551234", "+15005550400"
NUMBERS = f"/2010-04-01/Accounts/{defaults.ACCOUNT_SID}/IncomingPhoneNumbers"


@pytest.fixture
def sandbox() -> RunningSandbox:
    sandbox = emptied_sandbox()
    sandbox.control("POST", "numbers", {"phoneNumber": OWN}, status=201)
    return sandbox


def listed(sandbox: RunningSandbox, **query: str) -> list[str]:
    found = sandbox.raw_twilio("GET", f"{NUMBERS}.json", "api.twilio.com", params=query).json()
    return [each["phone_number"] for each in found["incoming_phone_numbers"]]


def faults(sandbox: RunningSandbox) -> list[dict[str, Any]]:
    return list(sandbox.control("GET", "faults")["faults"])


def test_a_list_has_none_of_them_even_after_one_was_asked_for(sandbox: RunningSandbox) -> None:
    assert listed(sandbox) == [OWN]
    assert listed(sandbox, PhoneNumber=MAGIC) == [MAGIC]
    assert listed(sandbox) == listed(sandbox, PageSize="1") == [OWN]
    assert listed(sandbox, PhoneNumber="+15005550999") == []


def test_one_that_is_on_a_trunk_is_listed_as_any_number(sandbox: RunningSandbox) -> None:
    query = {"PhoneNumber": "+15005550100"}
    found = sandbox.raw_twilio("GET", f"{NUMBERS}.json", "api.twilio.com", params=query).json()
    sid = found["incoming_phone_numbers"][0]["sid"]
    trunk = sandbox.raw_twilio("POST", "/v1/Trunks", "trunking.twilio.com").json()["sid"]
    sandbox.raw_twilio("POST", f"{NUMBERS}/{sid}.json", "api.twilio.com", data={"TrunkSid": trunk})
    assert listed(sandbox) == [OWN, "+15005550100"]


def test_a_switch_lists_them_all(sandbox: RunningSandbox) -> None:
    sandbox.control("PUT", "switches", {"listMagicNumbers": True})
    assert listed(sandbox) == [OWN, *BY_NUMBER]
    sandbox.control("PUT", "switches", {"listMagicNumbers": False})
    assert listed(sandbox) == [OWN]


def test_one_that_somebody_puts_into_the_account_is_listed(sandbox: RunningSandbox) -> None:
    sandbox.control("POST", "numbers", {"phoneNumber": MAGIC}, status=201)
    assert listed(sandbox) == [OWN, MAGIC]


def test_its_faults_come_with_it_and_go_with_it_alone(sandbox: RunningSandbox) -> None:
    sandbox.fault("twilio.create_trunk", "500")
    listed(sandbox, PhoneNumber=MAGIC)
    listed(sandbox, PhoneNumber=MAGIC)
    assert [each.get("number") for each in faults(sandbox)] == [None, MAGIC]
    sandbox.control("DELETE", f"faults?number=%2B{MAGIC[1:]}")
    assert [each.get("number") for each in faults(sandbox)] == [None]


def test_the_control_api_shows_the_table(sandbox: RunningSandbox) -> None:
    shown = sandbox.control("GET", "magic-numbers")["magicNumbers"]
    assert [each["phoneNumber"] for each in shown] == [magic.phone_number for magic in MAGIC_NUMBERS]
    assert shown[0] == {
        "phoneNumber": "+15005550100",
        "happens": "nothing goes wrong",
        "ends": "PROVISIONED",
        "code": None,
    }


def test_no_number_stands_twice_or_is_one_of_twilios_own() -> None:
    assert len(BY_NUMBER) == len(MAGIC_NUMBERS)
    assert all(number.startswith("+15005550") and number > "+15005550009" for number in BY_NUMBER)
