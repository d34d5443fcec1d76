"""Both providers in memory: they keep state, refuse what Twilio and LiveKit refuse, and fail or die as a test plans."""

import functools
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from app.domain.calls import CallRoom
from app.domain.errors import ErrorCode
from app.domain.options import RuleAgent
from app.path.observed import (
    CarrierNumber,
    CarrierTrunk,
    DispatchRule,
    InboundTrunk,
    NumberRouting,
    OriginationUrl,
    Unreadable,
    normalised,
)
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec, OriginationUrlSpec, TrunkSpec
from app.providers.errors import RejectedError

ACCOUNT_SID = "AC" + "0" * 32
TAG_LIMIT = 64
"""Characters of a FriendlyName."""

Hook = BaseException | Callable[[], None]
"""What a plan does when its moment comes: raise this, or call that (which may raise, change the world, or wait)."""

P = ParamSpec("P")
T = TypeVar("T")


class WorkerDiedError(BaseException):
    """The worker is killed here: not an `Exception`, so that no code of ours runs after it."""


@dataclass
class Plan:
    """What happens at the next `times` calls of `operation`, before the provider acts or after it has."""

    operation: str
    before: Hook | None = None
    after: Hook | None = None
    times: int = 1


@dataclass
class CallLog:
    """Counts the calls of both providers and keeps what is planned for them; one lock makes each call atomic."""

    started: Counter[str] = field(default_factory=Counter)
    applied: Counter[str] = field(default_factory=Counter)
    """Calls that took effect, whether or not their answer arrived."""
    order: list[str] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def plan(self, operation: str, *, before: Hook | None = None, after: Hook | None = None, times: int = 1) -> None:
        self.plans.append(Plan(operation, before, after, times))

    def heal(self) -> None:
        self.plans.clear()

    def enter(self, operation: str) -> Plan | None:
        with self.lock:
            self.started[operation] += 1
            self.order.append(operation)
            plan = next((each for each in self.plans if each.operation == operation and each.times > 0), None)
            if plan:
                plan.times -= 1
        if plan:
            _meet(plan.before)
        return plan


def _meet(hook: Hook | None) -> None:
    if isinstance(hook, BaseException):
        raise hook
    if hook is not None:
        hook()


class FakeProvider:
    """What both have in common: a log of calls, ids of the right form, and a clock that only moves forward."""

    prefix = ""

    def __init__(self, log: CallLog) -> None:
        self.log = log
        self._serial = itertools.count(1)

    def new_id(self, kind: str, digits: int) -> str:
        return f"{kind}{next(self._serial):0{digits}x}"


def provider_call(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], T]:
    """Make a method one call over the wire: logged, atomic, and subject to what the test has planned."""

    @functools.wraps(method)
    def call(self: FakeProvider, *args: P.args, **kwargs: P.kwargs) -> T:
        name = f"{self.prefix}.{method.__name__}"
        plan = self.log.enter(name)
        with self.log.lock:
            answer = method(self, *args, **kwargs)
            self.log.applied[name] += 1
        if plan:
            _meet(plan.after)
        return answer

    return call


def checked(value: str, prefix: str) -> str:
    """Refuse an id of another kind, as the adapters do: it is a defect of ours, not the provider's answer."""
    if not value.startswith(prefix):
        raise ValueError(f"not a {prefix} id: {value!r}")
    return value


def written(stored: T, now: T, wanted: T) -> T:
    """Return what is stored with those fields changed in which `wanted` differs from `now`; dataclasses."""
    names = [field.name for field in fields(stored)]  # type: ignore[arg-type]  # T is a record
    changes = {name: getattr(wanted, name) for name in names if getattr(wanted, name) != getattr(now, name)}
    return replace(stored, **changes)  # type: ignore[type-var]  # the same


