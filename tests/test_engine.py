"""One thread that answers all requests at once."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch

from starling import models
from starling.engine import Closing, Engine
from starling.errors import StarlingError
from starling.generate import Request, generate, stop_ids
from starling.models import Model

PROMPTS = [(5, 6, 7), (40, 41, 42, 43, 44, 45, 46), (80,), (100, 7, 9, 11)]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return models.load_policy(str(tiny_model), torch.float32)


def asked(count: int) -> list[Request]:
    return [Request(prompt=PROMPTS[at % 4], seed=at, top_p=0.95) for at in range(count)]


async def drawn(engine: Engine, request: Request, cap: int) -> list[int]:
    return [one.token async for one in engine.tokens(request, cap)]


def within_a_minute(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_answers_are_those_of_generate_whoever_else_is_asked_and_whenever(model: Model, slots: int) -> None:
    requests = asked(10)
    caps = [5 + 3 * at for at in range(10)]
    stop = stop_ids(model.network)
    expected = [
        generate(model.network, [r], max_new_tokens=c, stop=stop)[0].ids for r, c in zip(requests, caps, strict=True)
    ]

    async def work() -> None:
        async with Engine(model, slots) as engine:

            async def later(at: int) -> list[int]:
                await asyncio.sleep(0.004 * at)
                return await drawn(engine, requests[at], caps[at])

            assert await asyncio.gather(*map(later, range(10))) == expected
            assert engine.num_jobs == 0

    within_a_minute(work)


def test_an_answer_longer_than_the_first_room_makes_the_slots_grow(model: Model) -> None:
    request = Request(prompt=(5, 6), seed=11, temperature=2.0)
    expected = generate(model.network, [request], max_new_tokens=400, stop=frozenset())[0].ids
    assert len(expected) == 400  # far beyond the room that it begins with
    without_end = models.Model(model.network, model.tokenizer)

    async def work() -> None:
        async with Engine(without_end, 2) as engine:
            found = await asyncio.gather(drawn(engine, request, 400), drawn(engine, asked(1)[0], 3))
            length = len(found[0])
            assert found[0] == expected[:length]
            assert length == 400 or found[0][-1] in stop_ids(model.network)

    within_a_minute(work)


def test_who_stops_listening_makes_room_and_leaves_the_others_alone(model: Model) -> None:
    requests = asked(6)
    stop = stop_ids(model.network)
    expected = [generate(model.network, [r], max_new_tokens=30, stop=stop)[0].ids for r in requests]

    async def work() -> None:
        async with Engine(model, 2) as engine:

            async def impatient(request: Request) -> None:
                async with aclosing(engine.tokens(request, 400)) as answer:
                    async for _token in answer:
                        return

            rest = [drawn(engine, request, 30) for request in requests]
            found = await asyncio.gather(*map(impatient, asked(4)), *rest)
            assert found[4:] == expected
            assert engine.num_jobs == 0

    within_a_minute(work)


def test_who_stops_listening_has_left_at_the_next_token_and_whoever_waits_comes_in(model: Model) -> None:
    async def work() -> None:
        async with Engine(model, 2) as engine:
            stays = engine.tokens(Request(prompt=(5, 6), seed=11, temperature=2.0), 400)
            leaves = engine.tokens(Request(prompt=(7,), seed=12, temperature=2.0), 400)
            waits = engine.tokens(asked(1)[0], 1)
            async with aclosing(stays), aclosing(leaves), aclosing(waits):
                first = [asyncio.ensure_future(anext(answer)) for answer in (stays, leaves, waits)]
                await asyncio.gather(*first[:2])
                assert engine.num_jobs == 3 and not first[2].done()
                await leaves.aclose()
                for _ in range(4):  # one or two were drawn before, unheard
                    await anext(stays)
                assert first[2].done() and engine.num_jobs == 1

    within_a_minute(work)


def test_what_is_asked_of_a_closed_engine_is_refused_and_not_waited_for(model: Model) -> None:
    async def work() -> None:
        async with Engine(model, 1) as engine:
            assert await drawn(engine, asked(1)[0], 2)
        for late in (drawn(engine, asked(1)[0], 2), engine.call(lambda: 1)):
            with pytest.raises(StarlingError, match="the server is closing"):
                await late

    within_a_minute(work)


def test_a_cancelled_listener_leaves_whether_it_waited_or_was_answered(model: Model) -> None:
    async def work() -> None:
        async with Engine(model, 1) as engine:
            never = Request(prompt=(5,), seed=1)
            tasks = [asyncio.create_task(drawn(engine, never, 450)) for _ in range(3)]
            await asyncio.sleep(0.01)
            assert engine.num_jobs > 0
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _ in range(500):
                if not engine.num_jobs:
                    break
                await asyncio.sleep(0.01)
            assert engine.num_jobs == 0
            assert len(await drawn(engine, asked(1)[0], 3)) <= 3  # and the next is served

    within_a_minute(work)


def test_a_model_that_fails_ends_the_answers_aloud_and_serves_the_next(model: Model) -> None:
    async def work() -> None:
        async with Engine(model, 2) as engine:
            with pytest.raises(StarlingError, match=r"the model failed in the middle of an answer: IndexError"):
                await drawn(engine, Request(prompt=(100_000,), seed=1), 4)  # no such token
            assert await drawn(engine, asked(1)[0], 4)

    within_a_minute(work)


def test_closing_ends_answers_under_way_with_a_reason(model: Model) -> None:
    async def work() -> None:
        async with Engine(model, 1) as engine:
            tasks = [asyncio.create_task(drawn(engine, Request(prompt=(5,), seed=1), 450)) for _ in range(2)]
            await asyncio.sleep(0.01)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {str(error) for error in found if isinstance(error, StarlingError)} == {"the server is closing"}
        assert isinstance(found[1], StarlingError)

    within_a_minute(work)


def test_a_call_runs_between_steps_and_its_error_is_its_caller_s(model: Model) -> None:
    async def work() -> None:
        async with Engine(None, 1) as engine:
            assert await engine.call(lambda: 6 * 7) == 42
            with pytest.raises(ZeroDivisionError):
                await engine.call(lambda: 1 // 0)

    within_a_minute(work)


def test_a_call_that_waits_when_the_engine_closes_is_refused_and_the_one_under_way_is_finished() -> None:
    async def work() -> None:
        async with Engine(None, 1) as engine:
            tasks = [asyncio.create_task(engine.call(lambda: time.sleep(0.1))) for _ in range(2)]
            await asyncio.sleep(0.01)
        done, refused = await asyncio.gather(*tasks, return_exceptions=True)
        assert done is None
        assert isinstance(refused, Closing) and str(refused) == "the server is closing"

    within_a_minute(work)


def test_a_call_whose_caller_is_gone_before_its_turn_is_not_made() -> None:
    made = []

    async def work() -> None:
        async with Engine(None, 1) as engine:
            first, second = (asyncio.create_task(engine.call(lambda: made.append(time.sleep(0.1)))) for _ in range(2))
            await asyncio.sleep(0.01)
            second.cancel()
            await first
            await engine.call(lambda: None)
            assert second.cancelled()

    within_a_minute(work)
    assert len(made) == 1
