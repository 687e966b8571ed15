"""Running sums over rankings, against values worked out by hand and against the audit on the whole."""

import random

import pytest

from starling import audit
from starling.judgement_rows import Judgement
from starling.tally import Tally


def row(*answers: tuple[str, str, float]) -> dict:
    return {"answers": [{"model": model, "answer": answer, "rank": rank} for model, answer, rank in answers]}


def test_sums_over_shards_are_those_worked_out_by_hand() -> None:
    tally = Tally()
    tally.add([row(("a", "xxx", 1.0), ("b", "x", 2.0))], [{"reason": "cut"}])
    tally.add([row(("b", "x", 1.0), ("a", "xx", 1.0), ("c", "xxx", 3.0))], [{"reason": "cut"}, {"reason": "no"}])
    # a: (1 + 1) / 2, b: (2 + 1) / 2, c: 3. Pairs: 1 + 3, one of them tied. Of unlike length and untied: a above b
    # (longer), b above c (shorter), a above c (shorter).
    assert tally.facts() == {
        "ranked": 2,
        "unranked": 3,
        "mean_rank": {"a": 1.0, "b": 1.5, "c": 3.0},
        "longer_ranked_above": {"share": 1 / 3, "n": 3},
        "tied_pairs": 0.25,
    }
    assert tally.reasons == {"cut": 2, "no": 1}


def test_nothing_ranked_gives_no_share() -> None:
    assert Tally().facts()["longer_ranked_above"] == {"share": None, "n": 0}


def test_the_sums_agree_with_the_audit_of_the_whole() -> None:
    source = random.Random(3)
    rows = [
        row(*((f"m{one}", "x" * source.randint(1, 4), float(source.randint(1, 3))) for one in range(5)))
        for _ in range(50)
    ]
    calls = [
        Judgement(
            prompt="p",
            answers=[a["answer"] for a in one["answers"]],
            models=[a["model"] for a in one["answers"]],
            ranks=[a["rank"] for a in one["answers"]],
        )
        for one in rows
    ]
    tally = Tally()
    for start in range(0, 50, 7):
        tally.add(rows[start : start + 7], [])
    facts = tally.facts()
    assert facts["mean_rank"] == {row["model"]: pytest.approx(row["all"]["value"]) for row in audit.models(calls)}
    length = audit.length(calls)
    assert facts["longer_ranked_above"] == {"share": pytest.approx(length["value"]), "n": length["n"]}
    assert facts["tied_pairs"] == audit.tied_share(calls)


def test_calls_are_counted_and_compared_over_ranked_and_unranked_rows() -> None:
    tally = Tally(first_repeats=2)
    twice = row(("a", "x", 1.0), ("b", "y", 2.0)) | {
        "orders": [[0, 1], [1, 0]], "rankings": [[1.0, 2.0], [1.0, 2.0]], "repeats": [0, 1], "unread": 0,
        "self_agreement": -1.0, "agreement": None,
    }  # fmt: skip
    part = twice | {"rankings": [[1.0, 2.0], []], "unread": 1, "self_agreement": None, "agreement": 0.5}
    none = {"reason": "cut", "orders": [[0, 1]], "rankings": [[]], "repeats": [0], "unread": 2}
    tally.add([twice], [none])
    tally.add([part, row(("a", "x", 1.0), ("b", "y", 2.0))], [{"reason": "of an older version"}])
    assert tally.asking() == {
        "replies": 5,
        "unread_calls": 3,
        "ranked_in_part": 1,
        "prompts_by_repeats": {"1": 1, "2": 2},
        "self_agreement": -1.0,
        "pair_verdicts_upheld": 0.5,
    }
    # only `twice` has two readable calls about the same answers, and each time the one shown first won
    (effects,) = tally.position_effects()
    assert (effects.k, effects.n, effects.prompts) == (2, 1, 1)
    assert effects.effect[0] > 0 > effects.effect[1]
