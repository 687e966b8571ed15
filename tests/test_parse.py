"""Judges' replies: what is read, and what is refused."""

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starling.judges.parse import (
    Pair,
    Ranked,
    Scored,
    Tied,
    Unparsed,
    parse_good_natured,
    parse_mark,
    parse_pair_verdicts,
    parse_pairs,
    parse_ranking,
    parse_winner,
)

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt4_rankings"


@pytest.mark.parametrize(
    ("reply", "order"),
    [
        ("[[B, C, A]]", [1, 2, 0]),
        ("[['B', 'C', 'A']]", [1, 2, 0]),
        ('Ranking: [["B" ,"C" ,"A"]].', [1, 2, 0]),
        ("**Final ranking:** [[ B,\n C,\n A ]]\nI hope this helps.", [1, 2, 0]),
        ("['B', 'C', 'A']", [1, 2, 0]),
        ("[[B], [C], [A]]", [1, 2, 0]),
        ("[[B, C, A]", [1, 2, 0]),
        ("A vs B: B\n\nFinal Ranking: B, C, A.", [1, 2, 0]),
        ("B, C, A\n\n", [1, 2, 0]),
        ("**Ranking from best to worst: B, C, A**", [1, 2, 0]),
    ],
)
def test_a_ranking_is_read_in_each_of_its_forms(reply, order):
    assert parse_ranking(reply, 3) == Ranked(order)


@pytest.mark.parametrize(
    ("reply", "levels"),
    [
        ("[[A, B], C]", [[0, 1], [2]]),
        ("[[C], [A, B]]", [[2], [0, 1]]),
        ("[[[A, B], C]]", [[0, 1], [2]]),
        ("[C, ['A', 'B']]", [[2], [0, 1]]),
        ("[[C, A = B]]", [[2], [0, 1]]),
        ("[['C', 'A' = 'B']]", [[2], [0, 1]]),
        ("Ranking: A = B = C", [[0, 1, 2]]),
    ],
)
def test_nested_lists_and_equal_signs_are_ties(reply, levels):
    assert parse_ranking(reply, 3) == Tied(levels)


def test_the_last_verdict_counts():
    assert parse_ranking("First [[A, B, C]], on reflection [[C, B, A]]", 3) == Ranked([2, 1, 0])
    assert parse_ranking("[A, B, C] no, [C, B, A]", 3) == Ranked([2, 1, 0])


def test_double_brackets_count_before_later_single_ones():
    assert parse_ranking("[[C, B, A]] [A, B, C]", 3) == Ranked([2, 1, 0])


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no list"),
        ("All answers are fine.", "no list"),
        ("The winner: A, B, C", "no list"),
        ("A, B, C\nThat is my ranking.", "no list"),
        ("Ranking: A, B", "2 of 3"),
        ("[[A, B]]", "2 of 3"),
        ("[[A, B, B]]", "twice"),
        ("[[A, B, D]]", "'D'"),
        ("[[best, second, ..., worst]]", "'best'"),
        ("[[A, B, C]] but then [[A, A, C]]", "twice"),
        ("[[A, B, C]] or rather [[B, A", "cut off"),
        ("[A, B, C] or rather [B, A", "cut off"),
        ("Ranking: A, B, C [see note]\nRanking: A, B, C", "see note"),
        ("[[[A, B, C]]]", "nested"),
        ("[[A, [B, [C]]]]", "nested"),
        ("[[]]", "nested|empty"),
        ("From worst to best: [[A, B, C]]", "worst to best"),
        ("My ranking, from worst to best:\n[[A, B, C]]", "worst to best"),
        ("My ranking, from worst to best:\n\n[[A, B, C]]", "worst to best"),
        ("[[A, B, C]] (worst to best)", "worst to best"),
        ("From the worst answer to the best: [[A, B, C]]", "worst to best"),
        ("Ranking from worst to best: A, B, C", "worst to best"),
        ("[[__import__('os').getcwd(), B, C]]", "no label"),
        ("[[a, b, c]]", "'a'"),
    ],
)
def test_what_is_no_permutation_is_unparsed_and_says_why(reply, reason):
    parsed = parse_ranking(reply, 3)
    assert isinstance(parsed, Unparsed)
    assert any(part in parsed.reason for part in reason.split("|")), parsed.reason