class FakeCarrier(FakeProvider):
    """One Twilio account."""

    prefix = "carrier"

    def __init__(self, log: CallLog) -> None:
        super().__init__(log)
        self.numbers: dict[str, CarrierNumber] = {}
        self.trunks: dict[str, CarrierTrunk] = {}
        self.urls: dict[str, OriginationUrl] = {}
        self.trunk_limit = 100

    def _now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(self._serial))

    # What a test does behind our back.

    def own_number(
        self,
        e164: str,
        *,
        trunk_sid: str | None = None,
        application_sid: str | None = None,
        voice_url: str | None = None,
        is_voice: bool = True,
    ) -> str:
        sid = self.new_id("PN", 32)
        routing = NumberRouting(trunk_sid, application_sid, voice_url)
        self.numbers[sid] = CarrierNumber(sid, e164, ACCOUNT_SID, routing, has_voice=is_voice)
        return sid

    def own_trunk(self, tag: str, *, is_secure: bool = False, transfer_mode: str = "disable-all") -> str:
        trunk = CarrierTrunk(self.new_id("TK", 32), tag, is_secure, self._now(), transfer_mode)
        self.trunks[trunk.sid] = trunk
        return trunk.sid

    def own_url(self, trunk_sid: str, sip_url: str, tag: str, *, priority: int = 10, weight: int = 10) -> str:
        sid = self.new_id("OU", 32)
        self.urls[sid] = OriginationUrl(
            sid, trunk_sid, sip_url, is_enabled=True, tag=tag, created_at=self._now(), priority=priority, weight=weight
        )
        return sid

    def route(self, number_sid: str, **changes: str | None) -> None:
        number = self.numbers[number_sid]
        self.numbers[number_sid] = replace(number, routing=replace(number.routing, **changes))

    # The Protocol.

    @provider_call
    def find_number(self, e164: str) -> CarrierNumber:
        exact = [number for number in self.numbers.values() if number.phone_number == e164]
        if len(exact) != 1:
            raise RejectedError(ErrorCode.NUMBER_NOT_IN_ACCOUNT, "The account does not have the number.")
        return exact[0]

    @provider_call
    def get_number(self, number_sid: str) -> CarrierNumber:
        return self._number(number_sid)

    @provider_call
    def list_numbers(self, unreadable: list[Unreadable] | None = None) -> list[CarrierNumber]:
        return list(self.numbers.values())

    @provider_call
    def create_trunk(self, spec: TrunkSpec) -> CarrierTrunk:
        if len(self.trunks) >= self.trunk_limit:
            raise RejectedError(ErrorCode.TWILIO_TRUNK_LIMIT, "The account has all its trunks.")
        if len(spec.tag) > TAG_LIMIT:
            raise RejectedError(ErrorCode.TWILIO_REJECTED, "FriendlyName is too long.")
        mode = spec.transfer_mode or "disable-all"
        return self.trunks[self.own_trunk(spec.tag, is_secure=spec.is_secure, transfer_mode=mode)]

    @provider_call
    def get_trunk(self, trunk_sid: str) -> CarrierTrunk | None:
        return self.trunks.get(checked(trunk_sid, "TK"))

    @provider_call
    def list_trunks(self, unreadable: list[Unreadable] | None = None) -> list[CarrierTrunk]:
        return list(self.trunks.values())

    @provider_call
    def list_trunk_numbers(self, trunk_sid: str) -> list[str]:
        return self._numbers_on(checked(trunk_sid, "TK"))

    @provider_call
    def update_trunk(self, now: CarrierTrunk, wanted: CarrierTrunk) -> bool:
        if checked(now.sid, "TK") not in self.trunks:
            return False
        self.trunks[now.sid] = written(self.trunks[now.sid], now, wanted)
        return True

    @provider_call
    def delete_trunk(self, trunk_sid: str) -> bool:
        """Detaches every number without a word, and takes the URLs along: as Twilio does."""
        gone = self.trunks.pop(checked(trunk_sid, "TK"), None)
        for sid in self._numbers_on(trunk_sid):
            self.route(sid, trunk_sid=None)
        self.urls = {sid: url for sid, url in self.urls.items() if url.trunk_sid != trunk_sid}
        return gone is not None

    @provider_call
    def create_origination_url(self, trunk_sid: str, spec: OriginationUrlSpec) -> OriginationUrl:
        self._trunk(trunk_sid)
        made = self.own_url(trunk_sid, str(spec.uri), spec.tag, priority=spec.priority, weight=spec.weight)
        return self.urls[made]

    @provider_call
    def list_origination_urls(self, trunk_sid: str, unreadable: list[Unreadable] | None = None) -> list[OriginationUrl]:
        return [url for url in self.urls.values() if url.trunk_sid == checked(trunk_sid, "TK")]

    @provider_call
    def update_origination_url(self, now: OriginationUrl, wanted: OriginationUrl) -> bool:
        if checked(now.sid, "OU") not in self.urls:
            return False
        self.urls[now.sid] = written(self.urls[now.sid], now, wanted)
        return True

    @provider_call
    def delete_origination_url(self, trunk_sid: str, url_sid: str) -> bool:
        url = self.urls.get(checked(url_sid, "OU"))
        if not url or url.trunk_sid != checked(trunk_sid, "TK"):
            return False
        del self.urls[url_sid]
        return True

    @provider_call
    def attach_number(self, trunk_sid: str, number_sid: str, now: NumberRouting) -> None:
        """Moves the number silently from another trunk: as Twilio does."""
        self._trunk(trunk_sid)
        self._number(number_sid)
        self.route(number_sid, trunk_sid=trunk_sid, voice_application_sid=None)

    @provider_call
    def move_number(self, number_sid: str, trunk_sid: str) -> None:
        self._number(number_sid)
        self._trunk(checked(trunk_sid, "TK"))
        self.route(number_sid, trunk_sid=trunk_sid, voice_application_sid=None)

    @provider_call
    def detach_number(self, trunk_sid: str, number_sid: str) -> None:
        number = self.numbers.get(checked(number_sid, "PN"))
        if number and number.routing.trunk_sid == checked(trunk_sid, "TK"):
            self.route(number_sid, trunk_sid=None)

    @provider_call
    def restore_routing(self, number_sid: str, routing: NumberRouting, now: NumberRouting) -> None:
        self._number(number_sid)
        if now.trunk_sid or now.voice_application_sid:
            return
        if routing.trunk_sid and routing.trunk_sid in self.trunks:
            self.route(number_sid, trunk_sid=routing.trunk_sid, voice_application_sid=None)
            return
        if routing.voice_application_sid:
            self.route(number_sid, trunk_sid=None, voice_application_sid=routing.voice_application_sid)
        self.route(number_sid, voice_url=routing.voice_url)

    @provider_call
    def ping(self) -> None:
        pass

    def _number(self, number_sid: str) -> CarrierNumber:
        number = self.numbers.get(checked(number_sid, "PN"))
        if number is None:
            raise RejectedError(ErrorCode.NUMBER_NOT_IN_ACCOUNT, "The number left the account.")
        return number

    def _trunk(self, trunk_sid: str) -> CarrierTrunk:
        trunk = self.trunks.get(checked(trunk_sid, "TK"))
        if trunk is None:
            raise RejectedError(ErrorCode.TWILIO_TRUNK_GONE, "Twilio knows no such trunk.")
        return trunk

    def _numbers_on(self, trunk_sid: str) -> list[str]:
        return [sid for sid, number in self.numbers.items() if number.routing.trunk_sid == trunk_sid]


