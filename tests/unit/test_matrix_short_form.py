"""What the failure matrix still meets in the short form that the whole suite runs."""

import pytest

from app.domain.operations import STEPS
from tests.e2e.cases import Failure, Path, Trunks
from tests.e2e.matrix import HANGS, KILLS, MATRIX, REFUSALS, Block, Shape

SHORT = [shape for block in MATRIX for shape in block.shapes(is_short=True)]

WHOLE = [shape for block in MATRIX for shape in block.shapes(is_short=False)]


@pytest.mark.parametrize("alike", [REFUSALS, KILLS, HANGS], ids=["refusals", "kills", "hangs"])
def test_what_three_failures_that_are_alike_meet_together_is_every_call(alike: tuple[Block, ...]) -> None:
    def met(*, is_short: bool) -> set[Shape]:
        shapes = [shape for block in alike for shape in block.shapes(is_short=is_short)]
        return {shape._replace(failure=alike[0].failure) for shape in shapes}

    assert met(is_short=True) == met(is_short=False)


def test_every_failure_is_there_on_every_path_with_every_kind_of_trunk() -> None:
    assert {(each.failure, each.path, each.trunks) for each in SHORT} == {
        (each.failure, each.path, each.trunks) for each in WHOLE
    }


def test_no_step_path_failure_or_kind_of_trunk_is_left_out() -> None:
    assert {each.point.step for each in SHORT} == {step.name for step in STEPS}
    assert {each.path for each in SHORT} == set(Path)
    assert {each.failure for each in SHORT} == set(Failure)
    assert {each.trunks for each in SHORT} == set(Trunks)


def test_it_is_a_part_of_the_whole_and_two_fifths_of_it_at_most() -> None:
    assert set(SHORT) < set(WHOLE)
    assert len(SHORT) * 5 <= len(WHOLE) * 2
