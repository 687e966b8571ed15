"""The AlpacaEval benchmark, end to end against scripted judges: outputs, verdicts, annotations, what is left out."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from servers import Server, completion, fails, replies_with, says, shown_answers

from starling import bench, models, reward
from starling.benches import alpaca_annotations, alpaca_eval, verdicts
from starling.benches.asked import Asked
from starling.errors import CallError, DataError, UsageError

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data" / "alpaca_eval"


def outputs(path: Path, name: str, texts: dict[str, str]) -> Path:
    rows = [{"instruction": key, "output": text, "generator": name} for key, text in texts.items()]
    path.write_text(json.dumps(rows))
    return path


def longest(prompt: str) -> str:
    """A judge that likes the longer answer, wherever it stands, and calls equal lengths a tie."""
    shown = shown_answers(prompt)
    sizes = {letter: len(text) for letter, text in shown.items()}
    return "Winner: [[tie]]" if sizes["A"] == sizes["B"] else f"Winner: [[{max(sizes, key=sizes.__getitem__)}]]"


def first(prompt: str) -> str:
    return "Winner: [[A]]"


def letters(prompt_tokens: int = 5, **logprobs: float) -> Any:
    async def behave(request: web.Request, payload: dict[str, Any]) -> web.StreamResponse:
        body = completion("A", finish="length", completion_tokens=1)
        top = [{"token": token, "logprob": value} for token, value in logprobs.items()]
        body["choices"][0]["logprobs"] = {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": top}]}
        return web.json_response(body)

    return behave


@pytest.fixture
def sides(tmp_path: Path) -> dict[str, Any]:
    ours = {"one": "long answer", "two": "x", "three": "same"}
    theirs = {"one": "short", "two": "a long one", "three": "like"}
    return {
        "answers": outputs(tmp_path / "ours.json", "ours", ours),
        "against": str(outputs(tmp_path / "theirs.json", "theirs", theirs)),
        "out": tmp_path / "out",
    }


def judged(server: Server, **asked: Any) -> dict[str, Any]:
    return bench.run("alpaca_eval", Asked(judge=(f"openai:judge@{server.url}",), **asked))


def preferences(out: Path) -> dict[str, float | None]:
    rows = json.loads((out / alpaca_eval.ANNOTATIONS).read_text())
    return {row["instruction"]: row["preference"] for row in rows}


def test_both_orders_are_asked_and_a_win_a_loss_and_a_tie_are_what_they_are(sides: dict[str, Any]) -> None:
    with Server(always=replies_with(longest)) as server:
        found = judged(server, **sides)
        asked = server.asked()
    assert len(asked) == 6
    shown = [tuple(shown_answers(prompt).values()) for prompt in asked]
    assert {pair[::-1] for pair in shown} == set(shown)
    assert preferences(sides["out"]) == {"one": 2.0, "two": 1.0, "three": 1.5}
    (row,) = found["models"]
    assert (row["win_rate"], row["n"], row["n_wins"], row["n_wins_base"], row["n_draws"]) == (50, 3, 1, 1, 1)
    assert json.loads((sides["out"] / "result.json").read_text())["rows"] == found["rows"]


def test_a_judge_that_always_names_the_first_prefers_nobody(sides: dict[str, Any]) -> None:
    with Server(always=replies_with(first)) as server:
        judged(server, **sides)
    assert set(preferences(sides["out"]).values()) == {1.5}


def test_verdicts_in_json_are_asked_by_a_schema_and_prefer_the_same(sides: dict[str, Any]) -> None:
    def reply(prompt: str) -> str:
        return json.dumps({"winner": longest(prompt).partition("[[")[2].partition("]]")[0]})

    with Server(always=replies_with(reply)) as server:
        found = judged(server, output="json", **sides)
        wanted = [request["response_format"]["json_schema"]["schema"] for request in server.requests]
        judged(server, output="json", **sides)
        assert len(server.requests) == 6
    assert preferences(sides["out"]) == {"one": 2.0, "two": 1.0, "three": 1.5}  # as in words
    assert [schema["properties"]["winner"]["enum"] for schema in wanted] == [["A", "B", "tie"]] * 6
    assert found["judge"]["output"] == "json"
    in_words = verdicts.template_hash("alpaca_pair")
    assert found["judge"]["template_hash"] == verdicts.template_hash("alpaca_pair", "json") != in_words


def test_in_one_order_half_is_asked_and_the_seed_draws_who_comes_first(tmp_path: Path) -> None:
    texts = {f"instruction {at}": "answer" for at in range(40)}
    asked = {
        "answers": outputs(tmp_path / "a.json", "ours", texts),
        "against": str(outputs(tmp_path / "b.json", "theirs", texts)),
        "out": tmp_path / "out",
        "one_order": True,
    }
    with Server(always=replies_with(first)) as server:
        judged(server, **asked)
        assert len(server.requests) == 40
    won = list(preferences(tmp_path / "out").values())
    assert 8 < won.count(2.0) < 32 and won.count(1.0) == 40 - won.count(2.0)


def test_what_is_on_file_is_not_asked_again_and_annotations_score_without_a_call(sides: dict[str, Any]) -> None:
    with Server(always=replies_with(longest)) as server:
        before = judged(server, **sides)
        judged(server, **sides)
        assert len(server.requests) == 6
    again = bench.run("alpaca_eval", Asked(annotations=(sides["out"] / alpaca_eval.ANNOTATIONS,)))
    assert [row["win_rate"] for row in again["models"]] == [row["win_rate"] for row in before["models"]]
    assert again["rows"] == before["rows"]


@pytest.mark.parametrize("said", ["I like them both.", "Winner: [[A]] [[B]]", "Winner: [[11/10]]"])
def test_a_verdict_that_cannot_be_read_is_listed_and_not_scored(sides: dict[str, Any], said: str) -> None:
    def write(prompt: str) -> str:
        return said if "a long one" in prompt else longest(prompt)

    with Server(always=replies_with(write)) as server:
        found = judged(server, **sides)
    assert preferences(sides["out"]) == {"one": 2.0, "two": None, "three": 1.5}
    assert found["models"][0]["n"] == 2
    (left,) = found["left_out"]["items"]
    assert left["item"] == "ours: two" and left["reason"] == "without a preference"


def test_a_call_that_fails_in_one_order_leaves_the_instruction_out(sides: dict[str, Any]) -> None:
    with Server(fails(400), always=replies_with(longest)) as server:
        found = judged(server, **sides)
    assert list(preferences(sides["out"]).values()).count(None) == 1
    assert (found["models"][0]["n"], found["left_out"]["reasons"]) == (2, {"without a preference": 1})
    assert "400" in found["left_out"]["items"][0]["detail"]


def test_missing_doubled_and_unknown_instructions_are_listed_and_the_rest_is_scored(tmp_path: Path) -> None:
    ours = [("one", "long answer"), ("two", "x"), ("two", "another"), ("extra", "y")]
    path = tmp_path / "ours.json"
    path.write_text(json.dumps([{"instruction": key, "output": text, "generator": "ours"} for key, text in ours]))
    theirs = outputs(tmp_path / "theirs.json", "theirs", {"one": "short", "two": "a long one", "three": "like"})
    with Server(always=replies_with(longest)) as server:
        found = judged(server, answers=path, against=str(theirs), out=tmp_path / "out")
    assert preferences(tmp_path / "out") == {"one": 2.0}
    reasons = found["left_out"]["reasons"]
    assert reasons == {"answers no question of this set": 1, "answered twice": 1, "without an answer": 1}


def test_version_2_reads_the_probabilities_of_the_letters_in_both_orders(sides: dict[str, Any]) -> None:
    with Server(always=letters(A=-0.5, B=-1.5, **{" A": -2.5, "C": -0.01})) as server:
        found = judged(server, version=2, **sides)
        payloads = server.requests
    assert {(one["logprobs"], one["top_logprobs"], one["max_tokens"]) for one in payloads} == {(True, 20, 1)}
    # place alone counts for this judge: P(A) in one order, 1 - P(A) in the other, so a half
    assert list(preferences(sides["out"]).values()) == pytest.approx([1.5, 1.5, 1.5])
    assert found["version"] == 2


def test_version_2_in_one_order_gives_the_models_letter_its_share(sides: dict[str, Any]) -> None:
    with Server(always=letters(A=-0.5, B=-1.5)) as server:
        judged(server, version=2, one_order=True, **sides)
        model_first = {
            instruction: any("long answer" in text or text in ("x", "same") for text in [shown_answers(prompt)["A"]])
            for prompt in server.asked()
            for instruction in ("one", "two", "three")
            if f"\n{instruction}\n" in prompt
        }
    # P(A) = e^-0.5 / (e^-0.5 + e^-1.5) = 1 / (1 + e^-1) = 0.731059
    share = 0.7310585786300049
    for instruction, preference in preferences(sides["out"]).items():
        assert preference == pytest.approx(1 + (share if model_first[instruction] else 1 - share), abs=1e-12)


def test_version_2_of_a_judge_that_thinks_of_other_letters_is_unread(sides: dict[str, Any]) -> None:
    with Server(always=letters(C=-0.5, D=-1.5)) as server, pytest.raises(DataError, match="neither A nor B is among"):
        judged(server, version=2, **sides)


def test_version_2_of_an_endpoint_without_log_probabilities_ends_at_once(sides: dict[str, Any]) -> None:
    with Server(always=says("A")) as server, pytest.raises(CallError, match="gives no log-probabilities"):
        judged(server, version=2, **sides)


def test_a_model_is_sampled_and_its_outputs_go_the_way_of_those_in_a_file(sides: dict[str, Any]) -> None:
    with Server(always=says("an answer that is long")) as writer, Server(always=replies_with(longest)) as server:
        asked = {**sides, "answers": None, "model": f"openai:m@{writer.url}"}
        sampled = judged(server, **asked)
        assert len(writer.requests) == 3
        path = sides["out"] / alpaca_eval.OUTPUTS
        assert [row["generator"] for row in json.loads(path.read_text())] == ["m"] * 3
        read = judged(server, **{**sides, "answers": path})
        assert len(server.requests) == 6  # the same pairs: every verdict is on file
    assert read["models"] == sampled["models"]


def test_the_estimate_asks_nothing_and_counts_every_call(sides: dict[str, Any]) -> None:
    with Server() as server:
        found = judged(server, estimate=True, **{**sides, "answers": None, "model": f"openai:m@{server.url}"})
        assert server.requests == []
    assert [(part["purpose"], part["calls"]) for part in found["estimate"]] == [("answers", 3), ("verdicts", 6)]


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [({}, 15), ({"output": "json"}, 17), ({"version": 2}, 1)],
    ids=["Winner: [[tie]]", '{"winner": "tie"}', "a letter"],
)
def test_the_estimate_takes_a_verdict_for_as_short_as_it_is(
    sides: dict[str, Any], asked: dict[str, Any], tokens: int
) -> None:
    judges = ("openai:a@http://127.0.0.1:1/v1",)
    (found,) = bench.run("alpaca_eval", Asked(judge=judges, estimate=True, **asked, **sides))["estimate"]
    assert found["completion_tokens"]["expected"] == 6 * tokens


def test_a_panel_has_the_mean_of_its_preferences_and_each_member_its_own_win_rate(
    sides: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def write(prompt: str) -> str:
        shown = shown_answers(prompt)
        if "same" in shown.values():
            return "none"
        return f"Winner: [[{'A' if shown['A'] in ('short', 'a long one') else 'B'}]]"  # the rival's

    with Server(always=replies_with(longest)) as one, Server(always=replies_with(write)) as other:
        judges = (f"openai:long@{one.url}", f"openai:stern@{other.url}")
        found = bench.run("alpaca_eval", Asked(judge=judges, **sides))
        bench.run("alpaca_eval", Asked(judge=judges, **sides))
        assert (len(one.requests), len(other.requests)) == (6, 8)  # the prose is asked for once more
    # instruction one: 2 and 1, two: 1 and 1, three: 1.5 and unread
    assert preferences(sides["out"]) == {"one": 1.5, "two": 1.0, "three": None}
    rows = {row["name"]: row for row in found["rows"]}
    assert [(rows[name]["value"], rows[name]["n"]) for name in ("ours", "by long", "by stern")] == [
        (0.25, 2), (0.5, 3), (0, 2),
    ]  # fmt: skip
    assert list(rows) == [
        "ours", "at equal length", "by long", "by long, at equal length", "by stern", "by stern, at equal length",
    ]  # fmt: skip
    assert "judged by part of the panel; stern:" in found["left_out"]["items"][0]["detail"]
    (between,) = found["panel"]["agreement"]
    assert (between["same"]["value"], between["same"]["n"]) == (0.5, 2)
    # values 1 0 and 0 0: one squared difference of 1; around their mean 3 x 1/16 + 9/16 = 3/4; 1 - (3/4) x 1 / (3/4)
    assert between["alpha"]["value"] == pytest.approx(0)
    assert sorted(path.name for path in (sides["out"] / alpaca_eval.MEMBERS).iterdir()) == ["long.json", "stern.json"]
    told = capsys.readouterr().out
    assert "the mean of the members' preferences" in told and "Krippendorff's alpha" in told


def test_the_estimate_of_a_panel_has_a_line_for_each_judge(sides: dict[str, Any]) -> None:
    judges = ("openai:a@http://127.0.0.1:1/v1", "openai:b@http://127.0.0.1:1/v1")
    found = bench.run("alpaca_eval", Asked(judge=judges, estimate=True, **sides))["estimate"]
    assert [part["calls"] for part in found] == [6, 6]
    assert found[0]["model"] != found[1]["model"]
    with pytest.raises(UsageError, match="two judges of the panel"):
        bench.run("alpaca_eval", Asked(judge=judges[:1] * 2, **sides))


def test_other_models_annotations_beside_ours_tell_difficulty(sides: dict[str, Any], tmp_path: Path) -> None:
    other = [
        {"instruction": key, "len_1": 5, "len_2": size, "preference": said, "generator_1": "theirs"}
        for key, size, said in (("one", 9, 1.9), ("two", 4, 1.2), ("three", 3, 1.4))
    ]
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other))
    with Server(always=replies_with(longest)) as server:
        found = judged(server, annotations=(path,), **sides)
    assert [row["model"] for row in found["models"]] == ["ours", "other"]
    assert found["models"][0]["weights"]["difficulty"] is not None
    assert any("several judges" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "needs --model MODEL, --answers FILE, or --annotations"),
        ({"model": "smollm2", "answers": Path("a.json")}, "not both"),
        ({"model": "smollm2"}, "needs --judge MODEL and --against FILE"),
        ({"annotations": (Path("a.json"),), "judge": ("smollm2",)}, "leave out --judge"),
        ({"annotations": (Path("a.json"),), "one_order": True}, "leave out --one-order"),
        ({"model": "smollm2", "judge": ("smollm2",), "against": "b.json", "version": 2}, "--version 2 needs"),
        ({"model": "smollm2", "judge": ("smollm2",), "against": "no-file"}, "needs --data FILE with the instructions"),
        ({"annotations": (Path("a.json"),), "judgments": Path("b")}, "--judgments means nothing"),
        ({"annotations": (Path("a.json"),), "output": "json"}, "leave out --output"),
        ({"model": "smollm2", "judge": ("smollm2",), "against": "b", "output": "json"}, "needs an endpoint as judge"),
        (
            {"model": "m", "judge": ("openai:j@http://h",), "against": "b", "version": 2, "output": "json"},
            "leave out --output json",
        ),
    ],
)
def test_what_is_unclear_is_refused_in_one_line(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as told:
        bench.run("alpaca_eval", Asked(**asked))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["alpaca_eval", "mt_bench"])
def test_two_models_of_one_name_are_refused_before_either_is_asked(name: str) -> None:
    sides = {"model": "openai:m@http://127.0.0.1:1/v1", "against": "openai:m@http://127.0.0.1:2/v1"}
    with pytest.raises(UsageError, match="both sides are called m; ask one of them first"):
        bench.run(name, Asked(**sides, judge=("openai:j@http://127.0.0.1:3/v1",)))


def test_two_sides_of_one_name_are_refused(tmp_path: Path) -> None:
    path = outputs(tmp_path / "a.json", "same", {"one": "x"})
    with Server() as server, pytest.raises(UsageError, match="both sides are called same"):
        judged(server, answers=path, against=str(path), out=tmp_path / "out")


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published outputs are not here (../shared/data)")
def test_the_published_outputs_of_starling_go_the_same_way(tmp_path: Path) -> None:
    """All 805 are read; a judge is asked about those that the rival has as well."""
    published = PUBLISHED / "outputs_Starling-LM-7B-alpha.jsonl.gz"
    rows = [row for _, row in alpaca_annotations.rows(published)][:150]
    rival = outputs(tmp_path / "rival.json", "rival", {row["instruction"]: row["output"][:900] for row in rows})
    with Server(always=replies_with(longest)) as server:
        found = judged(server, answers=published, against=str(rival), out=tmp_path / "out", one_order=True)
    (row,) = found["models"]
    assert (row["model"], row["n"]) == ("Starling-LM-7B-alpha", 150)
    assert found["left_out"]["reasons"] == {"answers no question of this set": 655}
    longer = sum(len(one["output"]) > 900 for one in rows)
    assert (row["n_wins"], row["n_draws"], row["n_wins_base"]) == (longer, 150 - longer, 0)


def test_a_reward_model_prefers_the_output_with_the_higher_reward(
    reward_model: Any, sides: dict[str, Any], tmp_path: Path
) -> None:
    models.save(reward_model, tmp_path / "rm")
    found = bench.run("alpaca_eval", Asked(judge=(str(tmp_path / "rm"),), **sides))
    rows = json.loads((sides["out"] / alpaca_eval.ANNOTATIONS).read_text())
    scorer = reward.load_reward_model(str(tmp_path / "rm"))
    for row in rows:
        (ours, theirs) = scorer.score([row["instruction"]], [[row["output_2"], row["output_1"]]])[0]
        assert row["preference"] == (2.0 if ours > theirs else 1.0 if ours < theirs else 1.5)
    assert found["judge"]["name"] == str(tmp_path / "rm")


def test_a_reward_model_sits_on_a_panel_beside_an_llm(reward_model: Any, sides: dict[str, Any], tmp_path: Path) -> None:
    models.save(reward_model, tmp_path / "rm")
    with Server(always=replies_with(longest)) as server:
        judges = (f"openai:long@{server.url}", str(tmp_path / "rm"))
        parts = bench.run("alpaca_eval", Asked(judge=judges, estimate=True, **sides))["estimate"]
        found = bench.run("alpaca_eval", Asked(judge=judges, **sides))
        assert len(server.requests) == 6
    assert len(parts) == 1  # the reward model is asked nothing
    rewards = bench.run("alpaca_eval", Asked(judge=judges[1:], **sides | {"out": tmp_path / "alone"}))
    of_rewards = preferences(tmp_path / "alone")
    of_words = {"one": 2.0, "two": 1.0, "three": 1.5}
    assert preferences(sides["out"]) == {key: (of_rewards[key] + of_words[key]) / 2 for key in of_words}
    by_rewards = next(row for row in found["rows"] if row["name"] == f"by {tmp_path / 'rm'}")
    assert by_rewards["value"] == rewards["rows"][0]["value"]
