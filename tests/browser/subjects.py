"""Agents to look at, and what people do at Twilio's own console."""

from sqlalchemy import delete, text

from app.db.access import ApiKey
from app.db.models import Base
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually
from tests.support.stage import Console


def provisioned(stack: Stack, name: str, number: str) -> str:
    """Bring an agent's number up over the API; return the agent's id."""
    agent_id = stack.api.agent(name)
    stack.api.provision(agent_id, number)
    eventually(lambda: stack.api.phone(agent_id)["hasPhone"], "the number is provisioned")
    return agent_id


def take_off_trunk(stack: Stack, sandbox: Sandbox, agent_id: str) -> None:
    """Take the agent's number off its trunk behind our back."""
    ids = stack.api.phone(agent_id)
    Console(sandbox).twilio("DELETE", f"/v1/Trunks/{ids['twilioTrunkSid']}/PhoneNumbers/{ids['twilioPhoneNumberSid']}")


def forget_all(stack: Stack) -> None:
    """Delete every row but the keys: agents of an earlier test are gone from the sandbox too."""
    with stack.sessions.begin() as session:
        # Whoever is at work takes this lock first: it ends, and we do not meet half-way.
        session.execute(text("LOCK TABLE operations IN ACCESS EXCLUSIVE MODE"))
        for table in reversed(Base.metadata.sorted_tables):
            if table is not ApiKey.__table__:
                session.execute(delete(table))
