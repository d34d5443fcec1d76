"""An agent and an operation as a person reads them."""

from rich.text import Text

from app.api.operation_views import OperationView, PhoneView
from app.cli.context import hint
from app.cli.output import coloured, moment, print_pairs, print_table, say, tell
from app.cli.progress import steps_table
from app.db.models import Agent
from app.domain.findings import Health
from app.domain.statuses import OperationStatus, PhoneStatus

_ENDS_WELL = frozenset({OperationStatus.SUCCEEDED, OperationStatus.CANCELLED})


def show_agent(agent: Agent) -> None:
    """Print what an agent is."""
    pairs: list[tuple[str, str | Text | None]] = [
        ("agent", agent.name),
        ("id", str(agent.id)),
        ("LiveKit agent", agent.livekit_agent_name),
        ("status", coloured(agent.phone_provisioning_status)),
        ("number", agent.twilio_phone_number),
        ("created", moment(agent.created_at)),
    ]
    print_pairs(pairs)


def show_phone(view: PhoneView) -> None:
    """Print where an agent's number stands, what was built for it, and the operation if it is of interest."""
    agent = view.agent
    pairs: list[tuple[str, str | Text | None]] = [
        ("agent", agent.name),
        ("id", str(agent.id)),
        ("status", coloured(agent.phone_provisioning_status)),
        ("number", agent.twilio_phone_number),
        ("health", _health(agent) if view.has_phone else None),
        ("Twilio number", agent.twilio_phone_number_sid),
        ("Twilio trunk", agent.twilio_trunk_sid),
        ("origination URL", agent.twilio_origination_url_sid),
        ("LiveKit trunk", agent.livekit_inbound_trunk_id),
        ("dispatch rule", agent.livekit_dispatch_rule_id),
    ]
    print_pairs(pairs)
    for finding in agent.health_findings if view.has_phone else ():
        say(Text(f"{finding['code']}: {finding['sentence']} {finding['detail']}".rstrip(), "red"))
    operation = view.operation
    if operation is None:
        if agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED:
            tell(f"No number yet: {hint('provision AGENT NUMBER')}", err=True)
    elif operation.row.status not in _ENDS_WELL:
        say("")
        show_operation(operation)


def show_operation(view: OperationView, *, with_timeline: bool = False) -> None:
    """Print an operation with its steps, what it failed on, and what still stands at the providers."""
    row = view.row
    error = f"{row.error_detail or ''} ({row.error_code})".strip() if row.error_code else None
    pairs: list[tuple[str, str | Text | None]] = [
        ("operation", str(row.id)),
        ("kind", row.kind.value),
        ("status", coloured(row.status)),
        ("number", row.phone_number),
        ("error", Text(error, "red") if error else None),
        ("asked for", f"{moment(row.created_at)} by {row.requested_by or 'nobody'}"),
        ("finished", moment(row.finished_at)),
    ]
    print_pairs(pairs)
    say(steps_table(view))
    for leftover in view.leftovers:
        line = f"still there: {leftover.provider} {leftover.kind} {leftover.external_id}"
        say(Text(line, "yellow"))
    if row.status is OperationStatus.NEEDS_ATTENTION:
        tell(f"It is tried again about once a minute; at once with: {hint(f'operations retry {row.id}')}", err=True)
    if with_timeline:
        say("")
        print_table(
            ("time (UTC)", "event", "step", "detail"),
            [
                (f"{event.at:%H:%M:%S.%f}"[:-3], event.event, event.step or "", _detail(event.detail))
                for event in view.timeline
            ],
        )


def _health(agent: Agent) -> Text:
    state = agent.health_state or Health.UNKNOWN
    seen = f", checked {moment(agent.health_checked_at)}" if agent.health_checked_at else ", not looked at yet"
    return Text.assemble(coloured(state), (seen, "dim"))


def _detail(detail: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in detail.items() if value not in (None, "", [], {}))
