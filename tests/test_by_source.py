"""The ranks that came with the answers as a judge."""

from collections.abc import Sequence

import pytest

from starling.errors import DataError
from starling.judges.by_source import SourceJudge, refuse_unranked
from starling.records import Candidate, Prompt

PROMPT = Prompt(id="rain", messages=[{"role": "user", "content": "What is rain?"}])


def item(*ranks: float | None) -> tuple[Prompt, Sequence[Candidate]]:
    """A prompt with an answer for each rank."""
    return PROMPT, [
        Candidate(prompt_id="rain", model="m", draw=draw, answer=f"answer {draw}", finished=True, rank=rank)
        for draw, rank in enumerate(ranks)
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((2, 1, 3), [2, 1, 3]),
        ((1, 1, 3), [1, 1, 3]),
        ((6, 3, 3), [3, 1, 1]),
        ((1.5, 1.5, 3), [1, 1, 3]),
        ((4, 4), [1, 1]),
    ],
    ids=["as they are", "ties stay", "what is left closes up", "middle ranks", "all equal"],
)
def test_ranks_are_passed_on_as_competition_ranks(given: tuple[float, ...], expected: list[float]) -> None:
    (judged,) = SourceJudge().rank([item(*given)])
    assert (judged.ranks, judged.reason) == (expected, "")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ((None, None), "no answer came with a rank"),
        ((1, None, 2), "not every answer came with a rank"),
        ((1,), "one answer alone"),
        ((), "no answer came with a rank"),
    ],
)
def test_what_cannot_be_ranked_says_why(given: tuple[float | None, ...], reason: str) -> None:
    (judged,) = SourceJudge().rank([item(*given)])
    assert (judged.ranks, judged.reason) == (None, reason)


def test_nothing_is_claimed_of_how_the_ranks_were_made() -> None:
    (judged,) = SourceJudge().rank([item(1, 2)])
    assert (judged.agreement, judged.self_agreement, judged.good_natured, judged.unread) == (None, None, None, 0)
    assert [list(told) for told in (judged.orders, judged.rankings, judged.marks, judged.replies, judged.calls)] == [
        [], [], [], [], [],
    ]  # fmt: skip
    assert SourceJudge().template_hash == ""


def test_without_any_ranks_one_line_says_what_is_missing_where_and_what_to_do() -> None:
    shards = [[item(None, None), item(None, None)], [item(1, None)]]
    with pytest.raises(DataError, match="none of 3 prompts in RUN/sample has answers that its source ranks") as caught:
        refuse_unranked(shards, "RUN/sample")
    said = str(caught.value)
    assert "no answer came with a rank: 2, not every answer came with a rank: 1" in said
    assert "name a judge that ranks them" in said and "\n" not in said


def test_one_ranked_prompt_is_enough() -> None:
    refuse_unranked([[item(None, None)], [item(None, None), item(2, 1)]], "RUN/sample")