def test_answers_may_be_shown_under_other_labels():
    assert parse_ranking("[[2, 1]]", 2, labels=["1", "2"]) == Ranked([1, 0])
    assert parse_ranking("[[A, B]]", 2, labels=["1", "2"]) == Unparsed("the ranking names 'A', which is no label")
    with pytest.raises(ValueError, match="1 distinct labels for 2"):
        parse_ranking("", 2, labels=["x", "x"])


def test_endless_repetition_is_read_in_no_time():
    for piece in ("[", "[[", "]", "*", "rank ", "A vs ", "('\"", "good natured ", "A, B, ", "this is not "):
        junk = piece * 20_000
        assert isinstance(parse_ranking(junk, 7), Unparsed)
        assert parse_pair_verdicts(junk, 7) == []
        assert parse_good_natured(junk) is None


@pytest.mark.parametrize(
    "prose",
    [
        "Answer C is the worst because it fails to give the best advice.\n\n",
        "C does the least to answer what matters most.\n",
        "Overall, C is least helpful and fails to be as good as the best.\nFinal ranking: ",
        "From best to worst:\n",
    ],
)
def test_prose_about_the_worst_does_not_turn_a_ranking_round(prose):
    assert parse_ranking(f"{prose}[[A, B, C]]", 3) == Ranked([0, 1, 2])


def test_pair_verdicts_are_read_as_winner_and_loser():
    reply = """
    ('A', 'B'): B
    C vs A: C wins. C says more.
    - Model B vs Model C: Model B, since it is right
    D > A
    """
    assert parse_pair_verdicts(reply, 4) == [(1, 0), (2, 0), (1, 2), (3, 0)]


def test_ties_and_unclear_lines_are_no_pair_verdicts():
    reply = "A vs B: Tie\nA vs C: A and C are equal\nB vs C: D\nA vs A: A\nA vs D: Both are good, but A is longer"
    assert parse_pair_verdicts(reply, 4) == []


def test_the_last_verdict_on_a_pair_counts():
    assert parse_pair_verdicts("A vs B: A\nB vs A: B", 2) == [(1, 0)]


@pytest.mark.parametrize(
    ("line", "winner"),
    [
        ("C vs A: A", 0),
        ("('C', 'A'): C - since it is right", 2),
        ("C > A", 2),
        ("C vs A: Tie", None),
        ("C vs A: C and A are equal", None),
        ("C vs A: Neither wins.", None),
        ("C vs A: C is worse", None),
        ("C vs A: C is completely irrelevant to the prompt. A wins.", 0),
        ("C vs A: C is correct, while A is not. C wins.", 2),
        ("C vs A: A says more, but C wins", 2),
        ("C vs A: A, though on brevity C wins over it", 0),
        ("C vs A: C has errors", None),
        ("C vs A: C is not as good", None),
        ("C vs A: C is better", 2),
        ("C vs A: C is the winner", 2),
        ("C vs A: C is more helpful because it is right", 2),
        ("C vs A: C is clearly better", 2),
        ("C vs A: B", None),
    ],
)
def test_a_pair_says_who_was_named_first_and_who_won_if_anyone(line, winner):
    assert parse_pairs(line, 3) == [Pair(2, 0, winner, bracketed=line.startswith("('"))]


def test_a_pair_that_is_only_listed_has_no_verdict():
    assert parse_pairs("A vs B:\nA vs C:  \nA vs A: A\nB vs C: B", 3) == [Pair(1, 2, 1)]


def test_a_later_tie_takes_a_pair_verdict_back():
    assert parse_pairs("A vs B: A\nB vs A: Tie", 2) == [Pair(1, 0, None)]
    assert parse_pair_verdicts("A vs B: A\nB vs A: Tie", 2) == []


