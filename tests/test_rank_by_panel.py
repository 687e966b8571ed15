"""rank by several judges: each asks for itself, one that cannot be read is left out, and all that is told of them."""

import json
from collections import Counter

import pytest
from servers import Server, fails, ranking_judge, replies_with
from small_road import recipe
from test_rank import items_of, ranking_of, sampled, start

from starling import cli, config, data_files, estimate, judgements, lineage
from starling.errors import CallError
from starling.judges.ranks import kendall, mean_ranks
from starling.judges.rubric import RubricJudge
from starling.stages import rank

__all__ = ["sampled"]  # a fixture
QUIET = {"rank__probe_prompts": 0}
PROSE = replies_with(lambda question: "They are all nice.")


def judge(server: Server, name: str = "m") -> str:
    return f"openai:{name}@{server.url}"


def panel(*judges: str) -> dict:
    return QUIET | {"rank__judges": list(judges)}


def opinions(row: dict) -> dict[str, dict[str, float]]:
    """The rank of each model's answer by each judge that could be read."""
    return {
        one["judge"]: {answer["model"]: rank for answer, rank in zip(row["answers"], one["ranks"], strict=True)}
        for one in row["panel"]
        if one["ranks"]
    }


def test_every_judge_ranks_every_prompt_and_the_row_has_the_mean_of_their_ranks(
    tiny_model, tmp_path, sampled, capsys
) -> None:
    with Server(always=replies_with(ranking_judge(len))) as long, Server(always=replies_with(ranking_judge(hash))) as h:
        run = start(tmp_path, tiny_model, sampled, **panel("rubric", judge(long), judge(h)))
        facts = rank.run(run)
        assert (len(long.requests), len(h.requests)) == (15, 15)
    rows = data_files.read_rows(run.root / "rank")
    assert len(rows) == 15
    by_rubric = RubricJudge(tie_margin=run.config.rank.tie_margin).rank(items_of(run))
    alone = {prompt.id: one.ranks for (prompt, _), one in zip(items_of(run), by_rubric, strict=True)}
    for row in rows:
        names, told = [one["model"] for one in row["answers"]], opinions(row)
        assert list(told) == [one["judge"] for one in facts["panel"]["members"]]
        assert [told["rubric"][name] for name in ("plain", "greedy", "hot")] == alone[row["prompt_id"]]
        said = [[one[name] for name in names] for one in told.values()]
        assert [one["rank"] for one in row["answers"]] == mean_ranks(said)
        assert row["judge"] == facts["judge"] == f"panel of {', '.join(told)}"
        assert (len(row["calls"]), row["orders"], row["unread"]) == (2, [], 0)
    members = facts["panel"]["members"]
    assert [(one["ranked"], one["unranked"], one["asking"] is None) for one in members] == [
        (15, 0, True), (15, 0, False), (15, 0, False),
    ]  # fmt: skip
    assert [len(one["between"]) for one in facts["panel"]["agreement"]] == [2, 2, 2, 3]
    assert [entry["calls"] for entry in facts["spending"]] == [15, 15]
    out = " ".join(capsys.readouterr().out.split())
    assert "Kendall's tau-b" in out and "all 3" in out


def test_a_judge_that_writes_prose_is_left_out_and_counted(tiny_model, tmp_path, sampled, capsys) -> None:
    with Server(always=PROSE) as server:
        run = start(tmp_path, tiny_model, sampled, **panel("rubric", judge(server)), rank__attempts=1)
        facts = rank.run(run)
    one, other = facts["panel"]["members"]
    assert (facts["ranked"], facts["unranked"], one["unranked"], other["unranked"]) == (15, 0, 0, 15)
    assert other["unparsed"]["value"] == 1 and sum(other["reasons"].values()) == 15
    (found,) = facts["panel"]["agreement"]
    assert (found["tau"]["n"], found["alpha"]["n"]) == (0, 0)
    for row in data_files.read_rows(run.root / "rank"):
        assert [answer["rank"] for answer in row["answers"]] == row["panel"][0]["ranks"]
        assert (row["self_agreement"], row["unread"], row["panel"][1]["ranks"]) == (None, 1, [])
        assert row["panel"][1]["reason"]
    assert "100 % (79.6 to 100), n = 15" in " ".join(capsys.readouterr().out.split())


