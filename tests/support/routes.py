"""Every route of the application, and what each kind of caller gets there: a new route needs a line here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.domain.workspaces import ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT
from tests.support.accounts import CARRIER, PROJECT, PROJECT_SECRET, TOKEN


class Who(StrEnum):
    """Who sends a request about something of the workspace `acme`."""

    NOBODY = "no key"
    OTHER = "another workspace's admin"
    READ = "acme's read"
    WRITE = "acme's write"
    ADMIN = "acme's admin"
    OPERATOR = "an operator"
    OPERATOR_THERE = "an operator that names acme"


class May(StrEnum):
    """Who may do it."""

    EVERYBODY = "everybody"
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    OPERATE_READ = "operators, also with read"
    OPERATE_WRITE = "operators with write"
    OPERATE_ADMIN = "operators with admin"


_LEVEL = {Who.READ: 1, Who.WRITE: 2, Who.ADMIN: 3, Who.OTHER: 3, Who.OPERATOR: 3, Who.OPERATOR_THERE: 3}
_NEEDED = {May.READ: 1, May.WRITE: 2, May.ADMIN: 3}


@dataclass(frozen=True, slots=True)
class Route:
    """What a route responds with to those who may; `{agent_id}` and so on in its body stand for acme's."""

    may: May
    status: int
    json: Mapping[str, Any] | None = None
    form: Mapping[str, str] = field(default_factory=dict)
    hides: bool = True
    """Whether what is named in the path or the body is 404 for another workspace."""

    def expected(self, who: Who, path: str) -> int:
        """Return the status for this caller."""
        is_api = path.startswith(("/api/", "/metrics"))
        if self.may is May.EVERYBODY:
            return self.status
        if who is Who.NOBODY:
            return 401 if is_api else 303
        if self.may not in _NEEDED:
            # The console has no header: an operator's session there is an operator's.
            is_operator = who is Who.OPERATOR or (who is Who.OPERATOR_THERE and not is_api)
            return self.status if is_operator else 403
        if _LEVEL[who] < _NEEDED[self.may]:
            return 403
        names_something = self.hides and ("<" in path or "_id}" in str(self.json or self.form))
        return 404 if who is Who.OTHER and names_something else self.status


_NUMBER = "{number}"
_ITEM = {"phoneNumber": _NUMBER, "agentId": "{agent_id}"}
_ACCOUNTS = {"carrierAccountId": str(ENVIRONMENT_ACCOUNT), "voiceProjectId": str(ENVIRONMENT_PROJECT)}

