"""LiveKit's rooms while calls stand in them, and the services that show them: RoomService, AgentDispatchService."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from livekit.protocol import agent_dispatch, room
from livekit.protocol.agent_dispatch import AgentDispatch
from livekit.protocol.models import ParticipantInfo, Room
from livekit.protocol.room import RoomConfiguration

from app.dev.sandbox.livekit_wire import TwirpError, new_id

if TYPE_CHECKING:
    from app.dev.sandbox.state import Sandbox

EMPTY_TIMEOUT_S, DEPARTURE_TIMEOUT_S = 300, 20
"""Seconds that a room says of itself when its rule does not (livekit/livekit config-sample.yaml, room)."""

MS_PER_S = 1000


class LiveRoom:
    """One room, from the moment when a caller joins until the last one has left."""

    def __init__(self, name: str, config: RoomConfiguration) -> None:
        now = time.time()
        self.room = Room(
            sid=new_id("RM_"),
            name=name,
            empty_timeout=config.empty_timeout or EMPTY_TIMEOUT_S,
            departure_timeout=config.departure_timeout or DEPARTURE_TIMEOUT_S,
            max_participants=config.max_participants,
            metadata=config.metadata,
            creation_time=int(now),
            creation_time_ms=int(now * MS_PER_S),
        )
        self.dispatches = [
            AgentDispatch(
                id=new_id("AD_"),
                agent_name=agent.agent_name,
                room=name,
                metadata=agent.metadata,
                attributes=dict(agent.attributes),
            )
            for agent in config.agents
        ] or [AgentDispatch(id=new_id("AD_"), room=name)]
        self.participants: dict[str, ParticipantInfo] = {}
        """By identity."""

    def join(self, participant: ParticipantInfo) -> ParticipantInfo | None:
        """Let somebody in; return the one of the same identity who has to go for it."""
        now = time.time()
        participant.sid = new_id("PA_")
        participant.state = ParticipantInfo.State.ACTIVE
        participant.joined_at, participant.joined_at_ms = int(now), int(now * MS_PER_S)
        participant.is_publisher = True
        former = self.participants.pop(participant.identity, None)
        self.participants[participant.identity] = participant
        return former

    def add_agent(self, agent: str) -> None:
        """Let an agent in that is not there yet; "" is a worker without a name."""
        if all(each.name != agent for each in self.participants.values() if each.kind == ParticipantInfo.Kind.AGENT):
            identity = new_id("agent-AJ_")
            self.join(ParticipantInfo(identity=identity, name=agent, kind=ParticipantInfo.Kind.AGENT))

    @property
    def has_callers(self) -> bool:
        """Whether anybody but agents is there."""
        return bool(self._callers())

    def is_full_for(self, identity: str) -> bool:
        """Say whether a caller does not get in; one of the same identity goes for him, and agents do not count."""
        others = [each for each in self._callers() if each.identity != identity]
        return 0 < self.room.max_participants <= len(others)

    def _callers(self) -> list[ParticipantInfo]:
        return [each for each in self.participants.values() if each.kind != ParticipantInfo.Kind.AGENT]

    def shown(self) -> Room:
        """Return the room with its counts."""
        self.room.num_participants = self.room.num_publishers = len(self.participants)
        return self.room


class Rooms:
    """The rooms of every project; used under the store's lock."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, str], LiveRoom] = {}

    def of(self, project: str) -> Iterator[LiveRoom]:
        """Yield a project's rooms, oldest first."""
        return (each for (owner, _), each in self._rooms.items() if owner == project)

    def get(self, project: str, name: str) -> LiveRoom | None:
        """Return a room, or None."""
        return self._rooms.get((project, name))

    def opened(self, project: str, name: str, config: RoomConfiguration) -> LiveRoom:
        """Return a room, made if it is not there; `config` means nothing to one that is (livekit roommanager.go)."""
        return self._rooms.setdefault((project, name), LiveRoom(name, config))

    def leave(self, project: str, name: str, sid: str) -> None:
        """Let a participant go; the room goes with the last caller. Timeouts of rooms are not waited for."""
        left = self._rooms.get((project, name))
        if left is None:
            return
        for identity in [identity for identity, each in left.participants.items() if each.sid == sid]:
            del left.participants[identity]
        if not left.has_callers:
            del self._rooms[project, name]


def list_rooms(sandbox: "Sandbox", request: room.ListRoomsRequest) -> room.ListRoomsResponse:
    """List the rooms of these names, or all."""
    rooms = [each.shown() for each in sandbox.rooms.of(sandbox.project)]
    return room.ListRoomsResponse(rooms=[each for each in rooms if not request.names or each.name in request.names])


def list_participants(sandbox: "Sandbox", request: room.ListParticipantsRequest) -> room.ListParticipantsResponse:
    """List who is in a room; nobody is in one that does not exist (livekit/livekit pkg/service/roomservice.go)."""
    found = sandbox.rooms.get(sandbox.project, request.room)
    return room.ListParticipantsResponse(participants=found.participants.values() if found else [])


def list_dispatches(
    sandbox: "Sandbox", request: agent_dispatch.ListAgentDispatchRequest
) -> agent_dispatch.ListAgentDispatchResponse:
    """List what was dispatched to a room, or the one dispatch that is named.

    A room's own server is asked, so that for one that does not exist nobody responds (livekit/livekit
    pkg/service/agent_dispatch_service.go; livekit/psrpc errors.go, ErrNoResponse).
    """
    found = sandbox.rooms.get(sandbox.project, request.room)
    if found is None:
        raise TwirpError("unavailable", "twirp error unknown: no response from servers")
    wanted = request.dispatch_id
    dispatches = [each for each in found.dispatches if wanted in ("", each.id)]
    return agent_dispatch.ListAgentDispatchResponse(agent_dispatches=dispatches)
