"""Runs many cases of the matrix side by side: brings each to its call, causes the failure, lets them end."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.domain.operations import OperationStatus, PhoneStatus, TrunkMode
from tests.e2e.assignments import add_unmade_trunk, new_assignment, put_on_trunk
from tests.e2e.cases import UPDATES, Case, Failure, Path, Trunks
from tests.e2e.found_paths import add_found_path, check_found_path, objects_of
from tests.e2e.invariants import State, check_end, check_pool
from tests.e2e.matrix import Shape
from tests.e2e.rows import failed_and_waiting, rows_of, statuses, step_states, wait_until_finished
from tests.e2e.updates import check_update, found_standing, make_trunk_of_the_options, patch_of
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually

POSTS_AT_ONCE = 8
"""Clients: enough that the first case has not passed its call when the last one starts."""

TRUNK_LIMIT = 1_000
"""Of the account: twice the cases that a test has at most."""

FAULTS_OF: dict[Failure, tuple[tuple[str, int | None], ...]] = {
    Failure.REFUSED: (("reject", None),),
    Failure.TRANSIENT: (("429", 1), ("503_html", 1), ("drop_before", 1)),
    Failure.PERMANENT: (("503_html", None),),
    Failure.RESPONSE_LOST: (("apply_then_drop", 1),),
    Failure.KILLED_BEFORE: (("hang", None),),
    Failure.KILLED_AFTER: (("hold_after", None),),
    Failure.KILLED_STORED: (("hold_after", None),),
    Failure.PROVIDER_HUNG: (("pause", None),),
}
"""What the sandbox does, and how many times; None: until the fault is removed."""


class CaseRunner:
    """A set of cases on one stack."""

    def __init__(self, stack: Stack, sandbox: Sandbox, shapes: Sequence[Shape]) -> None:
        self._stack = stack
        self._sandbox = sandbox
        self._gates: list[str] = []
        # Every case's own trunk may stand at the same time, and more of them than an account has at first.
        sandbox.switch(trunkLimit=TRUNK_LIMIT)
        self.cases: list[Case] = []
        if any(shape.trunks is Trunks.STANDING for shape in shapes):
            first = new_assignment(stack, sandbox)
            wait_until_finished(stack, [stack.api.provision(first.agent_id, first.number)])
        if any(shape.trunks is Trunks.STANDING and shape.path in UPDATES for shape in shapes):
            make_trunk_of_the_options(stack, sandbox)
        for shape in shapes:
            self._add(shape)

    def _add(self, shape: Shape) -> None:
        """Add a case with an agent and a number of its own."""
        _, trunks, point, _ = shape
        if trunks is Trunks.FOUND:
            assignment, ids = add_found_path(self._stack, self._sandbox)
            found = objects_of(self._sandbox.state(), ids)
            self.cases.append(Case(*shape, assignment, ids, found))
            return
        # Attaching removes a voice application from the number, not a voice URL: only that is restored.
        has_application = point.name == "restore" or len(self.cases) % 2
        routing = {"voiceApplicationSid": f"AP{len(self.cases):032x}"} if has_application else {}
        mode = TrunkMode.DEDICATED if trunks is Trunks.OWN else TrunkMode.SHARED
        case = Case(*shape, new_assignment(self._stack, self._sandbox, mode, **routing))
        if trunks is Trunks.MISSING:
            case.other = new_assignment(self._stack, self._sandbox)
            case.trunk_id = add_unmade_trunk(self._stack, self._sandbox)
            put_on_trunk(self._stack, case.assignment, case.trunk_id)
        self.cases.append(case)

    def on_paths(self, *paths: Path) -> list[Case]:
        """Return the cases on these paths."""
        return [case for case in self.cases if case.path in paths]

    def in_status(self, cases: Sequence[Case], status: OperationStatus) -> list[Case]:
        """Return those of these cases whose operation has this status."""
        found = statuses(self._stack.sessions, [case.operation_id for case in cases])
        return [case for case in cases if found[case.operation_id] is status]

    def prepare(self) -> None:
        """Bring rollback's cases to the gate, and those with a number that rings so far; add the faults."""
        back, off = self.on_paths(Path.ROLLBACK), self.on_paths(Path.DEPROVISION)
        updates = [case for case in self.cases if case.is_update]
        self._in_parallel(self._provision, self._gated(back) + off + updates)
        self.await_end(off + updates)
        for case in updates:
            case.standing = found_standing(self._stack, self._sandbox, case.assignment)
        changed = self._gated(self.on_paths(Path.UPDATE_ROLLBACK))
        self._in_parallel(self._update, changed)
        back += changed

        def all_wait() -> bool:
            return all(
                len(failed_and_waiting(self._stack.sessions, ids, step)) == len(ids) for step, ids in waiting.items()
            )

        waiting = {
            step: [case.operation_id for case in back if case.gate.step == step]
            for step in {case.gate.step for case in back}
        }
        eventually(all_wait, "all wait at the gate")
        for case in self.cases:
            self._add_faults(case)

    def _gated(self, cases: list[Case]) -> list[Case]:
        """Have these cases wait at their gates."""
        for case in cases:
            which = case.assignment.number if case.gate.mark == "number" else case.assignment.before["sid"]
            self._gates.append(self._sandbox.fault(case.gate.operation, "429", times=None, contains=which))
        return cases

    def start_cases(self) -> None:
        """Start every case on its way to its call."""
        for gate in self._gates:
            self._sandbox.delete_fault(gate)
        self._in_parallel(self._start, self.cases)

    def start_others(self) -> None:
        """Start those who share a trunk with a case, once its failure has happened."""
        self._in_parallel(self._start_other, self.cases)

    def await_hits(self) -> None:
        """Wait until each case that makes a shared trunk has met its failure."""
        makers = [case for case in self.cases if case.other]

        def all_hit() -> bool:
            hit = {str(each["id"]) for each in self._sandbox.faults() if each["hits"]}
            return all(hit.intersection(case.faults) for case in makers)

        eventually(all_hit, "each trunk's maker meets its failure")

    def await_held(self) -> None:
        """Wait until the sandbox holds every case's request at the same time."""
        ours = {fault for case in self.cases for fault in case.faults}

        def held() -> bool:
            waiting = {str(each["id"]) for each in self._sandbox.faults() if each["held"]}
            return ours <= waiting

        eventually(held, "every case's request is held")

    def cancel(self) -> None:
        """Cancel the provisionings of these cases, whose requests are held."""
        self._in_parallel(self._cancel, self.on_paths(Path.CANCEL))

    def await_stored(self) -> None:
        """Wait until the rows say that every case's step is finished."""
        ids = [case.operation_id for case in self.cases]

        def stored() -> bool:
            states = step_states(self._stack.sessions, ids)
            return all(states[case.operation_id, case.point.step] == case.stored for case in self.cases)

        eventually(stored, "every outcome is stored")

    def await_statuses(self, cases: Sequence[Case], condition: Callable[[Any], bool], what: str) -> None:
        """Wait until the status of each case's operation satisfies `condition`."""
        ids = [case.operation_id for case in cases]

        def all_satisfy() -> bool:
            return all(condition(status) for status in statuses(self._stack.sessions, ids).values())

        eventually(all_satisfy, lambda: f"{what}; they are: {self._shown(cases)}")

    def await_end(self, cases: Sequence[Case] | None = None) -> None:
        """Wait until the operations of these cases (all) are final."""
        cases = self.cases if cases is None else cases
        self.await_statuses(cases, lambda status: status.is_final, "every case ends")
        wait_until_finished(self._stack, [case.other_id for case in cases if case.other_id])

    def clear_faults(self, cases: Sequence[Case] | None = None) -> None:
        """Remove these cases' faults, once it is certain that each has been hit."""
        hits = {str(each["id"]): each["hits"] for each in self._sandbox.faults()}
        for case in self.cases if cases is None else cases:
            for fault in case.faults:
                assert hits[fault] > 0, f"{case.label}: the fault was not hit; {self._how_it_ended(case)}"
                self._sandbox.delete_fault(fault)
            case.faults.clear()

    def retry(self, cases: Sequence[Case]) -> None:
        """Retry these operations by hand, except one that has just come to its end by itself."""
        self._in_parallel(self._retry, cases)

    def check(self, subtests: pytest.Subtests) -> None:
        """Check each case on its own, with one look at the providers for all: every one of them has ended."""
        with subtests.test("the shared trunks"):
            check_pool(self._stack.sessions, self._sandbox)
        state = self._sandbox.state()
        for case in self.cases:
            with subtests.test(case.label):
                self._check_case(case, state)

    def _check_case(self, case: Case, state: State) -> None:
        rows = rows_of(self._stack.sessions, case.assignment.agent_id)
        if case.standing:
            check_update(rows, state, self._sandbox, case.assignment, case.standing, is_done=not case.fails)
        else:
            check_end(rows, state, self._sandbox, case.assignment, case.expected_status)
        check_found_path(state, case.found, case.ids, case.expected_status)
        if case.other and case.other_id:
            others = rows_of(self._stack.sessions, case.other.agent_id)
            check_end(others, state, self._sandbox, case.other, PhoneStatus.PROVISIONED)
        assert rows.operation.error_code == case.expected_error

    def _add_faults(self, case: Case) -> None:
        if case.path in {Path.ROLLBACK, Path.UPDATE_ROLLBACK}:
            # Verification fails, so that the whole path is rolled back.
            self._sandbox.fault("livekit.list_inbound_trunks", "reject", contains=case.assignment.number)
        mark = case.mark(rows_of(self._stack.sessions, case.assignment.agent_id))
        # On the way down one refusal is final, and the rollback may need the same call.
        once = case.path in {Path.PROVISION, Path.UPDATE} and case.failure is Failure.REFUSED
        for kind, times in FAULTS_OF[case.failure]:
            case.faults.append(
                self._sandbox.fault(case.point.operation, kind, times=1 if once else times, contains=mark)
            )

    def _cancel(self, case: Case) -> None:
        # 200 where nothing has been requested yet that might have to be undone.
        status, body = self._stack.api.call("DELETE", f"/api/agents/{case.assignment.agent_id}/deprovision-phone")
        assert status in {200, 202}, body

    def _provision(self, case: Case) -> None:
        """Request the number for the case's agent, which adopts a path that was made by hand."""
        if case.trunks is Trunks.FOUND:
            self._ask(case, "POST", "/adopt-phone", {"phoneNumber": case.assignment.number})
            return
        assignment, takeover = case.assignment, bool(case.assignment.before["voice_application_sid"])
        case.operation_id = self._stack.api.provision(assignment.agent_id, assignment.number, takeover=takeover)

    def _update(self, case: Case) -> None:
        self._ask(case, "PATCH", "", patch_of(case.assignment))

    def _ask(self, case: Case, method: str, path: str, body: Mapping[str, Any]) -> None:
        """Send a request about the agent that calls the providers before it is accepted."""
        answers: list[tuple[int, Any]] = []

        def is_accepted() -> bool:
            # 503: the web process has as many requests that call a provider as it takes at a time.
            answers.append(self._stack.api.call(method, f"/api/agents/{case.assignment.agent_id}{path}", body))
            assert answers[-1][0] in {202, 503}, answers[-1]
            return answers[-1][0] == 202

        eventually(is_accepted, lambda: f"{case.label}: {method} is accepted; {answers[-1:]}")
        case.operation_id = str(answers[-1][1]["operationId"])

    def _start_other(self, case: Case) -> None:
        if case.other and case.trunk_id:
            put_on_trunk(self._stack, case.other, case.trunk_id)
            case.other_id = self._stack.api.provision(case.other.agent_id, case.other.number)

    def _start(self, case: Case) -> None:
        if case.path in {Path.PROVISION, Path.CANCEL}:
            self._provision(case)
        elif case.path is Path.UPDATE:
            self._update(case)
        elif case.path in {Path.ROLLBACK, Path.UPDATE_ROLLBACK}:
            self._retry(case)
        else:
            path = "keep" if case.trunks is Trunks.FOUND else None
            case.operation_id = self._stack.api.deprovision(case.assignment.agent_id, path)

    def _retry(self, case: Case) -> None:
        # Looked at just before: a retry of what has failed meanwhile would provision anew.
        if not statuses(self._stack.sessions, [case.operation_id])[case.operation_id].is_final:
            self._stack.api.retry(case.operation_id)

    def _in_parallel(self, act: Callable[[Case], None], cases: Sequence[Case]) -> None:
        with ThreadPoolExecutor(POSTS_AT_ONCE) as clients:
            list(clients.map(act, cases))

    def _how_it_ended(self, case: Case) -> str:
        rows = rows_of(self._stack.sessions, case.assignment.agent_id)
        steps = [(step.name, step.state.value, step.attempts, step.error_code) for step in rows.steps]
        return f"{rows.operation.status.value} ({rows.operation.error_code}), its steps: {steps}"

    def _shown(self, cases: Sequence[Case]) -> list[str]:
        found = statuses(self._stack.sessions, [case.operation_id for case in cases])
        return [f"{case.label}: {found[case.operation_id]} ({case.operation_id})" for case in cases]