class FakePlatform(FakeProvider):
    """One LiveKit project."""

    prefix = "platform"

    def __init__(self, log: CallLog) -> None:
        super().__init__(log)
        self.trunks: dict[str, InboundTrunk] = {}
        self.rules: dict[str, DispatchRule] = {}
        self.rooms: dict[str, CallRoom] = {}
        """Called number -> the room of its call."""

    def own_trunk(self, e164: str, *, name: str = "foreign", metadata: str = "") -> str:
        """Make somebody's trunk; without a number (empty text) it takes every call from one network."""
        numbers, addresses = ((e164,), ()) if e164 else ((), ("192.0.2.0/24",))
        trunk = InboundTrunk(self.new_id("ST_", 12), name, metadata, numbers, addresses)
        self.trunks[trunk.id] = trunk
        return trunk.id

    def own_rule(self, trunk_id: str, agent_name: str, *, name: str = "foreign", metadata: str = "") -> str:
        """Make somebody's rule; without a trunk (empty text) it takes the calls of all of them."""
        trunk_ids = (trunk_id,) if trunk_id else ()
        rule = DispatchRule(self.new_id("SDR_", 12), name, metadata, trunk_ids, (RuleAgent(agent_name, "{}"),))
        self.rules[rule.id] = rule
        return rule.id

    @provider_call
    def create_inbound_trunk(self, spec: InboundTrunkSpec) -> InboundTrunk:
        made = spec.record(self.new_id("ST_", 12))
        self._keep_trunk(made)
        return made

    @provider_call
    def list_inbound_trunks(self, *e164: str, unreadable: list[Unreadable] | None = None) -> list[InboundTrunk]:
        """A number in any form, and trunks without numbers: as LiveKit's filter does."""
        wanted = set(map(normalised, e164))
        return [
            trunk
            for _, trunk in sorted(self.trunks.items())
            if not wanted or not trunk.numbers or wanted & set(map(normalised, trunk.numbers))
        ]

    @provider_call
    def get_inbound_trunk(self, trunk_id: str) -> InboundTrunk | None:
        return self.trunks.get(checked(trunk_id, "ST_"))

    @provider_call
    def update_inbound_trunk(self, now: InboundTrunk, wanted: InboundTrunk) -> bool:
        """Replaces the whole object, with what somebody changed since it was read: as LiveKit does."""
        if wanted.id not in self.trunks:
            return False
        self._keep_trunk(wanted)
        return True

    @provider_call
    def take_numbers_off(self, trunk_id: str, numbers: Sequence[str]) -> bool:
        trunk = self.trunks.get(checked(trunk_id, "ST_"))
        if trunk is None:
            return False
        left = tuple(number for number in trunk.numbers if number not in numbers)
        assert left, "without numbers it would take every call"
        self._keep_trunk(replace(trunk, numbers=left))
        return True

    @provider_call
    def delete_trunk(self, trunk_id: str) -> None:
        """Leaves the rules that name it: as LiveKit does."""
        self.trunks.pop(checked(trunk_id, "ST_"), None)

    @provider_call
    def create_dispatch_rule(self, spec: DispatchRuleSpec) -> DispatchRule:
        checked(spec.trunk_id, "ST_")
        made = spec.record(self.new_id("SDR_", 12))
        self._keep_rule(made)
        return made

    @provider_call
    def list_dispatch_rules(self, *trunk_ids: str, unreadable: list[Unreadable] | None = None) -> list[DispatchRule]:
        """Rules without trunks too: as LiveKit's filter does."""
        return [
            rule
            for _, rule in sorted(self.rules.items())
            if not trunk_ids or not rule.trunk_ids or set(trunk_ids) & set(rule.trunk_ids)
        ]

    @provider_call
    def get_dispatch_rule(self, rule_id: str) -> DispatchRule | None:
        return self.rules.get(checked(rule_id, "SDR_"))

    @provider_call
    def update_dispatch_rule(self, now: DispatchRule, wanted: DispatchRule) -> bool:
        if wanted.id not in self.rules:
            return False
        self._keep_rule(wanted)
        return True

    @provider_call
    def delete_dispatch_rule(self, rule_id: str) -> bool:
        return self.rules.pop(checked(rule_id, "SDR_"), None) is not None

    def _keep_trunk(self, made: InboundTrunk) -> None:
        """Refuse two trunks that have a number, or that both have none."""
        others = [trunk for trunk in self.trunks.values() if trunk.id != made.id]
        ours = set(map(normalised, made.numbers))
        # LiveKit compares the trunks with the number and all without numbers, whichever is the new one.
        is_wildcard_pair = sum(not trunk.numbers for trunk in (*others, made)) > 1
        if is_wildcard_pair or any(ours & set(map(normalised, trunk.numbers)) for trunk in others):
            raise RejectedError(ErrorCode.LIVEKIT_NUMBER_CONFLICT, "Another trunk has the number.")
        self.trunks[made.id] = made

    def _keep_rule(self, made: DispatchRule) -> None:
        """Refuse two rules for one trunk, or two without trunks."""
        named = [trunk_id for rule in self.rules.values() if rule.id != made.id for trunk_id in rule.trunk_ids or ("",)]
        if set(made.trunk_ids or ("",)) & set(named):
            raise RejectedError(ErrorCode.LIVEKIT_RULE_CONFLICT, "Another rule has the trunk.")
        self.rules[made.id] = made

    @provider_call
    def find_call(
        self, sip_call_id: str, caller: str, called: str, room: str = "", others: set[str] | None = None
    ) -> CallRoom | None:
        """What a test has put into `rooms` under the called number."""
        return self.rooms.get(called)

    @provider_call
    def ping(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class World:
    """Both providers and their common log."""

    log: CallLog
    carrier: FakeCarrier
    platform: FakePlatform

    @classmethod
    def new(cls) -> "World":
        log = CallLog()
        return cls(log, FakeCarrier(log), FakePlatform(log))

    def ours(self) -> dict[str, list[str]]:
        """Return the ids of everything that carries our tag, by the step that makes it."""
        return {kind: sorted(ids) for kind, ids in self._ours()}

    def _ours(self) -> Iterator[tuple[str, list[str]]]:
        yield "twilio_trunk", [each.sid for each in self.carrier.trunks.values() if _is_ours(each.tag)]
        yield "twilio_origination_url", [each.sid for each in self.carrier.urls.values() if _is_ours(each.tag)]
        yield "livekit_inbound_trunk", [each.id for each in self.platform.trunks.values() if _is_ours(each.name)]
        yield "livekit_dispatch_rule", [each.id for each in self.platform.rules.values() if _is_ours(each.name)]

    def routing(self, number_sid: str) -> NumberRouting:
        return self.carrier.numbers[number_sid].routing


def _is_ours(tag: str) -> bool:
    return tag.startswith("trunkline/")
