"""Pages of numbers and agents: the list, the form for a new agent, and the page and forms of one agent."""

import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.access import Scope
from app.console.call_card import SHOWN, call_lines, draw_call, is_calling
from app.console.forms import (
    STATUS_FILTER_LABELS,
    ChoiceQuery,
    HealthFilter,
    NumbersQuery,
    StatusFilter,
    is_checked,
    kept_choice_query,
    read_choice_query,
    read_move_form,
    read_numbers_query,
    read_path_choice,
    read_provision_form,
    read_search,
)
from app.console.number_choice import number_choice, use_note
from app.console.operation_pages import agent_actions, build_timeline, can_retry
from app.console.option_form import (
    PREFIX,
    field_errors,
    is_other,
    option_groups,
    read_agent_change,
    read_new_agent,
    read_version,
    show_metadata,
    shown_options,
)
from app.console.pages import (
    console_services,
    list_page,
    live_fragment,
    origin,
    page,
    redirect_with_message,
    signed_in_caller,
)
from app.console.path_diagram import build_path_diagram
from app.console.presentation import (
    HEALTH_FILTER_LABELS,
    ORDER_LABELS,
    USE_FILTER_LABELS,
    agent_counts,
    error_notice,
    health_card,
    step_label,
)
from app.domain.errors import ADVICE, ErrorCode, RefusedError
from app.domain.findings import calls_in_words
from app.domain.operations import TrunkMode, trunk_in_words
from app.domain.options import options_of
from app.numbers.dry_run import Preview
from app.views.operations import repair_message
from app.web.context import web_services, wiring
from app.web.problems import status_of


def register_numbers(blueprint: Blueprint) -> None:
    """Register the list and its form."""
    blueprint.get("/", endpoint="numbers")(numbers)
    blueprint.post("/", endpoint="create_agent")(create_agent)


def numbers() -> ResponseReturnValue:
    """Show the list of agents."""
    return numbers_page(read_numbers_query(request.args))


def create_agent() -> ResponseReturnValue:
    """Create an agent and redirect to its page."""
    given = read_new_agent(request.form)
    agent = wiring().agents.create(
        given["name"],
        given.get("livekit_agent_name"),
        {},
        options=options_of(given.get("options", {})),
        trunk_mode=given.get("trunk_mode", TrunkMode.SHARED),
        origin=origin(),
    )
    return redirect_with_message(
        f"{agent.name} was created. Provision a number for it.", "console.agent", agent_id=agent.id
    )


def numbers_page(wanted: NumbersQuery | None = None, refusal: RefusedError | None = None) -> Response:
    """Render the list, or its form with the error that refused it."""
    query = wanted or NumbersQuery(None, None, "", None)
    reader = console_services().reader
    return list_page(
        "numbers",
        "console.numbers",
        status_of(refusal),
        query=query,
        found=reader.numbers(query.filter, query.cursor, query.order),
        orders=ORDER_LABELS,
        agent_counts=agent_counts(reader.counts()),
        status_filters=[(one, STATUS_FILTER_LABELS[one]) for one in StatusFilter],
        healths=[(one, HEALTH_FILTER_LABELS[one]) for one in HealthFilter],
        notice=error_notice(refusal),
        errors=field_errors(refusal.errors) if refusal else {},
        option_groups=option_groups({}, request.form),
        has_options=any(value and name.startswith(PREFIX) for name, value in request.form.items()),
        newline="\n",
    )


def register_agents(blueprint: Blueprint) -> None:
    """Register the pages, forms and actions of one agent."""
    for path, endpoint, view in (
        ("", "agent", agent),
        ("/live", "agent_live", agent_live),
        ("/provision", "agent_provision", provision_form),
        ("/deprovision", "agent_deprovision", deprovision_form),
        ("/move", "agent_move", move_form),
        ("/edit", "agent_edit", edit_form),
        ("/delete", "agent_delete", delete_form),
    ):
        blueprint.get(f"/agents/<agent_id>{path}", endpoint=endpoint)(view)
    blueprint.post("/agents/<agent_id>/edit", endpoint="change_agent")(change_agent)
    blueprint.post("/agents/<agent_id>/delete", endpoint="delete_agent")(delete_agent)
    for name, handler in (
        ("provision", provision),
        ("plan", plan),
        ("deprovision", deprovision),
        ("verify", verify),
        ("repair", repair),
        ("move", move),
        ("test-call", test_call),
    ):
        blueprint.post(f"/agents/<agent_id>/{name}", endpoint=name.replace("-", "_"))(handler)