def test_a_prompt_that_no_judge_ranked_stays_unranked_with_the_reason_of_each(tiny_model, tmp_path, sampled) -> None:
    by_length = ranking_judge(len)

    def write(question: str) -> str:
        return "I would rather not say." if "Say one word about the rain." in question else by_length(question)

    with Server(always=replies_with(write)) as one, Server(always=replies_with(write)) as other:
        run = start(tmp_path, tiny_model, sampled, **panel(judge(one), judge(other)))
        facts = rank.run(run)
    (kept,) = data_files.read_rows(run.root / "unranked" / "00000.jsonl")
    assert kept["prompt_id"] == "rain-0"
    names = [member["judge"] for member in facts["panel"]["members"]]
    assert all(f"{name}: " in kept["reason"] for name in names)
    assert [member["judge"] for member in kept["panel"]] == names
    assert [member["unranked"] for member in facts["panel"]["members"]] == [1, 1]
    run.started("rank")
    run.finished("rank", facts)
    whole, *alone = judgements.with_members(run.root)
    assert [len(log.calls) for log in (whole, *alone)] == [15, 15, 15]
    assert [sum(call.ranks is None for call in log.calls) for log in (whole, *alone)] == [1, 1, 1]


def test_two_judges_alike_agree_wholly_and_rank_as_one_does(tiny_model, tmp_path, sampled) -> None:
    with Server(always=replies_with(ranking_judge(len))) as one, Server(always=replies_with(ranking_judge(len))) as two:
        run = start(tmp_path / "two", tiny_model, sampled, **panel(judge(one), judge(two)))
        (found,) = rank.run(run)["panel"]["agreement"]
        alone = start(tmp_path / "one", tiny_model, sampled, **QUIET, rank__judge=judge(one))
        rank.run(alone)
    assert found["alpha"]["value"] == pytest.approx(1) and found["tau"]["value"] == pytest.approx(1)
    ours, theirs = ranking_of(run), ranking_of(alone)
    for key, ranking in theirs.items():
        assert {a.model: r for a, r in zip(ours[key].answers, ours[key].ranks, strict=True)} == {
            a.model: r for a, r in zip(ranking.answers, ranking.ranks, strict=True)
        }
        assert ours[key].self_agreement == pytest.approx(1)


def test_agreement_weighs_a_prompt_by_how_far_its_judges_agree(tiny_model, tmp_path, sampled) -> None:
    with (
        Server(always=replies_with(ranking_judge(len))) as long,
        Server(always=replies_with(ranking_judge(lambda text: -len(text)))) as short,
    ):
        run = start(tmp_path, tiny_model, sampled, **panel(judge(long), judge(short)))
        rank.run(run)
    for row in data_files.read_rows(run.root / "rank"):
        assert row["self_agreement"] == kendall(*(one["ranks"] for one in row["panel"]))
        assert row["self_agreement"] < 1


def test_what_was_answered_before_an_end_is_not_asked_again(tiny_model, tmp_path, sampled) -> None:
    """The second judge refuses in the middle of the second of three shards; the same command then goes on."""
    by_length = replies_with(ranking_judge(len))
    with Server(always=by_length) as steady, Server(*[by_length] * 8, fails(401), always=by_length) as fallen:
        settings = panel(judge(steady, "steady"), judge(fallen, "fallen")) | {"rank__shard_prompts": 6}
        run = start(tmp_path, tiny_model, sampled, **settings)
        with pytest.raises(CallError):
            rank.run(run)
        assert len(list((run.root / "rank").glob("*.parquet"))) == 1
        assert len(steady.requests) == 12  # about both shards, before the other judge was asked about the second
        facts = rank.run(run)
        assert facts == rank.run(run) | {"spending": facts["spending"]}
    assert (facts["ranked"], [one["ranked"] for one in facts["panel"]["members"]]) == (15, [15, 15])
    assert max(Counter(steady.asked()).values()) == 1 and len(steady.requests) == 15
    assert len(set(fallen.asked())) == 15 and 16 <= len(fallen.requests) <= 15 + 6  # again: refused or in flight


