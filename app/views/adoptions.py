"""Request and response bodies of adoptions, and what a preview of one shows."""

from dataclasses import dataclass
from typing import Any

from marshmallow import fields

from app.domain.operations import COLUMNS, NUMBER, STEP_BY_NAME, PathChoice
from app.domain.options import options_json
from app.numbers.adoption import Adoption
from app.views.agent_schemas import NUMBER as EXAMPLE_NUMBER
from app.views.agent_schemas import TRUNK_SID, Query, phone_number_field, text
from app.views.fields import Schema, Strict, choice


class AdoptIn(Strict):
    """The number whose path becomes the agent's."""

    phone_number = phone_number_field()


class DeprovisionQuery(Query):
    """What becomes of a path that was adopted."""

    path = choice(
        PathChoice,
        "Of a path that was adopted. keep: Trunkline's marks are taken off, and the number rings on as before. remove: "
        "it is taken down; what other numbers use too stays.",
    )


class AdoptedLinkOut(Schema):
    """One object on the number's path."""

    step = text("Which one, by the step that would make it.", "twilio_trunk")
    id = text("Its id at the provider.", TRUNK_SID)
    name = text("Its name there.", "Front desk line")
    is_marked = fields.Boolean(
        data_key="marked", metadata={"description": "Whether Trunkline's mark would be written on it.", "example": True}
    )
    shared_with = text(
        "Who else uses it, so that it is never changed or deleted; null for nobody.",
        "2 other numbers on Twilio trunk " + TRUNK_SID,
        data_key="sharedWith",
        allow_none=True,
    )


class AdoptingAgentOut(Schema):
    """The agent as it would be."""

    name = text("What people call it.", "Front desk")
    livekit_agent_name = text("The agent that callers get, now and then.", "front-desk", data_key="livekitAgentName")
    agent_metadata = fields.Dict(data_key="metadata", metadata={"example": {"lang": "fr"}})
    options = fields.Dict(metadata={"description": "As the agent has them then.", "example": {"call": {"krisp": True}}})
    changes = fields.List(
        fields.String(),
        metadata={
            "description": "The fields in which it is not so today.",
            "example": ["livekitAgentName", "options"],
        },
    )


class AdoptionPlanOut(Schema):
    """What adopting the number's path would do: nothing but marks is written."""

    success = fields.Boolean(metadata={"example": True})
    is_dry_run = fields.Boolean(data_key="dryRun", metadata={"example": True})
    phone_number = text("The number.", EXAMPLE_NUMBER, data_key="phoneNumber")
    path = fields.List(fields.Nested(AdoptedLinkOut), metadata={"description": "In the order of a call."})
    agent = fields.Nested(AdoptingAgentOut)


@dataclass(frozen=True, slots=True)
class AdoptedLink:
    """One object on the path of a number that may be adopted."""

    step: str
    label: str
    id: str
    name: str
    is_marked: bool
    shared_with: str | None


def adopted_links(adoption: Adoption) -> list[AdoptedLink]:
    """Return the objects of the path, in the order of a call."""
    chain = adoption.chain
    spec = chain.spec
    names = {step: one.name for step, one in spec.adopted.items()} | {NUMBER: spec.phone_number}
    return [
        AdoptedLink(
            step,
            STEP_BY_NAME[step].label,
            spec.ids[step],
            names[step],
            step in spec.adopted and step not in chain.shared,
            chain.shared.get(step),
        )
        for step in COLUMNS
    ]


_CHANGES = {
    "name": "name",
    "livekit_agent_name": "livekitAgentName",
    "metadata": "metadata",
    "options": "options",
}
"""Column of an agent -> its name in the API."""


def agent_changes(adoption: Adoption) -> list[str]:
    """Return the fields of the agent that an adoption changes, by their names in the API."""
    return [name for column, name in _CHANGES.items() if column in adoption.wanted]


def adoption_body(adoption: Adoption) -> dict[str, Any]:
    """Return the body of `AdoptionPlanOut`."""
    spec = adoption.chain.spec
    return {
        "success": True,
        "is_dry_run": True,
        "phone_number": spec.phone_number,
        "path": adopted_links(adoption),
        "agent": {
            "name": adoption.name,
            "livekit_agent_name": spec.agent_name,
            "agent_metadata": dict(adoption.chain.metadata),
            "options": options_json(spec.options),
            "changes": agent_changes(adoption),
        },
    }
