"""Reads the whole path at both providers and checks it."""

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.domain.errors import ErrorCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.providers.errors import RejectedError
from app.saga.context import StepContext


@dataclass(frozen=True)
class Check:
    """One thing that must hold for a call to reach the agent; `detail` says what is wrong when it does not."""

    name: str
    is_ok: bool
    detail: str = ""


def same_sip_uri(one: str, other: str) -> bool:
    """Compare two SIP URIs as Twilio reads them: scheme and host in any case, parameters in any order."""
    return _normal(one) == _normal(other)


def sip_host(uri: str) -> str | None:
    """Return the host of a SIP URI, or None where there is none to read: `sip:[::1`, `sip:x]`."""
    address = _normal(uri)[0]
    try:
        return urlsplit(f"//{address}").hostname
    except ValueError:
        return None


def _normal(uri: str) -> tuple[str, frozenset[str]]:
    address, *parameters = uri.strip().lower().removeprefix("sip:").split(";")
    return address, frozenset(parameters or ["transport=udp"])


def verify(ctx: StepContext) -> None:
    """Read the path until it is whole; `RejectedError(path_not_verified)` names what is not, when it never is."""
    broken: list[Check] = []

    def is_whole() -> bool:
        broken[:] = [check for check in checks(ctx) if not check.is_ok]
        return not broken

    if not ctx.wait_until(is_whole):
        raise RejectedError(ErrorCode.PATH_NOT_VERIFIED, " ".join(check.detail for check in broken))


def checks(ctx: StepContext) -> list[Check]:
    """Read every resource of the path once.

    The reads do not depend on each other, so they run side by side: verification takes as long as the slowest.
    """
    reads = (_number, _origination_url, _inbound_trunk, _dispatch_rule)
    with ThreadPoolExecutor(len(reads), "verification") as threads:
        # Each runs in a copy of this thread's context variables, where the adapters find the caller and the trace.
        pending = [threads.submit(copy_context().run, read, ctx) for read in reads]
        return [check.result() for check in pending]


def _number(ctx: StepContext) -> Check:
    try:
        trunk_sid = ctx.tools.carrier.get_number(ctx.ids[NUMBER]).routing.trunk_sid
    except RejectedError as error:
        if error.code is not ErrorCode.NUMBER_NOT_IN_ACCOUNT:
            raise
        return Check("number_on_trunk", is_ok=False, detail="The number is not in the account.")
    return Check("number_on_trunk", trunk_sid == ctx.ids[TRUNK], "The number is not on our trunk.")


def _origination_url(ctx: StepContext) -> Check:
    ctx.check_time()
    urls = ctx.tools.carrier.list_origination_urls(ctx.ids[TRUNK])
    ours = [url for url in urls if url.sid == ctx.ids[ORIGINATION_URL]]
    is_ok = any(url.is_enabled and same_sip_uri(url.sip_url, str(ctx.tools.profile.sip_uri)) for url in ours)
    return Check("origination_url", is_ok, "The origination URL is missing, disabled or changed.")


def _inbound_trunk(ctx: StepContext) -> Check:
    ctx.check_time()
    trunks = ctx.tools.platform.list_inbound_trunks(ctx.phone_number)
    foreign = [trunk.id for trunk in trunks if not ctx.has_own_mark(trunk.metadata)]
    if foreign:
        return Check(
            "livekit_inbound_trunk", is_ok=False, detail=f"Another LiveKit trunk has the number: {foreign[0]}."
        )
    is_ok = any(trunk.id == ctx.ids[INBOUND_TRUNK] for trunk in trunks)
    return Check("livekit_inbound_trunk", is_ok, "The LiveKit trunk is missing or lost the number.")


def _dispatch_rule(ctx: StepContext) -> Check:
    ctx.check_time()
    rules = ctx.tools.platform.list_dispatch_rules(ctx.ids[INBOUND_TRUNK])
    ours = [rule for rule in rules if rule.id == ctx.ids[DISPATCH_RULE]]
    is_ok = any(rule.agent_names == (ctx.agent_name,) and not rule.inbound_numbers for rule in ours)
    return Check(
        "livekit_dispatch_rule", is_ok, "The dispatch rule is missing, or does not name the trunk and the agent."
    )