def test_the_run_is_audited_shown_exported_and_estimated(tiny_model, tmp_path, sampled, capsys) -> None:
    def write(question: str) -> str:
        return "They are nice." if "river" in question else ranking_judge(len)(question)

    with Server(always=replies_with(write)) as server:
        more = {"rank__max_unparsed": 0.5, "rank__attempts": 1}
        run = start(tmp_path, tiny_model, sampled, **panel("rubric", judge(server)), **more)
        run.started("rank")
        run.finished("rank", rank.run(run))
    capsys.readouterr()
    assert cli.main(["audit", str(run.root), "--json", "--out", str(tmp_path / "audit.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [log["calls"] for log in found["logs"]] == [15, 15, 15]
    assert [log["unparsed"]["value"] for log in found["logs"]] == [0, 0, pytest.approx(3 / 15)]
    assert [log["repeats"]["n"] for log in found["logs"]] == [0, 0, 0]  # no judge was asked twice
    assert len(found["between"]) == 3 and len(found["logs"][2]["positions"]) == 1
    name = found["logs"][2]["judges"]
    assert list(name) == [run.facts("rank")["panel"]["members"][1]["judge"]]

    (read,) = lineage.of_prompt(run, "rain-0")
    assert [one["judge"] for one in read["panel"]] == ["rubric", *name]
    assert len(read["calls"]) == 1 and read["strategy"].startswith("each judge by itself (rubric, openai:m@")
    for row, told in (("rain-0", "ranks: "), ("river-0", "could not be read: ")):
        assert cli.main(["show", str(run.root), "--row", row]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert told in out and "rubric" in out
    assert cli.main(["export", str(run.root), "--to", "nectar", "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| rubric | a program | 15 | 0 % " in card and "20.0 % (" in card and "Krippendorff" in card
    assert "127.0.0.1" in card


def test_an_estimate_counts_the_calls_of_every_judge(tiny_model, tmp_path, sampled) -> None:
    judges = ["rubric", "openai:a@http://127.0.0.1:9/v1", "openai:b@http://127.0.0.1:9/v1"]
    run = start(tmp_path, tiny_model, sampled, **panel(*judges), evaluate__judges=judges[1:])
    parts = estimate.estimate(run.config, run.root)["stages"]
    told = {(part["stage"], part["endpoint"].partition("@")[0]): part["calls"]["expected"] for part in parts}
    assert (told["rank", "a"], told["rank", "b"]) == (15, 15)
    assert told["tune", "a"] == told["tune", "b"] > 0
    assert (told["evaluate", "a"], told["evaluate", "b"]) == (6, 6)  # 3 prompts, 2 draws


def test_an_estimate_adds_up_the_ways_in_which_one_endpoint_is_asked(tiny_model, tmp_path, sampled) -> None:
    judges = [{"judge": "openai:a@http://127.0.0.1:9/v1", "strategy": how} for how in ("kwise", "pairwise")]
    path = recipe(tmp_path, tiny_model, **QUIET)
    tables = "".join(f'[[rank.judges]]\njudge = "{one["judge"]}"\nstrategy = "{one["strategy"]}"\n' for one in judges)
    path.write_text(path.read_text() + tables)
    (part,) = estimate.estimate(config.load(path), tmp_path / "none", ["rank"])["stages"]
    assert part["calls"]["expected"] == 15 * (1 + 6)  # three answers: one call, or three pairs in both orders
    assert part["calls"]["at_most"] == 15 * (1 + 6) * 2
