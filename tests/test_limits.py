"""What holds calls back so that an endpoint can keep up."""

import asyncio
import time

from starling.limits import Gate, Pace


def seconds_for(pace: Pace, *costs: float) -> float:
    async def spend() -> None:
        for cost in costs:
            await pace.wait(cost)

    begun = time.monotonic()
    asyncio.run(spend())
    return time.monotonic() - begun


def test_a_pace_spaces_what_is_asked() -> None:
    # 1200 a minute is one in 0.05 s; the first is free, and so is what fits into the slack of 0.1 s
    assert 0.1 <= seconds_for(Pace(1200), *[1.0] * 5) < 1.0


def test_no_limit_does_not_wait() -> None:
    assert seconds_for(Pace(0), *[1e9] * 5) < 0.1


def test_a_pace_is_corrected_by_what_a_call_turned_out_to_cost() -> None:
    pace = Pace(600)
    asyncio.run(pace.wait(100.0))  # ten seconds' worth
    pace.correct(-100.0)
    assert seconds_for(pace, 1.0) < 0.5


async def crowd(gate: Gate, count: int) -> int:
    """How many were inside at once."""
    inside = most = 0

    async def visit() -> None:
        nonlocal inside, most
        async with gate:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    gate.begin()
    await asyncio.gather(*(visit() for _ in range(count)))
    return most


def test_a_gate_lets_in_so_many_at_once() -> None:
    assert asyncio.run(crowd(Gate(3), 10)) == 3


def test_a_complaint_halves_the_limit_and_complaints_in_flight_together_are_one() -> None:
    gate = Gate(8)
    gate.throttle(0.05)
    gate.throttle(0.05)
    assert gate.limit == 4
    assert asyncio.run(crowd(gate, 9)) == 4


def test_the_limit_never_falls_below_one() -> None:
    gate = Gate(1)
    gate.throttle(0.0)
    assert gate.limit == 1


def test_a_round_of_replies_adds_one_up_to_the_most() -> None:
    gate = Gate(4)
    gate.throttle(0.0)
    limits = []
    for _ in range(12):
        gate.replied()
        limits.append(gate.limit)
    # two replies at a limit of 2, three at 3, then no more
    assert limits == [2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4]
