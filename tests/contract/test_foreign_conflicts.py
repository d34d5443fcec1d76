"""Objects of others that LiveKit cannot have beside ours: through the step and the adapter, over HTTP.

Two trunks without numbers come about when two are created at the same moment: LiveKit looks, and then writes. So the
sandbox is given the second one behind its back.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from livekit import api

from app.dev.sandbox import LIVEKIT_API_KEY, LIVEKIT_API_SECRET
from app.dev.sandbox.application import SandboxApp, create_sandbox
from app.domain.errors import ErrorCode
from app.domain.operations import INBOUND_TRUNK
from app.providers.errors import RejectedError
from app.providers.livekit import LiveKitPlatform
from app.saga.context import StepContext
from app.saga.livekit_steps import create_dispatch_rule, create_inbound_trunk
from tests.support.saga import E164
from tests.support.step_context import make_context

OURS = "ST_ours22222222"
INDIVIDUAL = api.SIPDispatchRule(dispatch_rule_individual=api.SIPDispatchRuleIndividual(room_prefix="theirs"))


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Project:
    """A sandbox in this process, with the adapter for it."""

    application: SandboxApp
    platform: LiveKitPlatform

    def put_trunk(self, trunk_id: str, *numbers: str, name: str = "") -> None:
        info = api.SIPInboundTrunkInfo(
            sip_trunk_id=trunk_id, name=name, numbers=numbers, allowed_addresses=["192.0.2.0/24"]
        )
        self.application.sandbox.store.put("livekit_trunks", trunk_id, info)

    def put_rule(self, rule_id: str, *trunk_ids: str) -> None:
        info = api.SIPDispatchRuleInfo(sip_dispatch_rule_id=rule_id, trunk_ids=trunk_ids, rule=INDIVIDUAL)
        self.application.sandbox.store.put("livekit_rules", rule_id, info)

    def context(self, **ids: str) -> StepContext:
        context = make_context(ids=ids)
        return replace(context, tools=replace(context.tools, platform=self.platform))


@contextmanager
def served(application: SandboxApp) -> Iterator[str]:
    with make_server("127.0.0.1", 0, application, _Server, _Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def project() -> Iterator[Project]:
    application = create_sandbox()
    with served(application) as url:
        platform = LiveKitPlatform(url, LIVEKIT_API_KEY, LIVEKIT_API_SECRET, timeout_s=5)
        yield Project(application, platform)
        platform.close()
    application.close()


def test_two_foreign_trunks_without_numbers_are_named_with_what_livekit_said(project: Project) -> None:
    project.put_trunk("ST_a22222222222", name="Office")
    project.put_trunk("ST_b22222222222")
    with pytest.raises(RejectedError) as caught:
        create_inbound_trunk(project.context())
    assert caught.value.code is ErrorCode.LIVEKIT_NUMBER_CONFLICT
    begin, _, said = caught.value.detail.partition(" LiveKit refused ")
    assert begin == (
        'LiveKit trunks ST_a22222222222 ("Office") and ST_b22222222222 both take any number: '
        "LiveKit refuses every new trunk until one is changed."
    )
    assert said.startswith('create_inbound_trunk: HTTP 400, code invalid_argument. LiveKit said: "Conflicting inbound')
    assert "ST_b22222222222" in said


def test_a_foreign_trunk_with_the_number_is_named_whatever_its_form(project: Project) -> None:
    project.put_trunk("ST_a22222222222", f"1 ({E164[2:5]}) {E164[5:8]}-{E164[8:]}", name="Office")
    with pytest.raises(RejectedError) as caught:
        create_inbound_trunk(project.context())
    assert caught.value.code is ErrorCode.LIVEKIT_NUMBER_CONFLICT
    assert caught.value.detail.startswith('LiveKit trunk ST_a22222222222 ("Office") has the number. LiveKit refused ')
    assert E164[5:] not in caught.value.detail


def test_two_foreign_rules_without_trunks_are_named(project: Project) -> None:
    project.put_rule("SDR_a22222222222")
    project.put_rule("SDR_b22222222222")
    with pytest.raises(RejectedError) as caught:
        create_dispatch_rule(project.context(**{INBOUND_TRUNK: OURS}))
    assert caught.value.code is ErrorCode.LIVEKIT_RULE_CONFLICT
    assert caught.value.detail.startswith(
        "LiveKit dispatch rules SDR_a22222222222 and SDR_b22222222222 take the same calls: "
        "LiveKit refuses every new rule until one is changed. LiveKit refused create_dispatch_rule: HTTP 400, "
    )


def test_a_foreign_rule_that_has_our_trunk_is_named(project: Project) -> None:
    project.put_rule("SDR_a22222222222", OURS)
    with pytest.raises(RejectedError) as caught:
        create_dispatch_rule(project.context(**{INBOUND_TRUNK: OURS}))
    assert caught.value.detail.startswith("LiveKit dispatch rule SDR_a22222222222 has the trunk. LiveKit refused ")
