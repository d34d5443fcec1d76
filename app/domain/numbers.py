"""Phone numbers in E.164 form: strict validation, and masking for logs."""

import re
from enum import StrEnum

import phonenumbers

E164 = re.compile(r"\+[1-9][0-9]{1,14}", re.ASCII)
"""The form of a number; `parse_e164` also checks its country code and length."""

_IN_TEXT = re.compile(r"(?:(?<![0-9A-Za-z+])\+|%2B)[1-9][0-9]{6,14}(?![0-9])", re.IGNORECASE)

_WRITTEN = re.compile(
    r"(?:\+|%2B)[ (]{0,2}(?:\d[ ()-]{0,2}){6,14}\d(?!\d)"
    r"|(?<![\w-])(?<!\d\.)"
    r"(?:(?!\d{4}-\d\d-\d\d)\(?(?:\d[ ()-]{0,2}){9,14}\d|(?:\d{1,3}\.)?\d{3}\.\d{3}\.\d{4})"
    r"(?!\w|\.\d)",
    re.IGNORECASE,
)
"""A number as people write it: after a plus seven digits or more; else ten, not in an id, a date or an IP address."""

NANP_DIGITS = 10
"""Digits after +1 in the North American plan (area code, exchange, line): the only length there is."""


class InvalidNumberError(ValueError):
    """The text is not an acceptable phone number; the message says why, for the client."""


def parse_e164(text: str) -> str:
    """Return `text` unchanged when it is E.164 (`"+15145551234"`) and of a possible length for its country.

    Nothing is normalised: both providers compare numbers character by character.
    """
    if not E164.fullmatch(text):
        raise InvalidNumberError("must be E.164: '+', country code and subscriber digits, at most 15, nothing else")
    if text.startswith("+1") and len(text) != len("+1") + NANP_DIGITS:
        raise InvalidNumberError("a +1 number has exactly 10 digits after the country code")
    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException as error:
        raise InvalidNumberError("the country code is not assigned") from error
    reason = phonenumbers.is_possible_number_with_reason(number)
    if reason != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise InvalidNumberError("has a length that its country does not use")
    if phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) != text:
        raise InvalidNumberError("has digits between country code and subscriber number that E.164 leaves out")
    return text


def mask_number(number: str | None) -> str:
    """Mask all but the last four digits for logs, as in `"*******1234"`."""
    return "" if not number else "*" * max(len(number) - 4, 0) + number[-4:]


def mask_numbers(text: str) -> str:
    """Mask every phone number in a text that people or providers wrote."""
    return _IN_TEXT.sub(lambda match: mask_number(match[0]), text)


def mask_written_numbers(text: str) -> str:
    """Mask phone numbers in every form that people write, for texts that are shown once: other digits may go too."""
    return _WRITTEN.sub(lambda match: mask_number(match[0]), text)


class NumberUse(StrEnum):
    """What a number of the account is used for at present."""

    FREE = "free"
    AGENT = "agent"
    """It belongs to an agent of this installation, or is being provisioned for one."""
    TRUNK = "trunk"
    """It is on a trunk that is not ours: `takeover` moves it."""
    APPLICATION = "application"
    """It is routed to a voice application: `takeover` moves it."""
    VOICE_URL = "voice_url"
    """Its calls are handled at a voice URL, until it is connected: deprovisioning restores that."""
    NO_VOICE = "no_voice"
    """It has no voice capability, or is set to receive fax."""