def agent(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Show the agent."""
    return agent_page(agent_id)


def agent_live(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Return the live part of the page, which the script polls."""
    etag = web_services().reader.phone_etag(agent_id)
    newest = [f"{call.id}{call.verdict}" for call in wiring().calls.list_calls(agent_id, limit=1)]
    return live_fragment("agent_live.html", "-".join([etag, *newest]), lambda: _page_data(agent_id))


def provision_form(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Show the form for choosing a number."""
    return provision_page(agent_id, query=read_choice_query(request.args))


def plan(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Preview a provisioning; read-only."""
    wanted = read_provision_form(request.form)
    preview = wiring().planning.preview(agent_id, wanted.phone_number, takeover=wanted.takeover)
    return provision_page(agent_id, preview=preview)


def provision(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Queue a provisioning."""
    wanted = read_provision_form(request.form)
    wiring().provisioning.provision(agent_id, wanted.phone_number, takeover=wanted.takeover, origin=origin())
    return redirect_with_message(
        f"Provisioning of {wanted.phone_number} is queued.", "console.agent", agent_id=agent_id
    )


def deprovision_form(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Ask for confirmation."""
    data = _page_data(agent_id)
    shared = [step_label(one.step) for one in data["adopted"] if one.is_shared]
    return page("deprovision.html", **data, shared=shared)


def deprovision(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Queue a deprovisioning, cancel a provisioning, or clear a failure."""
    path = read_path_choice(request.form)
    operation = wiring().provisioning.deprovision(agent_id, origin=origin(), path=path)
    message = "The number is being disconnected." if operation else "The agent has no number."
    return redirect_with_message(message, "console.agent", agent_id=agent_id)


def verify(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Compare the path with both providers now."""
    result = wiring().maintenance.verify(agent_id)
    return redirect_with_message(calls_in_words(result.findings), "console.agent", agent_id=agent_id)


def test_call(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Call the number."""
    call = wiring().calls.request(agent_id, origin=origin())
    return redirect_with_message(f"{call.phone_number} is being called.", "console.agent", agent_id=agent_id)


def repair(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Queue a repair of what is missing or changed."""
    takeover = is_checked(request.form, "takeover")
    result = wiring().maintenance.repair(agent_id, takeover=takeover, origin=origin())
    message = repair_message(result, "The repair is queued." if result.operation else "Nothing to repair.")
    return redirect_with_message(message, "console.agent", agent_id=agent_id)


def edit_form(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Show what can be changed of the agent."""
    return edit_page(agent_id)


def change_agent(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Change the agent, or queue the change of its path; only if nobody else has changed it since the form was made."""
    version, decide = read_version(request.form), read_agent_change(request.form)
    changed = wiring().changes.change(agent_id, decide, is_current=version.__eq__, origin=origin())
    message = "The change is queued." if changed.operation else "Saved."
    return redirect_with_message(message, "console.agent", agent_id=agent_id)


def delete_form(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Ask for confirmation."""
    return page("agent_delete.html", **_page_data(agent_id))


def delete_agent(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Delete an agent that has no number."""
    name = wiring().agents.get(agent_id).name
    wiring().agents.delete(agent_id, origin=origin())
    return redirect_with_message(f"{name} was deleted.", "console.numbers")


def move_form(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Show the agents that the number can be moved to."""
    return move_page(agent_id, read_search(request.args))


def move(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Queue a move of the number to another agent."""
    to_agent_id = read_move_form(request.form)
    wiring().maintenance.move(agent_id, to_agent_id, origin=origin())
    return redirect_with_message("The move is queued.", "console.agent", agent_id=agent_id)


def agent_page(agent_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page."""
    return page("agent.html", status_of(refusal), refusal=error_notice(refusal), **_page_data(agent_id))


def provision_page(
    agent_id: uuid.UUID,
    *,
    query: ChoiceQuery | None = None,
    preview: Preview | None = None,
    refusal: RefusedError | None = None,
) -> Response:
    """Render the form with the submitted values, and with a preview or an error."""
    agent = wiring().agents.get(agent_id)
    query = query or kept_choice_query(request.form)
    return page(
        "provision.html",
        status_of(refusal),
        agent=agent,
        choice=number_choice(wiring().inventory, agent, query, request.form.get("chosen", "")),
        uses=USE_FILTER_LABELS,
        use_note=use_note,
        given=request.form,
        preview=preview,
        preview_trunk=trunk_in_words(**asdict(preview.trunk)) if preview else "",
        advice=ADVICE,
        refusal=error_notice(refusal),
        errors=refusal.errors if refusal else {},
    )


def edit_page(agent_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the form with what stands, or with what was submitted and the error that refused it.

    Where somebody else has changed the agent meanwhile, each field also says what stands there now.
    """
    agent = wiring().agents.get(agent_id)
    stands = {
        "name": agent.name,
        "livekitAgentName": agent.livekit_agent_name,
        "metadata": show_metadata(agent.agent_metadata),
        "trunkMode": agent.trunk_mode.value,
    }
    submitted = request.form if refusal else None
    given = {name: submitted.get(name, value) for name, value in stands.items()} if submitted else stands
    is_outrun = refusal is not None and refusal.code is ErrorCode.VERSION_MISMATCH
    return page(
        "agent_edit.html",
        status_of(refusal),
        agent=agent,
        given=given,
        differing={name: value for name, value in stands.items() if is_outrun and is_other(given[name], value)},
        groups=option_groups(agent.options, submitted, compares=is_outrun),
        refusal=error_notice(refusal),
        errors=field_errors(refusal.errors) if refusal else {},
        newline="\n",
    )


def move_page(agent_id: uuid.UUID, search: str) -> Response:
    """Render the form with the agents that match the search."""
    return page(
        "move.html",
        agent=wiring().agents.get(agent_id),
        search=search,
        targets=console_services().reader.free_agents(search, exclude=agent_id),
    )


def _page_data(agent_id: uuid.UUID) -> dict[str, Any]:
    details, who = console_services().reader.agent(agent_id), signed_in_caller()
    phone, may_write = details.phone, who is not None and who.may(Scope.WRITE)
    operation, calls = phone.operation, wiring().calls.list_calls(agent_id, limit=SHOWN)
    return {
        "agent": phone.agent,
        "operation": operation,
        "history": details.history,
        "names": details.names,
        "path": draw_call(build_path_diagram(phone), calls),
        "calls": call_lines(calls),
        "is_calling": is_calling(calls),
        "timeline": build_timeline(operation, datetime.now(UTC)) if operation else None,
        "notice": error_notice(operation.error) if operation else None,
        "actions": agent_actions(phone, may_write=may_write),
        "can_retry": operation is not None and can_retry(operation, phone.agent, may_write=may_write),
        "health": health_card(phone),
        "warnings": phone.warnings,
        "adopted": phone.adopted or (),
        "options": shown_options(phone.agent.options),
        "metadata": show_metadata(phone.agent.agent_metadata),
    }