@pytest.mark.parametrize(
    ("reply", "good_natured"),
    [
        ("This is a good natured conversation.", True),
        ("This is a not good natured conversation.", False),
        ("This is not a good-natured conversation.", False),
        ("The conversation isn't good natured.", False),
        ("**Good-natured:** yes", True),
        ('Good-natured: "no"', False),
        ('{"good_natured": true}', True),
        ("Good-natured: yes or no?\nGood-natured: no", False),
        ("A vs B: A", None),
    ],
)
def test_the_judge_says_whether_a_conversation_is_good_natured(reply, good_natured):
    assert parse_good_natured(reply) is good_natured


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Winner: [[A]]", Ranked([0, 1])),
        ("**Winner: [[ 'B' ]]**\n", Ranked([1, 0])),
        ("[[Tie]]", Tied([[0, 1]])),
        ("At first [[A]].\nOn reflection [[B]].", Ranked([1, 0])),
        ("[[A]], I repeat [[A]]", Ranked([0, 1])),
        ("", "no verdict"),
        ("A", "no verdict"),
        ("Winner: [A]", "no verdict"),
        ("Winner: [[C]]", "'C'"),
        ("Winner: [[a]]", "'a'"),
        ("Winner: [[letter or tie]]", "'letter or tie'"),
        ("[[A]] or [[B]]", "2 verdicts"),
        ("Winner: [[A", "cut off"),
        ("Winner: [[[A]]]", "more than double"),
        ("Winner: [[A, B]]", "'A, B'"),
        ("Winner: [[\u0410]]", "not A, B or tie"),
        ("Winner: \uff3b\uff3bA\uff3d\uff3d", "no verdict"),
        ("[[A]]\nor rather [[x]]", "'x'"),
    ],
)
def test_a_winner_is_read_or_the_reason_is_told(reply, verdict):
    check(parse_winner(reply), verdict)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Rating: [[10]]", Scored(10)),
        ("Rating: [[1]]", Scored(1)),
        ("I would say [[ 7.5 ]].", Scored(7.5)),
        ("[[3]]\nNo: [[4]]", Scored(4)),
        ("Rating: [[11]]", "'11'"),
        ("Rating: [[0]]", "'0'"),
        ("Rating: [[-3]]", "'-3'"),
        ("Rating: [[10.5]]", "'10.5'"),
        ("Rating: [[0.9]]", "'0.9'"),
        ("Rating: [[8/10]]", "'8/10'"),
        ("Rating: [[1e1]]", "'1e1'"),
        ("Rating: [[nan]]", "'nan'"),
        ("Rating: [[number]]", "'number'"),
        ("Rating: [[\uff18]]", "not 1 to 10"),
        ("Rating: [[\u0668]]", "not 1 to 10"),
        ("Rating: 8", "no verdict"),
        ("Rating: [8]", "no verdict"),
        ("between [[7]] and [[8]]", "2 verdicts"),
    ],
)
def test_a_mark_is_read_or_the_reason_is_told(reply, verdict):
    check(parse_mark(reply), verdict)


def check(parsed, verdict):
    if isinstance(verdict, str):
        assert isinstance(parsed, Unparsed) and verdict in parsed.reason, parsed
    else:
        assert parsed == verdict


@given(st.text(alphabet="[]AB1tie0, \n.", max_size=40))
def test_no_reply_whatever_makes_a_verdict_that_does_not_stand_in_it(reply):
    winner, mark = parse_winner(reply), parse_mark(reply)
    if not isinstance(winner, Unparsed):
        assert re.search(r"\[\[[ \n]*(?:A|B|tie)[ \n]*\]\]", reply)
    if isinstance(mark, Scored):
        assert 1 <= mark.mark <= 10 and "[[" in reply and str(int(mark.mark)) in reply


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published GPT-4 replies are not here (../shared/data)")
def test_published_replies_give_the_authors_order():
    rows = []
    for path in sorted(PUBLISHED.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows += map(json.loads, lines)
    assert len(rows) > 500
    verdicts = upheld = 0
    for row in rows:
        order = row["ranking_order"]
        parsed = parse_ranking(row["rating_text"], row["k"])
        if sorted(order) == list(range(row["k"])):
            assert parsed == Ranked(order), row["rating_text"]
        else:
            assert isinstance(parsed, Unparsed), row["rating_text"]
        pairs = parse_pair_verdicts(row["rating_text"], row["k"])
        verdicts += len(pairs)
        upheld += sum(order.index(won) < order.index(lost) for won, lost in pairs)
    assert 0.987 < upheld / verdicts < 0.994  # what was published about the judge's own pair verdicts
