"""Which K answers to a prompt are kept."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from starling import choice
from starling.config import Generator, SampleTable
from starling.records import Candidate, Message, Prompt

G1, G2 = Generator(name="g1"), Generator(name="g2")
ASKED = [Prompt(id="p", messages=[Message(role="user", content="?")])]


def settings(*generators: Generator, **more: Any) -> SampleTable:
    return SampleTable(generators=generators, **more)


def brought(*answers: str, prompt: str = "p") -> list[Candidate]:
    """Answers from the source, `model:text` each."""
    return [
        Candidate(prompt_id=prompt, model=model, draw=draw, answer=text, finished=True)
        for draw, (model, _, text) in enumerate(answer.partition(":") for answer in answers)
    ]


def given(*texts: str) -> list[Candidate]:
    """Answers of generators g1, g2, ..."""
    return [
        Candidate(prompt_id="p", model=f"g{draw + 1}", draw=draw, answer=text, finished=True)
        for draw, text in enumerate(texts)
    ]


def choose(cfg: SampleTable, sampled: list[Candidate], source: list[Candidate]) -> choice.Choice:
    return choice.choose(ASKED, sampled, choice.by_preference(ASKED, source, cfg, seed=1), cfg)


def texts(chosen: choice.Choice) -> set[str]:
    return {one.answer for one in chosen.from_sources}


def test_without_a_number_all_answers_are_kept() -> None:
    chosen = choose(settings(G1, G2), given("a", "b"), brought("m:c", "n:d"))
    assert texts(chosen) == {"c", "d"}
    assert (chosen.prompts_with, chosen.left_out) == ({4: 1}, [])


def test_draws_go_on_from_the_last_generators() -> None:
    chosen = choose(settings(G1, G2), given("a", "b"), brought("m:c", "n:d"))
    assert {one.model: one.draw for one in chosen.from_sources} == {"m": 2, "n": 3}


@pytest.mark.parametrize(
    ("order", "answers", "asked"),
    [
        ("generators_first", 0, 2),
        ("generators_first", 3, 2),
        ("generators_first", 2, 2),
        ("source_first", 0, 2),
        ("source_first", 5, 2),
        ("source_first", 4, 1),
        ("source_first", 2, 0),
    ],
)
def test_no_generator_is_asked_for_an_answer_that_would_not_be_kept(order: Any, answers: int, asked: int) -> None:
    cfg = settings(G1, G2, order=order, answers=answers)
    assert choice.generators_asked(3, cfg) == asked
    assert choice.generators_asked(0, cfg) == 2


def test_more_than_k_leaves_out_those_that_are_preferred_least() -> None:
    cfg = settings(G1, G2, answers=4, prefer=("z", "y"))
    chosen = choose(cfg, given("a", "b"), brought("m:c", "y:d", "n:e", "z:f"))
    assert texts(chosen) == {"f", "d"}
    assert Counter(left.reason for left in chosen.left_out) == {"more_than_4_answers": 2}
    assert {left.model for left in chosen.left_out} == {"m", "n"}


def test_the_order_of_the_source_decides_nothing() -> None:
    cfg = settings(answers=2)
    prompts = [Prompt(id=str(number), messages=[]) for number in range(400)]
    source = [one for prompt in prompts for one in brought("m:chosen", "m:middle", "m:rejected", prompt=prompt.id)]
    chosen = choice.choose(prompts, [], choice.by_preference(prompts, source, cfg, seed=1), cfg)
    counts = Counter(one.answer for one in chosen.from_sources)
    assert sum(counts.values()) == 800
    # 400 prompts, each text kept with probability 2/3: 267, standard deviation 9.4
    assert all(abs(count - 267) < 40 for count in counts.values())


def test_a_text_counts_once_and_the_next_answer_takes_its_place() -> None:
    cfg = settings(G1, answers=3, prefer=("m", "n", "o"))
    chosen = choose(cfg, given("same"), brought("m:same", "n:x", "o:y"))
    assert texts(chosen) == {"x", "y"}
    assert [(left.model, left.reason) for left in chosen.left_out] == [("m", "same_text")]


@pytest.mark.parametrize(("distinct", "kept", "left_out"), [("source", 2, []), ("all", 0, ["same_text"])])
def test_generators_that_say_the_same_are_kept_unless_all_must_differ(distinct: Any, kept: int, left_out: list) -> None:
    chosen = choose(settings(G1, G2, distinct=distinct), given("same", "same"), [])
    assert chosen.prompts_with == ({2: 1} if kept else {})
    assert [left.reason for left in chosen.left_out][: len(left_out)] == left_out


@pytest.mark.parametrize(("fewer", "kept"), [("keep", {3: 1}), ("leave_out", {})])
def test_fewer_than_k_are_kept_or_left_out_as_told(fewer: Any, kept: dict) -> None:
    chosen = choose(settings(G1, answers=7, fewer=fewer), given("a"), brought("m:b", "n:c"))
    assert chosen.prompts_with == kept
    assert [left.reason for left in chosen.left_out] == ([] if kept else ["fewer_than_7_answers"] * 3)
    assert len(chosen.from_sources) == (2 if kept else 0)


def test_a_prompt_with_one_answer_or_none_is_always_left_out() -> None:
    one = choose(settings(), [], brought("m:b"))
    none = choose(settings(), [], [])
    assert (one.left_out, none.left_out) == (
        [choice.LeftOut("p", "m", 0, "fewer_than_2_answers")],
        [choice.LeftOut("p", "", None, "fewer_than_2_answers")],
    )
    assert (one.from_sources, one.prompts_with) == ([], {})


def test_sums_over_shards_count_what_is_kept_and_what_generators_wrote_in_all() -> None:
    cfg = settings(G1, G2, answers=2)
    sums = choice.Sums()
    cut = [replace(one, finished=one.draw == 0, num_tokens=5) for one in given("a", "b")]
    sums.add(cut, choose(cfg, cut, brought("m:c")))  # a and b stay, b is not finished; c is one too many
    sums.add([], choose(cfg, [], brought("m:c", "n:d")))
    assert sums.facts() == {
        "prompts": 2,
        "answers": 4,
        "tokens": 10,
        "finished": 3 / 4,
        "from_sources": {"m": 1, "n": 1},
        "left_out": {"more_than_2_answers": 1},
        "prompts_with_answers": {"2": 2},
    }


def test_what_one_prompt_loses_is_not_taken_off_another() -> None:
    def said(prompt: str, *texts: str) -> list[Candidate]:
        return [replace(one, prompt_id=prompt) for one in given(*texts)]

    prompts = [Prompt(id=name, messages=ASKED[0].messages) for name in "pq"]
    cfg = settings(G1, G2, distinct="all")
    sampled = [*said("p", "a", "a"), *said("q", "b", "c")]
    source = [one for name in "pq" for one in brought("m:z", prompt=name)]
    sums = choice.Sums()
    sums.add(sampled, choice.choose(prompts, sampled, choice.by_preference(prompts, source, cfg, seed=1), cfg))
    facts = sums.facts()
    assert (facts["answers"], facts["finished"]) == (5, 1.0)
