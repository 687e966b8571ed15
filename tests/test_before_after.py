"""What changed, in sentences that claim no more than the figures."""

import math

import pytest
import runs

from starling import before_after


def rate(value: float | None, low: float | None, high: float | None, n: int = 100) -> dict:
    return {"value": value, "low": low, "high": high, "n": n}


BETTER, WORSE, UNCLEAR = rate(0.573, 0.521, 0.624), rate(0.4, 0.3, 0.49), rate(0.53, 0.5, 0.6)
SAME = rate(0.833, 0.833, 0.833, 3)  # one family of prompts, or cases that all agree
NONE = rate(None, None, None, 0)


@pytest.mark.parametrize(
    ("found", "tone", "words"),
    [
        (
            BETTER,
            "better",
            "It got better: the tuned model wins against the base model in 57.3 % (52.1 to 62.4), n = 100.",
        ),
        (
            WORSE,
            "worse",
            "It got worse: the tuned model wins against the base model only in 40.0 % (30.0 to 49.0), n = 100.",
        ),
        (
            UNCLEAR,
            "unclear",
            "No difference is shown: the tuned model wins against the base model in 53.0 % (50.0 to 60.0)",
        ),
        (SAME, "unsure", "The tuned model wins against the base model in 83.3 % (no interval), n = 3."),
        (NONE, "none", "No verdict could be read"),
    ],
)
def test_the_headline_claims_what_the_interval_allows(found: dict, tone: str, words: str) -> None:
    lines = before_after.headline({"win_rate": found}, "rubric", None)
    assert before_after.tone(found) == tone
    assert lines[0].startswith(words)
    assert ("cannot tell better from worse" in " ".join(lines)) == (tone == "unclear")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (BETTER, "it is better: it wins in 57.3 %"),
        (WORSE, "it is worse: it wins only in 40.0 %"),
        (UNCLEAR, "the interval includes 50 %, so no gain is shown"),
        (SAME, "how sure this is cannot be said"),
        (NONE, "No test prompt has a held-out check"),
    ],
)
def test_the_second_sentence_is_on_held_out_checks(found: dict, words: str) -> None:
    lines = before_after.headline({"win_rate": BETTER, "win_rate_held_out_checks": found}, "rubric", 0.1)
    assert words in lines[1]
    assert "10.0 % come from finishing or not repeating itself alone" in lines[2]


def test_the_judge_is_named_for_what_it_is() -> None:
    assert before_after.judge_named("rubric") == "rubric, a program, not an LLM"
    assert before_after.judge_named("source") == "source, the ranks that came with the answers"
    assert before_after.judge_named("kwise:big") == "kwise:big, a language model"
    assert before_after.judge_named("reward:rm#0a1b2c3d4e5f") == "reward:rm#0a1b2c3d4e5f, a reward model"


def test_a_value_that_is_no_number_is_none() -> None:
    score = {"name": "x", "value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    assert before_after.by_name([score]) == {"x": NONE}


@pytest.mark.parametrize(("verdict", "word"), [(1.0, "better"), (0.0, "worse"), (0.5, "same"), (None, "unread")])
def test_a_verdict_is_a_word(verdict: float | None, word: str) -> None:
    assert before_after.outcome(verdict) == word


def side(answer: str = "", score: float = 0.5, held_out: float | None = None, tokens: int = 10) -> dict:
    return {
        "answer": answer,
        "score": score,
        "held_out": held_out,
        "reward": 0.0,
        "tokens": tokens,
        "finished": True,
        "aspects": {},
    }


def table(*pairs: tuple[dict, dict], kind: str = "writing") -> dict[str, dict]:
    cases = [
        {"prompt_id": f"p{at}", "family": f"f{at}", "kind": kind, "reference": "", "base": base, "tuned": tuned}
        for at, (base, tuned) in enumerate(pairs)
    ]
    return {row["key"]: row for row in before_after.table({}, {"kl": 1.0, "kl_answers": 3}, cases, runs.SETTINGS)}


def test_the_change_is_paired_by_prompt() -> None:
    """Scores that vary far more than the change hide nothing: 0 to 0.4, each raised by 0.2, 0.21 or 0.19."""
    steps = (0.2, 0.21, 0.19, 0.2, 0.2, 0.2)
    rows = table(*[(side(score=0.1 * at), side(score=0.1 * at + step)) for at, step in enumerate(steps)])
    change = rows["rubric_score"]["change"]
    assert (change["value"], change["n"]) == (pytest.approx(0.2), 6)
    assert 0.19 <= change["low"] < 0.2 < change["high"] <= 0.21
    assert rows["rubric_score"]["says"] == "better"


def test_few_families_say_nothing_however_alike_their_changes_are() -> None:
    """Of five that rise, so much stands on one side in 2 of 2^5 ways to swap the models: 6 %."""
    rows = table(*[(side(score=0.1), side(score=0.1 + step)) for step in (0.2, 0.21, 0.19, 0.2, 0.22)])
    assert rows["rubric_score"]["change"]["low"] > 0.19
    assert rows["rubric_score"]["says"] == "unclear"


def test_a_change_that_is_the_same_everywhere_gives_no_interval_and_says_nothing() -> None:
    rows = table(*[(side(score=0.5), side(score=0.75))] * 3)
    assert (rows["rubric_score"]["change"]["value"], rows["rubric_score"]["says"]) == (0.25, "unclear")


def test_a_change_whose_interval_includes_0_says_nothing() -> None:
    rows = table((side(score=0.2), side(score=0.6)), (side(score=0.6), side(score=0.2)), (side(), side()))
    assert rows["rubric_score"]["says"] == "unclear"


def test_prompts_without_held_out_checks_do_not_count_for_them() -> None:
    rows = table((side(held_out=0.0), side(held_out=1.0)), (side(), side()))
    assert (rows["held_out_checks"]["change"]["value"], rows["held_out_checks"]["change"]["n"]) == (1.0, 1)


def test_longer_is_neither_better_nor_worse() -> None:
    assert table(*[(side(tokens=5), side(tokens=50 + at)) for at in range(3)])["tokens"]["says"] == ""


REFUSAL = "I'm sorry, I can't help with that."


@pytest.mark.parametrize(("kind", "says"), [("ill_natured", "better"), ("look_alike", "worse")])
def test_more_refusals_are_good_or_bad_by_the_kind_of_prompt(kind: str, says: str) -> None:
    rows = table(*[(side("Sure."), side(REFUSAL))] * 9, (side("Sure."), side("Sure.")), kind=kind)
    other = {"ill_natured": "look_alike", "look_alike": "ill_natured"}[kind]
    assert (rows[f"refused_{kind}"]["says"], rows[f"refused_{kind}"]["change"]["value"]) == (says, 0.9)
    assert rows[f"refused_{other}"]["change"]["value"] is None


def test_kl_has_no_base_and_no_interval() -> None:
    row = table((side(), side()))["kl"]
    assert (row["base"], row["tuned"]) == (None, {"value": 1.0, "low": None, "high": None, "n": 3})
