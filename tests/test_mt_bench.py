"""MT-Bench from end to end: a scripted model and a scripted judge, files in FastChat's form in and out."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from servers import Server, replies_with
from small_road import write_lines

from starling import bench, cli, data_files, models, reward
from starling.benches import verdicts
from starling.benches.asked import Asked
from starling.errors import DataError, UsageError

QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Write.", "Again."]},
    {"question_id": 2, "category": "math", "turns": ["2+2?", "3+3?"], "reference": ["4", "6"]},
    {"question_id": 3, "category": "stem", "turns": ["Why?", "And?"]},
]


def answer_row(question: int, *turns: str, model: str = "ours") -> dict[str, Any]:
    return {"question_id": question, "answer_id": "x", "model_id": model, "choices": [{"index": 0, "turns": [*turns]}]}


def answers(folder: Path, *rows: dict[str, Any], name: str = "answers.jsonl") -> Path:
    return write_lines(folder / name, rows or [answer_row(n, f"first {n}", f"second {n}") for n in (1, 2, 3)])


def questions(folder: Path) -> str:
    return str(write_lines(folder / "question.jsonl", QUESTIONS))


def run(*, judge: str = "", judges: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    return bench.run("mt_bench", Asked(judge=(judge,) if judge else judges, **options))


def last_answers(prompt: str) -> dict[str, str]:
    """The last answer that the judge is shown, of each assistant."""
    tag = re.search(r"turn 1 (\w{8})>>", prompt)
    assert tag
    found = re.findall(rf"^<<(answer(?: [AB])?) turn \d {tag[1]}>>\n(.*?)\n<<end of", prompt, re.DOTALL | re.MULTILINE)
    return dict(found)


def marks(prompt: str) -> str:
    """Turn 1 gets 8, turn 2 gets 5.5; question 3 gets prose."""
    said = last_answers(prompt)["answer"]
    return "It is fine." if said.endswith("3") else f"Good.\nRating: [[{8 if said.startswith('first') else 5.5}]]"


def rows_of(result: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in result["rows"]}


def test_marks_are_averaged_by_turn_and_category_and_what_is_unreadable_is_listed(tmp_path: Path) -> None:
    with Server(always=replies_with(marks)) as server:
        result = run(
            answers=answers(tmp_path), judge=f"openai:j@{server.url}", data=questions(tmp_path), out=tmp_path / "out"
        )
        assert len(server.requests) == 8  # 3 questions x 2 turns, question 3 twice over
    found = rows_of(result)
    # (8 + 5.5 + 8 + 5.5) / 4 = 6.75
    assert [(found[name]["value"], found[name]["n"]) for name in ("ours", "turn 1", "turn 2", "math")] == [
        (6.75, 4), (8, 2), (5.5, 2), (6.75, 2),
    ]  # fmt: skip
    assert "stem" not in found
    assert result["left_out"]["reasons"] == {"unreadable verdict": 2}
    assert "no mark in double brackets" in result["left_out"]["items"][0]["detail"]
    assert result["judge"]["name"] == "j" and re.fullmatch(r"[0-9a-f]{16}", result["judge"]["template_hash"])
    assert json.loads((tmp_path / "out" / "result.json").read_text())["rows"] == result["rows"]


def test_marks_in_json_are_asked_by_a_schema_and_written_where_fastchat_reads_them(tmp_path: Path) -> None:
    def reply(prompt: str) -> str:
        return re.sub(r"(?s).*\[\[([\d.]+)\]\]", r'{"rating": \1}', marks(prompt))

    options = {"answers": answers(tmp_path), "data": questions(tmp_path), "out": tmp_path / "out", "output": "json"}
    with Server(always=replies_with(reply)) as server:
        result = run(judge=f"openai:j@{server.url}", **options)
        wanted = [request["response_format"]["json_schema"]["schema"] for request in server.requests]
        assert len(wanted) == 8 and {tuple(schema["required"]) for schema in wanted} == {("rating",)}
        run(judge=f"openai:j@{server.url}", **options)
        assert len(server.requests) == 8  # all is on file
    assert rows_of(result)["ours"]["value"] == 6.75  # as in words
    assert "not one JSON object" in result["left_out"]["items"][0]["detail"]  # question 3 gets prose
    written = data_files.read_rows(tmp_path / "out" / "model_judgment" / "j_single.jsonl")
    assert [(row["score"], row["judgment"]) for row in written[:2]] == [(8, '{"rating": 8}'), (5.5, '{"rating": 5.5}')]
    assert written[0]["judge"][1] == f"mt_mark-{result['judge']['template_hash']}"
    with pytest.raises(UsageError, match=r"needs an endpoint as judge.*nothing holds smollm2 to a schema"):
        run(judge="smollm2", **options)


def test_a_judge_sees_references_of_mathematics_and_the_whole_conversation_at_the_second_turn(tmp_path: Path) -> None:
    with Server(always=replies_with(marks)) as server:
        run(answers=answers(tmp_path), judge=f"openai:j@{server.url}", data=questions(tmp_path), out=tmp_path / "out")
        asked = server.asked()
    math = sorted((prompt for prompt in asked if "2+2?" in prompt), key=len)
    assert [[text in prompt for text in ("first 2", "second 2", "3+3?")] for prompt in math] == [
        [True, False, False], [True, True, True],
    ]  # fmt: skip
    assert all("<<reference turn 1" in prompt for prompt in math) and "<<reference turn 2" in math[1]
    assert not any("<<reference" in prompt for prompt in asked if "2+2?" not in prompt)


def test_a_model_is_asked_both_turns_at_its_categorys_temperature(tmp_path: Path) -> None:
    with Server() as model, Server(always=replies_with(lambda prompt: "[[7]]")) as judge:
        options = {
            "model": f"openai:m@{model.url}", "judge": f"openai:j@{judge.url}", "data": questions(tmp_path),
            "out": tmp_path / "out",
        }  # fmt: skip
        result = run(**options)
        heat = {payload["messages"][0]["content"]: payload["temperature"] for payload in model.requests}
        assert heat == {"Write.": 0.7, "2+2?": 0.0, "Why?": 0.1}
        second = next(p["messages"] for p in model.requests if p["messages"][-1]["content"] == "3+3?")
        assert [m["content"] for m in second] == ["2+2?", "echo 2+2?", "3+3?"]
        again = run(**options)  # everything is on file
        assert (len(model.requests), len(judge.requests)) == (6, 6)
    assert again["rows"] == result["rows"]
    written = data_files.read_rows(tmp_path / "out" / "model_answer" / "m.jsonl")
    assert written[1]["choices"] == [{"index": 0, "turns": ["echo 2+2?", "echo 3+3?"]}]
    assert written[1]["model_id"] == "m" and written[1]["question_id"] == 2
    assert run(
        answers=tmp_path / "out" / "model_answer" / "m.jsonl", **{k: v for k, v in options.items() if k != "model"}
    )


def pairs(prompt: str) -> str:
    """Prefers the answer that says `good`, in whatever order; else the one shown first."""
    shown = last_answers(prompt)
    return "[[B]]" if "good" in shown["answer B"] and "good" not in shown["answer A"] else "[[A]]"


def pair_run(tmp_path: Path, server: Server) -> dict[str, Any]:
    ours = answers(tmp_path, answer_row(1, "good", "good"), answer_row(2, "x", "y"), answer_row(3, "good", "x"))
    theirs = answers(
        tmp_path, *(answer_row(n, "plain", "good" if n == 3 else "plain", model="rival") for n in (1, 2, 3)),
        name="rival.jsonl",
    )  # fmt: skip
    return run(
        answers=ours, against=str(theirs), judge=f"openai:j@{server.url}", data=questions(tmp_path),
        out=tmp_path / "out",
    )  # fmt: skip


def test_a_pair_is_won_where_both_orders_agree_and_else_tied(tmp_path: Path) -> None:
    with Server(always=replies_with(pairs)) as server:
        result = pair_run(tmp_path, server)
        assert len(server.requests) == 12
    found = rows_of(result)
    # question 1: 2 wins; question 2: the first shown wins, so 2 ties; question 3: a win and a loss: (3 + 2/2) / 6
    assert found["ours against rival"]["value"] == pytest.approx(4 / 6)
    assert [found[name]["value"] * 6 for name in ("wins", "ties", "losses")] == pytest.approx([3, 2, 1])
    assert any("do not tell which is better" in note for note in result["notes"])
    written = data_files.read_rows(tmp_path / "out" / "model_judgment" / "j_pair.jsonl")
    assert [(row["g1_winner"], row["g2_winner"]) for row in written] == [
        ("model_1", "model_1"), ("model_1", "model_1"), ("model_1", "model_2"), ("model_1", "model_2"),
        ("model_1", "model_1"), ("model_2", "model_2"),
    ]  # fmt: skip


def test_judgments_that_we_wrote_give_the_same_figures_without_a_call(tmp_path: Path) -> None:
    with Server(always=replies_with(pairs)) as server:
        first = pair_run(tmp_path, server)
    file = tmp_path / "out" / "model_judgment" / "j_pair.jsonl"
    again = run(judgments=file, data=questions(tmp_path))
    assert again["rows"] == first["rows"]
    flipped = rows_of(run(judgments=file, data=questions(tmp_path), model="rival"))
    assert flipped["rival against ours"]["value"] == pytest.approx(2 / 6)


def test_a_reward_model_judges_pairs_by_the_higher_reward(reward_model: Any, tmp_path: Path) -> None:
    models.save(reward_model, tmp_path / "rm")
    ours = answers(tmp_path, answer_row(1, "the rain", "the town"), answer_row(2, "x", "y"), answer_row(3, " ", "a"))
    theirs = answers(
        tmp_path, *(answer_row(n, "x", "y", model="rival") for n in (1, 2, 3)), name="rival.jsonl"
    )  # fmt: skip
    options = {"data": questions(tmp_path), "judge": str(tmp_path / "rm"), "out": tmp_path / "out"}
    result = run(answers=ours, against=str(theirs), **options)
    scorer = reward.load_reward_model(str(tmp_path / "rm"))
    talk = [{"role": "user", "content": "Write."}]
    one, other = scorer.score([talk], [["the rain", "x"]])[0]
    written = data_files.read_rows(next((tmp_path / "out" / "model_judgment").iterdir()))
    expected = "model_1" if one > other else "model_2"
    assert (written[0]["g1_winner"], written[0]["g2_winner"]) == (expected, expected)
    assert {row["g1_winner"] for row in written if row["question_id"] == 2} == {"tie"}
    assert result["left_out"]["reasons"] == {"unreadable verdict": 1}  # the blank answer
    with pytest.raises(UsageError, match="gives no marks; compare: add --against"):
        run(answers=ours, **options)


def test_missing_doubled_and_unknown_questions_are_told_and_the_rest_is_judged(tmp_path: Path) -> None:
    given = answers(
        tmp_path, answer_row(1, "first", "second"), answer_row(2, "a", "b"), answer_row(2, "a", "c"),
        answer_row(9, "a", "b"),
    )  # fmt: skip
    with Server(always=replies_with(lambda prompt: "[[3]]")) as server:
        result = run(answers=given, judge=f"openai:j@{server.url}", data=questions(tmp_path), out=tmp_path / "out")
    assert rows_of(result)["ours"]["n"] == 2
    assert result["left_out"]["reasons"] == {
        "answers no question of this set": 1, "answered twice": 1, "without an answer": 1,
    }  # fmt: skip


def test_models_that_answered_no_question_in_common_are_told_and_no_call_is_made(tmp_path: Path) -> None:
    ours = answers(tmp_path, answer_row(1, "a", "b"))
    theirs = answers(tmp_path, answer_row(2, "a", "b", model="rival"), name="rival.jsonl")
    with Server() as server:
        with pytest.raises(DataError, match=r"no question of this set is answered by ours and rival; left out: 4"):
            run(
                answers=ours, against=str(theirs), judge=f"openai:j@{server.url}", data=questions(tmp_path),
                out=tmp_path / "out",
            )  # fmt: skip
        assert server.requests == []


def test_judgments_of_a_form_that_is_not_known_are_told_and_the_rest_is_scored(tmp_path: Path) -> None:
    newer = {"id": 1, "kind": "v2", "mark": 8}
    with pytest.raises(DataError, match=r"none of the 1 judgments can be counted.*names no model"):
        run(judgments=write_lines(tmp_path / "newer.jsonl", [newer]), data=questions(tmp_path))
    row = {"question_id": 1, "turn": 1, "model": "m", "score": 8}
    found = run(judgments=write_lines(tmp_path / "mixed.jsonl", [row, newer]), data=questions(tmp_path))
    assert (rows_of(found)["m"]["n"], found["left_out"]["reasons"]["names no model"]) == (1, 1)


def test_a_plot_by_category_is_written(tmp_path: Path) -> None:
    given = [answer_row(n, "first 1", "second 1") for n in (1, 2, 3)]
    with Server(always=replies_with(marks)) as server:
        run(
            answers=answers(tmp_path, *given), judge=f"openai:j@{server.url}", data=questions(tmp_path),
            out=tmp_path / "out",
        )  # fmt: skip
    svg = (tmp_path / "out" / "radar.svg").read_text()
    assert all(word in svg for word in ("writing", "math", "stem", "ours"))
    assert (tmp_path / "out" / "radar.png").read_bytes().startswith(b"\x89PNG")


def by_words(of: dict[str, str]) -> Any:
    """A judge that gives the last answer what `of` says for a word in it."""
    return replies_with(lambda prompt: next(
        said for word, said in of.items() if word in last_answers(prompt)["answer"]
    ))  # fmt: skip


MILD = {"first 1": "[[8]]", "first 2": "[[6]]", "first 3": "[[7]]", "second": "[[5]]"}
STRICT = {"first 1": "[[8]]", "first 2": "[[2]]", "first 3": "a fine answer", "second": "[[5]]"}


def test_a_panel_has_the_mean_of_its_marks_and_each_member_its_own_figure(tmp_path: Path) -> None:
    with Server(always=by_words(MILD)) as mild, Server(always=by_words(STRICT)) as strict:
        options = {
            "answers": answers(tmp_path), "data": questions(tmp_path), "out": tmp_path / "out",
            "judges": (f"openai:mild@{mild.url}", f"openai:strict@{strict.url}"),
        }  # fmt: skip
        result = run(**options)
        assert (len(mild.requests), len(strict.requests)) == (6, 7)  # the prose is asked for once more
        again = run(**options)
        assert (len(mild.requests), len(strict.requests)) == (6, 7)  # every member's calls are on file
    assert again["rows"] == result["rows"]
    found = rows_of(result)
    # both: (8 + 8)/2 + (6 + 2)/2 + three second turns of 5, over 5; mild: (8 + 6 + 7 + 15)/6; strict: (8 + 2 + 15)/5
    assert [(found[name]["value"], found[name]["n"]) for name in ("ours", "by mild", "by strict")] == [
        (pytest.approx(27 / 5), 5), (6, 6), (5, 5),
    ]  # fmt: skip
    assert result["left_out"]["reasons"] == {"unreadable verdict": 1}
    assert "judged by part of the panel; strict: no mark in double brackets" in result["left_out"]["items"][0]["detail"]
    assert any(note.startswith("turns that only part of the panel judged: 1;") for note in result["notes"])
    (between,) = result["panel"]["agreement"]
    assert between["between"] == ["mild", "strict"]
    assert (between["same"]["value"], between["same"]["n"]) == (0.8, 5)
    # one squared difference, 16; values 8 8 6 2 and six fives: squares 318 less 54 x 54 / 10 = 26.4
    assert between["alpha"]["value"] == pytest.approx(1 - 0.9 * 16 / 26.4)
    assert result["judge"]["name"] == "panel of mild, strict"
    assert [one["name"] for one in result["judge"]["members"]] == ["mild", "strict"]
    written = tmp_path / "out" / "model_judgment"
    assert sorted(path.name for path in written.iterdir()) == [
        "mild_single.jsonl", "panel_single.jsonl", "strict_single.jsonl",
    ]  # fmt: skip
    alone = rows_of(run(judgments=written / "panel_single.jsonl", data=questions(tmp_path)))
    assert {key: alone["ours"][key] for key in ("value", "low", "high", "n")} == {
        key: found["ours"][key] for key in ("value", "low", "high", "n")
    }


def test_a_panel_votes_on_pairs_and_a_vote_without_majority_is_a_tie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = answers(tmp_path, *(answer_row(n, f"good {n}", f"good {n}") for n in (1, 2, 3)))
    theirs = answers(
        tmp_path, *(answer_row(n, f"plain {n}", f"plain {n}", model="rival") for n in (1, 2, 3)), name="rival.jsonl"
    )

    def prefers(word: str, **but: str) -> Any:
        def write(prompt: str) -> str:
            shown = last_answers(prompt)
            wanted = next((other for digit, other in but.items() if digit[-1] in shown["answer A"]), word)
            return "[[A]]" if wanted in shown["answer A"] else "[[B]]" if wanted in shown["answer B"] else "[[tie]]"

        return replies_with(write)

    # question 1: won, won, lost: won; question 2: won, lost, tied: a tie; question 3: won, lost, lost: lost
    judges = [prefers("good"), prefers("good", _2="plain", _3="plain"), prefers("plain", _2="neither")]
    with Server(always=judges[0]) as one, Server(always=judges[1]) as two, Server(always=judges[2]) as three:
        result = run(
            answers=ours, against=str(theirs), data=questions(tmp_path), out=tmp_path / "out",
            judges=[f"openai:{name}@{server.url}" for name, server in zip("abc", (one, two, three), strict=True)],
        )  # fmt: skip
    found = rows_of(result)
    assert found["ours against rival"]["value"] == pytest.approx(3 / 6)
    assert [found[name]["value"] * 6 for name in ("wins", "ties", "losses")] == pytest.approx([2, 2, 2])
    assert [found[f"by {name}"]["value"] * 6 for name in "abc"] == pytest.approx([6, 2, 1])
    same = {" ".join(one["between"]): one["same"]["value"] for one in result["panel"]["agreement"]}
    assert same == pytest.approx({"a b": 1 / 3, "a c": 0, "b c": 1 / 3, "a b c": 0})
    told = capsys.readouterr().out
    assert "the same verdict" in told and "all 3" in told and "the verdict of more than half of the members" in told


def test_a_panel_names_each_judge_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two judges of the panel are called j"):
        run(answers=answers(tmp_path), judges=["openai:j@http://127.0.0.1:1/v1", "openai:j@http://127.0.0.1:1/v1"])


def test_the_estimate_of_a_panel_has_a_line_for_each_judge(tmp_path: Path) -> None:
    found = run(
        answers=answers(tmp_path), judges=["openai:i@http://127.0.0.1:1/v1", "openai:j@http://127.0.0.1:1/v1"],
        data=questions(tmp_path), out=tmp_path / "out", estimate=True,
    )["estimate"]  # fmt: skip
    assert [(part["model"], part["calls"]) for part in found] == [("i@127.0.0.1:1", 6), ("j@127.0.0.1:1", 6)]


def test_an_estimate_counts_the_calls_and_makes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server() as server:
        found = run(
            model=f"openai:m@{server.url}", judge=f"openai:j@{server.url}", against=f"openai:r@{server.url}",
            data=questions(tmp_path), out=tmp_path / "out", estimate=True,
        )["estimate"]  # fmt: skip
        assert server.requests == []
    assert [(part["purpose"], part["calls"]) for part in found] == [("answers", 6), ("answers", 6), ("verdicts", 12)]
    assert "verdicts: j@127.0.0.1" in capsys.readouterr().out


@pytest.mark.parametrize(("against", "tokens"), [("", 6 * 14), ("openai:r@http://127.0.0.1:1/v1", 12 * 17)])
def test_an_estimate_takes_a_mark_in_json_for_as_short_as_it_is(tmp_path: Path, against: str, tokens: int) -> None:
    # {"rating": 10} has 14 characters, {"winner": "tie"} 17; three questions of two turns, in pairs in both orders
    *_, found = run(
        answers=answers(tmp_path), judge="openai:j@http://127.0.0.1:1/v1", against=against, output="json",
        data=questions(tmp_path), out=tmp_path / "out", estimate=True,
    )["estimate"]  # fmt: skip
    assert found["completion_tokens"] == {"expected": tokens, "at_most": found["calls"] * verdicts.MAX_TOKENS}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "needs one of --model MODEL"),
        (["--model", "m"], "needs --judge MODEL"),
        (["--answers", "gone.jsonl", "--judge", "j"], "--answers gone.jsonl: there is no such file"),
        (["--judgments", "x.jsonl", "--judge", "j"], "leave out --answers, --judge"),
        (["--judgments", "x.jsonl", "--output", "json"], "leave out --answers, --judge, --output"),
        (["--model", "m", "--judge", "smollm2", "--output", "json"], "needs an endpoint as judge"),
        (["--model", "m", "--judge", "j", "--scores", "stored"], "--scores means nothing to mt_bench"),
    ],
)
def test_what_is_missing_or_too_much_is_said_in_a_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "mt_bench", *arguments]) == 2
    assert told in capsys.readouterr().err