ROUTES: Mapping[str, Route] = {
    # The API.
    "GET /api/agents": Route(May.READ, 200),
    "POST /api/agents": Route(May.WRITE, 201, {"name": "made"}),
    "GET /api/agents/<agent_id>": Route(May.READ, 200),
    "PATCH /api/agents/<agent_id>": Route(May.WRITE, 200, {"name": "changed"}),
    "DELETE /api/agents/<agent_id>": Route(May.WRITE, 204),
    # The account has none of these numbers.
    "POST /api/agents/<agent_id>/adopt-phone": Route(May.WRITE, 422, {"phoneNumber": _NUMBER}),
    "DELETE /api/agents/<agent_id>/deprovision-phone": Route(May.WRITE, 200),
    "GET /api/agents/<agent_id>/phone-status": Route(May.READ, 200),
    "POST /api/agents/<agent_id>/move-phone": Route(May.WRITE, 409, {"toAgentId": "{to_agent_id}"}),
    "POST /api/agents/<agent_id>/provision-phone": Route(May.WRITE, 202, {"phoneNumber": _NUMBER}),
    "POST /api/agents/<agent_id>/repair": Route(May.WRITE, 409, {}),
    "POST /api/agents/<agent_id>/verify": Route(May.WRITE, 409),
    "GET /api/agents/<agent_id>/test-calls": Route(May.READ, 200),
    "POST /api/agents/<agent_id>/test-calls": Route(May.WRITE, 409),
    "GET /api/agents/<agent_id>/test-calls/<call_id>": Route(May.READ, 200),
    "GET /api/audit": Route(May.READ, 200, hides=False),
    "POST /api/audit": Route(May.WRITE, 202, {"fix": True}),
    "GET /api/audit/<audit_id>": Route(May.READ, 200),
    "GET /api/numbers": Route(May.READ, 200),
    "GET /api/operations": Route(May.READ, 200),
    "GET /api/operations/<operation_id>": Route(May.READ, 200),
    "POST /api/operations/<operation_id>/retry": Route(May.WRITE, 202),
    "GET /api/overview": Route(May.READ, 200),
    "GET /api/provisionings": Route(May.READ, 200),
    # An item about another workspace's agent fails alone.
    "POST /api/provisionings": Route(May.WRITE, 202, {"items": [_ITEM]}, hides=False),
    "GET /api/provisionings/<bulk_id>": Route(May.READ, 200),
    "GET /api/provisionings/<bulk_id>/items": Route(May.READ, 200),
    "GET /api/provisionings/<bulk_id>/report": Route(May.READ, 200),
    "POST /api/provisionings/<bulk_id>/cancel": Route(May.WRITE, 202),
    "POST /api/provisionings/<bulk_id>/resume": Route(May.WRITE, 202),
    "GET /api/declarations": Route(May.READ, 200),
    "POST /api/declarations": Route(May.WRITE, 200, {"agents": [{"externalId": "made"}]}),
    "GET /api/trunks": Route(May.OPERATE_READ, 200),
    "POST /api/trunks/consolidate": Route(May.OPERATE_WRITE, 200),
    "GET /api/webhooks": Route(May.READ, 200),
    "POST /api/webhooks": Route(May.ADMIN, 201, {"url": "https://hooks.example.com/new"}),
    "GET /api/webhooks/<webhook_id>": Route(May.READ, 200),
    "PATCH /api/webhooks/<webhook_id>": Route(May.ADMIN, 200, {"description": "changed"}),
    "DELETE /api/webhooks/<webhook_id>": Route(May.ADMIN, 204),
    "GET /api/webhooks/<webhook_id>/deliveries": Route(May.READ, 200),
    "POST /api/webhooks/<webhook_id>/deliveries/<delivery_id>/redeliver": Route(May.ADMIN, 202),
    "POST /api/webhooks/<webhook_id>/rotate-secret": Route(May.ADMIN, 200),
    "POST /api/webhooks/<webhook_id>/test": Route(May.ADMIN, 202),
    "GET /api/workspaces": Route(May.READ, 200),
    "POST /api/workspaces": Route(May.OPERATE_ADMIN, 201, {"slug": "{slug}", "name": "made"}),
    "GET /api/workspaces/<workspace_id>": Route(May.READ, 200),
    "PATCH /api/workspaces/<workspace_id>": Route(May.OPERATE_ADMIN, 200, {"name": "changed"}),
    # It is not empty.
    "DELETE /api/workspaces/<workspace_id>": Route(May.OPERATE_ADMIN, 409),
    "GET /api/keys": Route(May.ADMIN, 200),
    "POST /api/keys": Route(May.ADMIN, 201, {"name": "made"}),
    "DELETE /api/keys/<key_id>": Route(May.ADMIN, 204),
    "POST /api/sign-in-links": Route(May.WRITE, 201),
    "GET /api/activity": Route(May.ADMIN, 200),
    "GET /api/carrier-accounts": Route(May.READ, 200),
    "POST /api/carrier-accounts": Route(May.ADMIN, 201, CARRIER),
    "GET /api/carrier-accounts/<account_id>": Route(May.READ, 200),
    "PATCH /api/carrier-accounts/<account_id>": Route(May.ADMIN, 200, {"name": "changed"}),
    "DELETE /api/carrier-accounts/<account_id>": Route(May.ADMIN, 204),
    "POST /api/carrier-accounts/<account_id>/check": Route(May.ADMIN, 200),
    "POST /api/carrier-accounts/<account_id>/rotate": Route(May.ADMIN, 200, {"secret": TOKEN}),
    "GET /api/voice-projects": Route(May.READ, 200),
    "POST /api/voice-projects": Route(May.ADMIN, 201, PROJECT),
    "GET /api/voice-projects/<project_id>": Route(May.READ, 200),
    "PATCH /api/voice-projects/<project_id>": Route(May.ADMIN, 200, {"name": "changed"}),
    "DELETE /api/voice-projects/<project_id>": Route(May.ADMIN, 204),
    "POST /api/voice-projects/<project_id>/check": Route(May.ADMIN, 200),
    "POST /api/voice-projects/<project_id>/rotate": Route(May.ADMIN, 200, {"secret": PROJECT_SECRET}),
    # Beside the API.
    "GET /healthz": Route(May.EVERYBODY, 200),
    "GET /readyz": Route(May.EVERYBODY, 200),
    "GET /metrics": Route(May.OPERATE_READ, 200),
    "GET /openapi.json": Route(May.EVERYBODY, 200),
    "GET /docs": Route(May.EVERYBODY, 200),
    "GET /docs/start.js": Route(May.EVERYBODY, 200),
    "GET /docs/assets/<name>": Route(May.EVERYBODY, 200),
    "GET /console/static/<path:filename>": Route(May.EVERYBODY, 200),
    # The console.
    "GET /sign-in": Route(May.EVERYBODY, 200),
    "POST /sign-in": Route(May.EVERYBODY, 401, form={"key": "tl_wrong"}),
    "POST /sign-out": Route(May.EVERYBODY, 303),
    "GET /": Route(May.READ, 200),
    "POST /": Route(May.WRITE, 303, form={"name": "made"}),
    "GET /agents/<agent_id>": Route(May.READ, 200),
    "GET /agents/<agent_id>/live": Route(May.READ, 200),
    "GET /agents/<agent_id>/edit": Route(May.READ, 200),
    # Without the version of a form it is nobody's.
    "POST /agents/<agent_id>/edit": Route(May.WRITE, 412, form={"name": "changed", "livekitAgentName": "desk"}),
    "GET /agents/<agent_id>/delete": Route(May.READ, 200),
    "POST /agents/<agent_id>/delete": Route(May.WRITE, 303),
    "POST /agents/<agent_id>/adopt": Route(May.WRITE, 422, form={"typed": _NUMBER}),
    "POST /agents/<agent_id>/adopt-plan": Route(May.WRITE, 422, form={"typed": _NUMBER}),
    "GET /agents/<agent_id>/deprovision": Route(May.READ, 200),
    "POST /agents/<agent_id>/deprovision": Route(May.WRITE, 303),
    "GET /agents/<agent_id>/move": Route(May.READ, 200),
    "POST /agents/<agent_id>/move": Route(May.WRITE, 409, form={"to": "{to_agent_id}"}),
    "POST /agents/<agent_id>/plan": Route(May.WRITE, 200, form={"typed": _NUMBER}),
    "GET /agents/<agent_id>/provision": Route(May.READ, 200),
    "POST /agents/<agent_id>/provision": Route(May.WRITE, 303, form={"typed": _NUMBER}),
    "POST /agents/<agent_id>/repair": Route(May.WRITE, 409),
    "POST /agents/<agent_id>/test-call": Route(May.WRITE, 409),
    "POST /agents/<agent_id>/verify": Route(May.WRITE, 409),
    "GET /audit": Route(May.READ, 200),
    "GET /audit/live": Route(May.READ, 200),
    "GET /audit/fix": Route(May.READ, 200),
    "POST /audit": Route(May.WRITE, 303),
    "GET /bulks": Route(May.READ, 200),
    "POST /bulks": Route(May.WRITE, 422),
    "POST /bulks/check": Route(May.WRITE, 422),
    "GET /bulks/template": Route(May.READ, 200),
    "GET /bulks/<bulk_id>": Route(May.READ, 200),
    "GET /bulks/<bulk_id>/live": Route(May.READ, 200),
    "GET /bulks/<bulk_id>/report": Route(May.READ, 200),
    "GET /bulks/<bulk_id>/cancel": Route(May.READ, 200),
    "POST /bulks/<bulk_id>/cancel": Route(May.WRITE, 303),
    "GET /bulks/<bulk_id>/resume": Route(May.READ, 200),
    "POST /bulks/<bulk_id>/resume": Route(May.WRITE, 303),
    "GET /overview": Route(May.READ, 200),
    "GET /overview/live": Route(May.READ, 200),
    "GET /codes": Route(May.READ, 200),
    "GET /operations": Route(May.READ, 200),
    "GET /operations/<operation_id>": Route(May.READ, 200),
    "GET /operations/<operation_id>/live": Route(May.READ, 200),
    "POST /operations/<operation_id>/retry": Route(May.WRITE, 303),
    "GET /trunks": Route(May.OPERATE_READ, 200),
    "GET /trunks/<trunk_id>": Route(May.OPERATE_READ, 200),
    "GET /trunks/consolidate": Route(May.OPERATE_READ, 200),
    "POST /trunks/consolidate": Route(May.OPERATE_WRITE, 303),
    "GET /accounts": Route(May.READ, 200),
    "POST /carrier-accounts": Route(May.ADMIN, 303, form=CARRIER),
    "GET /carrier-accounts/<account_id>": Route(May.READ, 200),
    "GET /carrier-accounts/<account_id>/delete": Route(May.READ, 200),
    "POST /carrier-accounts/<account_id>/check": Route(May.ADMIN, 303),
    "POST /carrier-accounts/<account_id>/rotate": Route(May.ADMIN, 303, form={"secret": TOKEN}),
    "POST /carrier-accounts/<account_id>/delete": Route(May.ADMIN, 303),
    "POST /voice-projects": Route(May.ADMIN, 303, form=PROJECT),
    "GET /voice-projects/<project_id>": Route(May.READ, 200),
    "GET /voice-projects/<project_id>/delete": Route(May.READ, 200),
    "POST /voice-projects/<project_id>/check": Route(May.ADMIN, 303),
    "POST /voice-projects/<project_id>/rotate": Route(May.ADMIN, 303, form={"secret": PROJECT_SECRET}),
    "POST /voice-projects/<project_id>/delete": Route(May.ADMIN, 303),
    "GET /webhooks": Route(May.READ, 200),
    "POST /webhooks": Route(May.ADMIN, 201, form={"url": "https://hooks.example.com/new"}),
    "GET /webhooks/<webhook_id>": Route(May.READ, 200),
    "GET /webhooks/<webhook_id>/live": Route(May.READ, 200),
    "GET /webhooks/<webhook_id>/edit": Route(May.READ, 200),
    "POST /webhooks/<webhook_id>/edit": Route(May.ADMIN, 303, form={"url": "https://hooks.example.com/changed"}),
    "GET /webhooks/<webhook_id>/rotate": Route(May.READ, 200),
    "GET /webhooks/<webhook_id>/disable": Route(May.READ, 200),
    "GET /webhooks/<webhook_id>/deliveries/<delivery_id>": Route(May.READ, 200),
    "GET /webhooks/<webhook_id>/delete": Route(May.READ, 200),
    "POST /webhooks/<webhook_id>/delete": Route(May.ADMIN, 303),
    "POST /webhooks/<webhook_id>/disable": Route(May.ADMIN, 303),
    "POST /webhooks/<webhook_id>/enable": Route(May.ADMIN, 303),
    "POST /webhooks/<webhook_id>/ping": Route(May.ADMIN, 303),
    "POST /webhooks/<webhook_id>/rotate": Route(May.ADMIN, 200),
    "POST /webhooks/<webhook_id>/deliveries/<delivery_id>/redeliver": Route(May.ADMIN, 303),
    "GET /keys": Route(May.ADMIN, 200),
    "POST /keys": Route(May.ADMIN, 201, form={"name": "made", "scope": "read"}),
    "GET /keys/<key_id>/revoke": Route(May.ADMIN, 200),
    "POST /keys/<key_id>/revoke": Route(May.ADMIN, 303),
    "GET /activity": Route(May.ADMIN, 200),
    "GET /system": Route(May.OPERATE_READ, 200),
    "GET /workspaces": Route(May.OPERATE_READ, 200),
    "POST /workspaces": Route(May.OPERATE_ADMIN, 303, form={"slug": "{slug}", "name": "made"}),
    "GET /workspaces/<workspace_id>": Route(May.OPERATE_READ, 200),
    "POST /workspaces/<workspace_id>": Route(May.OPERATE_ADMIN, 303, form={"name": "changed", **_ACCOUNTS}),
    "GET /workspaces/<workspace_id>/delete": Route(May.OPERATE_READ, 200),
    "POST /workspaces/<workspace_id>/delete": Route(May.OPERATE_ADMIN, 409),
}
"""Method and rule -> who may do it, and what it responds with then."""
