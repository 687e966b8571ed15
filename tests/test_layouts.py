"""Rankings in the forms of other tools: hand-worked rows, ties, and what is left out."""

from collections import Counter
from typing import Any

import pytest

from starling import layouts
from starling.layouts import EXPORTS, Item
from starling.records import Candidate, Message, Ranking

ASKED = [Message(role="user", content="What is rain?")]
TURNS = [Message(role="user", content="hi"), Message(role="assistant", content="hello"), *ASKED]


def ranking(ranks: list[float], answers: list[str] | None = None, messages: list[Message] = ASKED) -> Ranking:
    texts = answers if answers is not None else [f"answer {number}" for number in range(len(ranks))]
    made = [
        Candidate(prompt_id="p1", model=f"m{number}", draw=number, answer=text, finished=True)
        for number, text in enumerate(texts)
    ]
    return Ranking(prompt_id="p1", messages=messages, answers=made, ranks=ranks, judge="kwise:j", source="hand")


def written(form: str, ranked: Ranking, **more: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    left_out: Counter[str] = Counter()
    item = Item(ranking=ranked, row={"source": ["hand", "other"]}, **more)
    return list(EXPORTS[form].write(item, left_out)), dict(left_out)


def pairs(ranked: Ranking, which: str) -> list[tuple[str, str, float]]:
    return [
        (pair.better.model, pair.worse.model, round(pair.margin, 6)) for pair in layouts.pairs(ranked, which, Counter())
    ]


def test_the_better_answer_comes_first_and_the_margin_is_the_distance_of_ranks() -> None:
    # K = 3, so the longest distance is 2: first to third 2/2, neighbours 1/2
    assert pairs(ranking([3, 1, 2]), "all") == [("m1", "m2", 0.5), ("m1", "m0", 1.0), ("m2", "m0", 0.5)]
    assert pairs(ranking([3, 1, 2]), "adjacent") == [("m1", "m2", 0.5), ("m2", "m0", 0.5)]
    assert pairs(ranking([3, 1, 2]), "best_worst") == [("m1", "m0", 1.0)]


def test_two_answers_have_a_margin_of_one() -> None:
    assert pairs(ranking([1, 2]), "all") == [("m0", "m1", 1.0)]


def test_a_tie_gives_no_pair_and_is_counted() -> None:
    # 1, 1, 3 has middle ranks 1.5, 1.5, 3: both pairs that remain are 1.5 apart of at most 2
    left_out: Counter[str] = Counter()
    found = list(layouts.pairs(ranking([1, 1, 3]), "all", left_out))
    assert [(pair.better.model, pair.worse.model, pair.margin) for pair in found] == [
        ("m0", "m2", 0.75),
        ("m1", "m2", 0.75),
    ]
    assert left_out == {"pairs that are tied": 1}


@pytest.mark.parametrize("which", layouts.PAIRS)
@pytest.mark.parametrize("ranks", [[1, 2, 3, 4, 5, 6, 7], [1, 1, 3, 3, 5, 6, 6], [1, 1, 1], [1]], ids=str)
def test_every_pair_is_written_or_counted(ranks: list[float], which: str) -> None:
    left_out: Counter[str] = Counter()
    found = list(layouts.pairs(ranking(ranks), which, left_out))
    k = len(ranks)
    expected = {"all": k * (k - 1) // 2, "adjacent": k - 1, "best_worst": 1}[which] if k > 1 else 1
    assert len(found) + left_out.total() == expected
    rank_of = {f"m{number}": rank for number, rank in enumerate(ranks)}
    assert all(rank_of[pair.better.model] < rank_of[pair.worse.model] for pair in found)
    assert all(0 < pair.margin <= 1 for pair in found)


def test_empty_and_equal_answers_give_no_pair_and_are_counted() -> None:
    left_out: Counter[str] = Counter()
    list(layouts.pairs(ranking([1, 2, 3], ["same", " ", "same"]), "all", left_out))
    assert left_out == {"pairs with an empty answer": 2, "pairs of the same text": 1}


def test_nectar_has_its_columns_its_own_text_and_its_answers_best_first() -> None:
    left_out: Counter[str] = Counter()
    text = "\n\nHuman:  What is rain?\n\nAssistant: "
    item = Item(ranking=ranking([2, 1]), row={"prompt": text, "source": ["a", "b"]})
    (row,) = EXPORTS["nectar"].write(item, left_out)
    assert row == {
        "prompt": text,
        "answers": [
            {"answer": "answer 1", "model": "m1", "rank": 1.0},
            {"answer": "answer 0", "model": "m0", "rank": 2.0},
        ],
        "turns": 1,
        "num_responses": 2,
        "source": ["a", "b"],
        "good_natured": True,
    }


def test_trl_pairs_are_conversations_without_the_prompt_in_the_answers() -> None:
    rows, _ = written("trl", ranking([2, 1]))
    assert rows == [
        {
            "prompt": ASKED,
            "chosen": [{"role": "assistant", "content": "answer 1"}],
            "rejected": [{"role": "assistant", "content": "answer 0"}],
            "margin": 1.0,
            "prompt_id": "p1",
            "chosen_model": "m1",
            "rejected_model": "m0",
        }
    ]


def test_unpaired_labels_the_better_half_and_leaves_the_middle_out() -> None:
    # K = 5: the middle is place 3; ranks 1, 1 share 1.5, so both are better; 4, 4 share 4.5, so both are worse
    rows, left_out = written("unpaired", ranking([1, 1, 3, 4, 4]))
    assert [(row["model"], row["label"]) for row in rows] == [("m0", True), ("m1", True), ("m3", False), ("m4", False)]
    assert left_out == {"answers in the middle of their ranking": 1}


def test_unpaired_says_nothing_of_answers_that_are_all_tied() -> None:
    rows, left_out = written("unpaired", ranking([1, 1, 1, 1]))
    assert (rows, left_out) == ([], {"answers in the middle of their ranking": 4})


def test_ultrafeedback_scores_go_from_ten_to_one_and_no_aspect_is_made_up() -> None:
    # middle ranks 1, 2.5, 2.5, 4 of K = 4: 10 - 9 * (rank - 1) / 3 gives 10, 5.5, 5.5, 1
    (row,), _ = written("ultrafeedback", ranking([1, 2, 2, 4]), systems={"m0": "Be kind."})
    assert [one["overall_score"] for one in row["completions"]] == [10.0, 5.5, 5.5, 1.0]
    assert [one["custom_system_prompt"] for one in row["completions"]] == ["Be kind.", "", "", ""]
    assert {note["Rating"] for one in row["completions"] for note in one["annotations"].values()} == {"N/A"}
    assert (row["instruction"], row["models"], row["source"]) == (
        "What is rain?",
        ["m0", "m1", "m2", "m3"],
        "hand, other",
    )


def test_ultrafeedback_keeps_all_turns_in_its_one_instruction() -> None:
    (row,), _ = written("ultrafeedback", ranking([1, 2], messages=TURNS))
    assert row["instruction"] == "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: What is rain?\n\nAssistant: "


def test_nemo_rl_has_two_completions_and_the_lower_rank_is_the_better() -> None:
    rows, _ = written("nemo-rl", ranking([2, 1, 3]), pairs="best_worst")
    assert rows == [
        {
            "context": ASKED,
            "completions": [
                {"rank": 0, "completion": [{"role": "assistant", "content": "answer 1"}]},
                {"rank": 1, "completion": [{"role": "assistant", "content": "answer 2"}]},
            ],
            "prompt_id": "p1",
        }
    ]


def test_verl_has_one_row_a_prompt_with_the_best_answer_and_all_ranks() -> None:
    (row,), _ = written("verl", ranking([2, 1]), split="validation", index=4)
    assert row["reward_model"] == {"style": "model", "ground_truth": "answer 1"}
    assert (row["data_source"], row["prompt"], row["ability"]) == ("hand, other", ASKED, "alignment")
    extra = row["extra_info"]
    assert (extra["split"], extra["index"], extra["prompt_id"]) == ("validation", 4, "p1")
    assert [(one["model"], one["rank"]) for one in extra["answers"]] == [("m0", 2.0), ("m1", 1.0)]


def test_llamafactory_leaves_out_turns_that_it_would_skip() -> None:
    system = Message(role="system", content="Be brief.")
    rows, left_out = written("llamafactory", ranking([1, 2], messages=[system, *TURNS]))
    assert (len(rows), left_out) == (1, {})
    assert rows[0]["messages"] == [system, *TURNS]
    rows, left_out = written("llamafactory", ranking([1, 2], messages=[*ASKED, *ASKED]))
    assert (rows, left_out) == ([], {"rankings whose turns do not alternate": 1})


def test_two_answers_without_a_place_give_no_pair_and_are_counted() -> None:
    # 1, -, 2, -: those without share the mean of the places 3 and 4; K = 4, so the longest distance is 3
    ranked = ranking([1, 0, 2, 0])
    assert layouts.middle_ranks(ranked.ranks) == [1, 3.5, 2, 3.5]
    left_out: Counter[str] = Counter()
    found = [(pair.better.model, pair.worse.model, pair.margin) for pair in layouts.pairs(ranked, "all", left_out)]
    assert found == [
        ("m0", "m2", 1 / 3), ("m0", "m1", 2.5 / 3), ("m0", "m3", 2.5 / 3), ("m2", "m1", 1.5 / 3), ("m2", "m3", 1.5 / 3),
    ]  # fmt: skip
    assert left_out == {"pairs of which neither answer has a place": 1}


def test_a_place_that_is_not_known_leaves_as_null() -> None:
    for form in ("nectar", "verl", "ultrafeedback"):
        (row,), _ = written(form, ranking([0, 1, 0]))
        answers = row.get("answers") or row.get("completions") or row["extra_info"]["answers"]
        assert sorted((answer["rank"] for answer in answers), key=str) == [1.0, None, None], form


def test_ultrafeedback_leaves_out_an_answer_that_is_empty_and_the_others_keep_their_scores() -> None:
    (row,), left_out = written("ultrafeedback", ranking([1, 2, 3], ["best", " ", "worst"]))
    assert (row["models"], [one["overall_score"] for one in row["completions"]]) == (["m0", "m2"], [10.0, 1.0])
    assert left_out == {"answers that are empty": 1}
