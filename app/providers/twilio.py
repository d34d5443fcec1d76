"""The `Carrier` of one Twilio account, over Twilio's SDK."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from twilio.http import HttpClient

from app.domain.errors import ErrorCode
from app.observability.tracing import NO_TELEMETRY, Telemetry
from app.path.observed import CarrierNumber, CarrierTrunk, NumberRouting, OriginationUrl, Unreadable
from app.path.spec import OriginationUrlSpec, TrunkSpec
from app.providers.base import read_records
from app.providers.calls import CallInstrumentation
from app.providers.errors import CallFailedError, Outcome, RejectedError, TransientError
from app.providers.rate_limiter import RateLimiter
from app.providers.twilio_connection import TwilioConnection, gone_is_fine, records_of
from app.providers.twilio_records import (
    PAGE_SIZE,
    Json,
    by_age,
    checked_e164,
    checked_sid,
    is_sid,
    may_be_number,
    may_be_on,
    read_number,
    read_origination_url,
    read_trunk,
    unreadable_record,
)


class TwilioCarrier:
    """Numbers, trunks and origination URLs of the account that owns the credentials; safe to share between threads.

    `username` is the account sid or an API key sid (`SK` + 32 hex). `base_url` sends everything there instead of to
    Twilio; a dry run gives an `http` that only records. The connections belong to the process: after a fork the child
    opens its own. `secrets` are masked in what Twilio says, besides the password.
    """

    def __init__(
        self,
        account_sid: str,
        username: str,
        password: str,
        *,
        timeout_s: float,
        base_url: str | None = None,
        secrets: Collection[str] = (),
        rate_limiter: RateLimiter | None = None,
        telemetry: Telemetry = NO_TELEMETRY,
        http: HttpClient | None = None,
    ) -> None:
        instrumentation = CallInstrumentation("twilio", rate_limiter, telemetry)
        self._twilio = TwilioConnection(account_sid, username, password, timeout_s, base_url, instrumentation, http)
        self._twilio.secrets |= set(secrets)

    def find_number(self, e164: str) -> CarrierNumber:
        """Return the account's number with exactly this text; `RejectedError(number_not_in_account)` when none has."""
        checked_e164(e164)
        with self._twilio.call("find_number"):
            odd: list[Unreadable] = []
            rows = records_of(self._twilio.numbers().page(phone_number=e164, page_size=PAGE_SIZE))
            # The filter is a pattern, so it may return longer numbers as well.
            exact = _numbers((row for row in rows if may_be_number(row, e164)), odd)
            if odd and not exact:
                raise CallFailedError(Outcome.UNREADABLE)
        if len(exact) != 1:
            raise RejectedError(ErrorCode.NUMBER_NOT_IN_ACCOUNT, "The Twilio account does not own this number.")
        return self._ours(exact[0])

    def get_number(self, number_sid: str) -> CarrierNumber:
        """Return the number as it is now; `RejectedError(number_not_in_account)` when it left the account."""
        checked_sid(number_sid, "PN")
        with self._twilio.call("get_number") as reply:
            self._twilio.numbers()(number_sid).fetch()
            number = read_number(reply.record())
        return self._ours(number)

    def list_numbers(self, unreadable: list[Unreadable] | None = None) -> list[CarrierNumber]:
        """Return every number of the account."""
        with self._twilio.call("list_numbers"):
            return _numbers(records_of(self._twilio.numbers().page(page_size=PAGE_SIZE)), unreadable)

    def create_trunk(self, spec: TrunkSpec) -> CarrierTrunk:
        """Create a trunk named by the tag, without a domain: a deleted domain stays reserved for 30 days.

        What the spec leaves open is not sent, so that it is as Twilio makes it.
        """
        options: dict[str, object] = {"secure": True} if spec.is_secure else {}
        if spec.transfer_mode is not None:
            options["transfer_mode"] = spec.transfer_mode
        with self._twilio.call("create_trunk", is_write=True) as reply:
            self._twilio.trunks().create(friendly_name=spec.tag, **options)
            return read_trunk(reply.record())

    def get_trunk(self, trunk_sid: str) -> CarrierTrunk | None:
        """Return the trunk, or None when it does not exist."""
        checked_sid(trunk_sid, "TK")
        with self._twilio.call("get_trunk") as reply, gone_is_fine():
            self._twilio.trunks()(trunk_sid).fetch()
            return read_trunk(reply.record())
        return None

    def list_trunks(self, unreadable: list[Unreadable] | None = None) -> list[CarrierTrunk]:
        """Return every trunk of the account, oldest first."""
        with self._twilio.call("list_trunks"):
            rows = records_of(self._twilio.trunks().page(page_size=PAGE_SIZE))
            return sorted(read_records(rows, read_trunk, _odd_trunk, unreadable), key=by_age)

    def list_trunk_numbers(self, trunk_sid: str) -> list[str]:
        """Return the sids of the numbers on the trunk; empty when the trunk is gone.

        Each must be read: an empty trunk is deleted, and whatever number is on it is detached.
        """
        checked_sid(trunk_sid, "TK")
        found = self._own_list(trunk_sid)
        if found is not None or self.get_trunk(trunk_sid) is None:
            return found or []
        # The trunk is there and its list is not: the account's numbers say which trunk they are on.
        with self._twilio.call("list_trunk_numbers"):
            rows = records_of(self._twilio.numbers().page(page_size=PAGE_SIZE))
            return [read_number(row).sid for row in rows if may_be_on(row, trunk_sid)]

    def update_trunk(self, now: CarrierTrunk, wanted: CarrierTrunk) -> bool:
        """Write the fields in which `wanted` differs from `now`; False when the trunk is gone."""
        changes = _changes(
            friendly_name=(now.tag, wanted.tag),
            secure=(now.is_secure, wanted.is_secure),
            transfer_mode=(now.transfer_mode, wanted.transfer_mode),
        )
        checked_sid(now.sid, "TK")
        if not changes:
            return True
        with self._twilio.call("update_trunk", is_write=True) as reply, gone_is_fine():
            self._twilio.trunks()(now.sid).update(**changes)
            read_trunk(reply.record())
            return True
        return False

    def delete_trunk(self, trunk_sid: str) -> bool:
        """Delete the trunk, whatever is on it; False when Twilio says that there is none."""
        checked_sid(trunk_sid, "TK")
        with self._twilio.call("delete_trunk"), gone_is_fine():
            self._twilio.trunks()(trunk_sid).delete()
            return True
        return False

    def create_origination_url(self, trunk_sid: str, spec: OriginationUrlSpec) -> OriginationUrl:
        """Create an enabled origination URL on the trunk.

        A 404 is `RejectedError(twilio_trunk_gone)`, or `twilio_unsupported` where the trunk can be read.
        """
        checked_sid(trunk_sid, "TK")
        with self._on_trunk(trunk_sid), self._twilio.call("create_origination_url", is_write=True) as reply:
            self._twilio.trunks()(trunk_sid).origination_urls.create(
                weight=spec.weight,
                priority=spec.priority,
                enabled=True,
                friendly_name=spec.tag,
                sip_url=str(spec.uri),
            )
            return read_origination_url(reply.record())

    def list_origination_urls(self, trunk_sid: str, unreadable: list[Unreadable] | None = None) -> list[OriginationUrl]:
        """Return the trunk's origination URLs, oldest first; empty when the trunk is gone."""
        checked_sid(trunk_sid, "TK")
        with self._twilio.call("list_origination_urls"), gone_is_fine():
            rows = records_of(self._twilio.trunks()(trunk_sid).origination_urls.page(page_size=PAGE_SIZE))
            return sorted(read_records(rows, read_origination_url, _odd_url, unreadable), key=by_age)
        return []

    def update_origination_url(self, now: OriginationUrl, wanted: OriginationUrl) -> bool:
        """Write the fields in which `wanted` differs from `now`; False when the URL is gone."""
        changes = _changes(
            friendly_name=(now.tag, wanted.tag),
            sip_url=(now.sip_url, wanted.sip_url),
            enabled=(now.is_enabled, wanted.is_enabled),
            priority=(now.priority, wanted.priority),
            weight=(now.weight, wanted.weight),
        )
        checked_sid(now.trunk_sid, "TK")
        checked_sid(now.sid, "OU")
        if not changes:
            return True
        with self._twilio.call("update_origination_url", is_write=True) as reply, gone_is_fine():
            self._twilio.trunks()(now.trunk_sid).origination_urls(now.sid).update(**changes)
            read_origination_url(reply.record())
            return True
        return False

    def delete_origination_url(self, trunk_sid: str, url_sid: str) -> bool:
        """Delete the origination URL; False when Twilio says that there is none."""
        checked_sid(trunk_sid, "TK")
        checked_sid(url_sid, "OU")
        with self._twilio.call("delete_origination_url"), gone_is_fine():
            self._twilio.trunks()(trunk_sid).origination_urls(url_sid).delete()
            return True
        return False

    def attach_number(self, trunk_sid: str, number_sid: str, now: NumberRouting) -> None:
        """Put the number on the trunk; Twilio moves it silently from another one, so look first: `now` is that look.

        Two ways: the trunk's sub-resource and, where that is not there (regions IE1 and AU1), the number's `TrunkSid`:
        https://www.twilio.com/docs/global-infrastructure/regional-product-and-feature-availability.
        `RejectedError`: `twilio_trunk_gone`, or `twilio_unsupported` where neither way works on a trunk that is there.
        """
        checked_sid(trunk_sid, "TK")
        checked_sid(number_sid, "PN")
        try:
            with self._on_trunk(trunk_sid), self._twilio.call("attach_number", is_write=True) as reply:
                self._twilio.trunks()(trunk_sid).phone_numbers.create(phone_number_sid=number_sid)
                checked_sid(reply.record().get("sid"), "PN")
        except RejectedError as error:
            if error.code is ErrorCode.TWILIO_UNSUPPORTED:
                self._attach_by_number(trunk_sid, number_sid, now)
            # Twilio does not document its response for a number that is on this trunk already: the number decides.
            elif error.code is not ErrorCode.TWILIO_REJECTED or not self._is_on(trunk_sid, number_sid):
                raise

    def move_number(self, number_sid: str, trunk_sid: str) -> None:
        """Move the number from the trunk that it is on to another, in one write: it rings throughout. Look first.

        By the number's `TrunkSid`: https://www.twilio.com/docs/phone-numbers/api/incomingphonenumber-resource. It is
        there in every region. `RejectedError(twilio_trunk_gone)` when there is no such trunk.
        """
        checked_sid(number_sid, "PN")
        checked_sid(trunk_sid, "TK")
        try:
            self._update_number(number_sid, trunk_sid=trunk_sid)
        except RejectedError as error:
            if error.code is ErrorCode.TWILIO_REJECTED and self.get_trunk(trunk_sid) is None:
                raise RejectedError(ErrorCode.TWILIO_TRUNK_GONE, error.detail) from None
            raise

    def detach_number(self, trunk_sid: str, number_sid: str) -> None:
        """Take the number off this trunk and no other; a number that is not on it is success.

        Where the trunk has no sub-resource, by the number's `TrunkSid`: directly after a look that shows this trunk.
        """
        checked_sid(trunk_sid, "TK")
        checked_sid(number_sid, "PN")
        with self._twilio.call("detach_number"), gone_is_fine():
            self._twilio.trunks()(trunk_sid).phone_numbers(number_sid).delete()
            return
        # A 404 is true where the trunk's list is there: one stale read of the number must not free another trunk's.
        if self._own_list(trunk_sid) is None and self.get_trunk(trunk_sid) and self._is_on(trunk_sid, number_sid):
            self._update_number(number_sid, trunk_sid="")

    def restore_routing(self, number_sid: str, routing: NumberRouting, now: NumberRouting) -> None:
        """Give a number that is free its former trunk back, or else its voice application and voice URL.

        `now` is what the caller has just read of it. Writes only what is missing there: attaching deletes the
        application and leaves the URL, so another URL is somebody's choice, and so is any trunk or application. A
        former trunk that is gone meanwhile counts as none: the number stays detached.
        """
        checked_sid(number_sid, "PN")
        if now.trunk_sid or now.voice_application_sid:
            return
        if routing.trunk_sid and self._move_back(number_sid, routing.trunk_sid):
            return
        changes: dict[str, str] = {}
        if routing.voice_application_sid:
            changes["voice_application_sid"] = routing.voice_application_sid
        if routing.voice_url and not now.voice_url:
            changes["voice_url"] = routing.voice_url
        if changes:
            self._update_number(number_sid, **changes)

    def ping(self) -> None:
        """Make the two cheapest calls that prove credentials, account and trunking permission."""
        with self._twilio.call("ping"):
            self._twilio.numbers().page(page_size=1)
            self._twilio.trunks().page(page_size=1)

    def close(self) -> None:
        """Close this process's connections."""
        self._twilio.close()

    def _own_list(self, trunk_sid: str) -> list[str] | None:
        """Return the sids of the numbers by the trunk's own list; None where there is none, or no trunk."""
        with self._twilio.call("list_trunk_numbers"), gone_is_fine():
            page = self._twilio.trunks()(trunk_sid).phone_numbers.page(page_size=PAGE_SIZE)
            return [checked_sid(row.get("sid"), "PN") for row in records_of(page)]
        return None

    @contextmanager
    def _on_trunk(self, trunk_sid: str) -> Iterator[None]:
        """Tell what a 404 below the trunk means: the trunk is gone, or what is asked for is not there on it."""
        try:
            yield
        except RejectedError as error:
            if error.code is not ErrorCode.TWILIO_TRUNK_GONE or self.get_trunk(trunk_sid) is None:
                raise
            detail = f"{error.detail} The trunk is there: the account's region may not offer this."
            raise RejectedError(ErrorCode.TWILIO_UNSUPPORTED, detail) from None

    def _attach_by_number(self, trunk_sid: str, number_sid: str, before: NumberRouting) -> None:
        """Set the number's `TrunkSid`, unless a look directly before shows that its routing has changed."""
        try:
            now = self.get_number(number_sid).routing
        except RejectedError as error:
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, error.detail) from None
        if now.trunk_sid == trunk_sid:
            return
        if now != before:
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "The number's routing changed while it was attached.")
        try:
            self._update_number(number_sid, trunk_sid=trunk_sid)
        except RejectedError as error:
            if error.code is not ErrorCode.TWILIO_REJECTED:
                raise
            detail = f"{error.detail} The trunk has no PhoneNumbers either."
            raise RejectedError(ErrorCode.TWILIO_UNSUPPORTED, detail) from None

    def _move_back(self, number_sid: str, trunk_sid: str) -> bool:
        """Put the number on its former trunk; False when that trunk is gone, or is nothing that Twilio could know."""
        if not is_sid(trunk_sid, "TK"):
            return False
        try:
            self._update_number(number_sid, trunk_sid=trunk_sid)
        except RejectedError as error:
            if error.code is not ErrorCode.TWILIO_REJECTED or self.get_trunk(trunk_sid) is not None:
                raise
            return False
        return True

    def _update_number(self, number_sid: str, **changes: str) -> None:
        with self._twilio.call("update_number", is_write=True) as reply:
            self._twilio.numbers()(number_sid).update(**changes)
            read_number(reply.record())

    def _is_on(self, trunk_sid: str, number_sid: str) -> bool:
        try:
            return self.get_number(number_sid).routing.trunk_sid == trunk_sid
        except RejectedError:
            return False

    def _ours(self, number: CarrierNumber) -> CarrierNumber:
        if number.account_sid != self._twilio.account_sid:
            raise RejectedError(ErrorCode.NUMBER_NOT_IN_ACCOUNT, "The number belongs to another Twilio account.")
        return number


def _numbers(rows: Iterable[Json], unreadable: list[Unreadable] | None) -> list[CarrierNumber]:
    return read_records(rows, read_number, lambda row: unreadable_record(row, "PN"), unreadable)


def _changes(**fields: tuple[object, object]) -> dict[str, object]:
    """Return the wanted values of the fields that differ from what is there."""
    return {name: wanted for name, (now, wanted) in fields.items() if wanted != now}


def _odd_trunk(row: Json) -> Unreadable:
    return unreadable_record(row, "TK")


def _odd_url(row: Json) -> Unreadable:
    return unreadable_record(row, "OU")
