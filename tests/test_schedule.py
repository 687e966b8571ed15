"""The learning rate from step to step."""

from itertools import pairwise

import pytest

from starling import schedule


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [(0.0, [1, 3 / 4, 2 / 4, 1 / 4]), (0.5, [1 / 2, 1, 2 / 3, 1 / 3]), (0.1, [1, 3 / 4, 2 / 4, 1 / 4])],
)
def test_linear_rises_to_one_and_falls_to_zero_after_the_last_step(warmup: float, expected: list[float]) -> None:
    assert [schedule.share("linear", step, 4, warmup) for step in (1, 2, 3, 4)] == pytest.approx(expected)


def test_constant_stays_at_one_once_it_has_risen() -> None:
    # 5 % of 40 steps are 2: half the rate, then all of it to the end
    assert [schedule.share("constant", step, 40, 0.05) for step in (1, 2, 3, 40)] == [0.5, 1, 1, 1]


def test_cosine_by_hand() -> None:
    # one step of rise, then 4 to zero: (1 - cos(pi left)) / 2 for left = 4/4, 3/4, 2/4, 1/4; cos(3 pi/4) = -0.70711
    shares = [schedule.share("cosine", step, 4, 0.0) for step in (1, 2, 3, 4)]
    assert shares == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


@pytest.mark.parametrize("kind", ["linear", "constant", "cosine"])
def test_every_schedule_rises_alike_and_never_falls_to_zero_before_the_end(kind: str) -> None:
    shares = [schedule.share(kind, step, 100, 0.1) for step in range(1, 101)]
    assert shares[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert all(later <= earlier for earlier, later in pairwise(shares[9:]))
    assert min(shares) > 0


@pytest.mark.parametrize(
    ("every", "steps", "looks"),
    [
        (0, 8, [2, 4, 6, 8]),
        (0, 5, [2, 3, 4, 5]),
        (0, 3, [1, 2, 3]),
        (0, 1, [1]),
        (3, 8, [3, 6, 8]),
        (9, 8, [8]),
        (4, 8, [4, 8]),
    ],
)
def test_looks_come_at_each_quarter_or_every_so_many_steps_and_after_the_last(
    every: int, steps: int, looks: list[int]
) -> None:
    assert [
        step for step in range(1, steps + 1) if schedule.is_look_due(every, step, (step - 1) / steps, step / steps)
    ] == looks
    assert schedule.num_looks(every, steps) == len(looks)
