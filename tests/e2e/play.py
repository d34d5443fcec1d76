"""Plays many cases of the matrix side by side: brings each to its point, makes the trouble, lets them end."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.cases import ALL_POINTS, Case, Path, Trouble
from tests.e2e.invariants import check
from tests.e2e.rows import resting, rows_of, statuses, step_states
from tests.e2e.subjects import new_subject
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually

POSTS_AT_ONCE = 8
"""Clients: enough that the first case has not yet passed its point when the last one starts."""

KINDS: dict[Trouble, tuple[tuple[str, int | None], ...]] = {
    Trouble.REFUSED: (("reject", None),),
    Trouble.PASSING: (("429", 1), ("503_html", 1), ("drop_before", 1)),
    Trouble.LASTING: (("503_html", None),),
    Trouble.LOST: (("apply_then_drop", 1),),
    Trouble.KILLED_BEFORE: (("hang", None),),
    Trouble.KILLED_AFTER: (("hold_after", None),),
    Trouble.KILLED_STORED: (("hold_after", None),),
    Trouble.STOOD_STILL: (("pause", None),),
}
"""What the sandbox does, and how many times; None: until healed."""

GATE = "twilio_number_attachment"
"""Where a case of rollback waits until the ids of what is to be undone are known: all but verification is done."""


USUAL = (Path.PROVISION, Path.ROLLBACK, Path.DEPROVISION)
"""The paths of most troubles; a cancellation is of interest where something is under way for long."""


def withdraw(sandbox: Sandbox, fault_id: str) -> None:
    """Take one fault away, and let go what it holds."""
    sandbox.delete_fault(fault_id)


class Play:
    """A set of cases on one stack."""

    def __init__(self, stack: Stack, sandbox: Sandbox, troubles: Sequence[Trouble], *paths: Path) -> None:
        self._stack = stack
        self._sandbox = sandbox
        self._gates: list[str] = []
        self.cases: list[Case] = []
        for trouble in troubles:
            self.add(trouble, *(paths or USUAL))

    def add(self, trouble: Trouble, *paths: Path) -> None:
        """Add a case for every point on these paths."""
        for path, point in ALL_POINTS:
            if path in paths:
                # Attaching takes a voice application off the number, not a voice URL: only one is there to put back.
                has_application = point.name == "restore" or len(self.cases) % 2
                routing = {"voiceApplicationSid": f"AP{len(self.cases):032x}"} if has_application else {}
                self.cases.append(Case(path, point, trouble, new_subject(self._stack, self._sandbox, **routing)))

    def some(self, *paths: Path) -> list[Case]:
        """Return the cases on these paths."""
        return [case for case in self.cases if case.path in paths]

    def prepare(self) -> None:
        """Bring rollback's cases to the gate and deprovisioning's to PROVISIONED; put up the faults."""
        back, off = self.some(Path.ROLLBACK), self.some(Path.DEPROVISION)
        for case in back:
            sid = case.subject.before["sid"]
            self._gates.append(self._sandbox.fault("twilio.attach_number", "429", times=None, contains=sid))
        self._at_once(self._provision, back + off)
        waiting = [case.operation_id for case in back]
        eventually(lambda: len(resting(self._stack.sessions, waiting, GATE)) == len(waiting), "all wait at the gate")
        self.await_end(off)
        for case in self.cases:
            self._arm(case)

    def go(self) -> None:
        """Send every case to its point."""
        for gate in self._gates:
            withdraw(self._sandbox, gate)
        self._at_once(self._start, self.cases)

    def await_held(self) -> None:
        """Wait until every case's request is at its point at the same time."""
        ours = {fault for case in self.cases for fault in case.faults}

        def held() -> bool:
            waiting = {str(each["id"]) for each in self._sandbox.faults() if each["held"]}
            return ours <= waiting

        eventually(held, "every case's request is held at its point")

    def cancel(self) -> None:
        """Cancel the provisionings of these cases, whose requests are held."""
        self._at_once(self._cancel, self.some(Path.CANCEL))

    def await_stored(self) -> None:
        """Wait until the rows say that every case's step is finished."""
        ids = [case.operation_id for case in self.cases]

        def stored() -> bool:
            states = step_states(self._stack.sessions, ids)
            return all(states[case.operation_id, case.point.step] == case.stored for case in self.cases)

        eventually(stored, "every outcome is stored")

    def await_statuses(self, cases: Sequence[Case], is_so: Callable[[Any], bool], what: str) -> None:
        """Wait until the status of each case's operation satisfies `is_so`."""
        ids = [case.operation_id for case in cases]

        def all_so() -> bool:
            return all(is_so(status) for status in statuses(self._stack.sessions, ids).values())

        eventually(all_so, lambda: f"{what}; they are: {self._shown(cases)}")

    def await_end(self, cases: Sequence[Case] | None = None) -> None:
        """Wait until the operations of these cases (all) are final."""
        self.await_statuses(self.cases if cases is None else cases, lambda status: status.is_final, "every case ends")

    def heal(self, cases: Sequence[Case] | None = None) -> None:
        """Take these cases' faults away, once it is sure that each has struck."""
        struck = {str(each["id"]): each["hits"] for each in self._sandbox.faults()}
        for case in self.cases if cases is None else cases:
            for fault in case.faults:
                assert struck[fault] > 0, f"{case.label}: the fault has not struck"
                withdraw(self._sandbox, fault)
            case.faults.clear()

    def retry(self, cases: Sequence[Case]) -> None:
        """Re-enqueue these by hand."""
        self._at_once(lambda case: self._stack.api.retry(case.operation_id), cases)

    def check(self, subtests: pytest.Subtests) -> None:
        """Check each case on its own."""
        for case in self.cases:
            with subtests.test(case.label):
                check(self._stack.sessions, self._sandbox, case.subject, case.ends)
                assert rows_of(self._stack.sessions, case.subject.agent_id).operation.error_code == case.expected_error

    def _arm(self, case: Case) -> None:
        if case.path is Path.ROLLBACK:
            # Verification is what fails: the whole path then has to come down.
            self._sandbox.fault("livekit.list_inbound_trunks", "reject", contains=case.subject.number)
        mark = case.mark(rows_of(self._stack.sessions, case.subject.agent_id))
        # On the way down a refusal is final at once, and the way back may need the same call.
        once = case.path is Path.PROVISION and case.trouble is Trouble.REFUSED
        for kind, times in KINDS[case.trouble]:
            case.faults.append(
                self._sandbox.fault(case.point.operation, kind, times=1 if once else times, contains=mark)
            )

    def _cancel(self, case: Case) -> None:
        # 200 where nothing was asked for yet that could have to be undone.
        status, body = self._stack.api.call("DELETE", f"/api/agents/{case.subject.agent_id}/deprovision-phone")
        assert status in {200, 202}, body

    def _provision(self, case: Case) -> None:
        subject, takeover = case.subject, bool(case.subject.before["voice_application_sid"])
        case.operation_id = self._stack.api.provision(subject.agent_id, subject.number, takeover=takeover)

    def _start(self, case: Case) -> None:
        if case.path in {Path.PROVISION, Path.CANCEL}:
            self._provision(case)
        elif case.path is Path.ROLLBACK:
            self._stack.api.retry(case.operation_id)
        else:
            case.operation_id = self._stack.api.deprovision(case.subject.agent_id)

    def _at_once(self, act: Callable[[Case], None], cases: Sequence[Case]) -> None:
        with ThreadPoolExecutor(POSTS_AT_ONCE) as clients:
            list(clients.map(act, cases))

    def _shown(self, cases: Sequence[Case]) -> list[str]:
        found = statuses(self._stack.sessions, [case.operation_id for case in cases])
        return [f"{case.label}: {found[case.operation_id]} ({case.operation_id})" for case in cases]
