"""rank: a judge orders the answers; what it does not say readably is kept apart."""

from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import Server, ranking_judge, replies_with, says, shown_answers
from small_road import recipe

from starling import audit, config, data_files, judgements, progress, tables
from starling.borrowing import borrow
from starling.errors import StopStage
from starling.judges.rubric import RubricJudge
from starling.stages import prompts, rank, sample
from starling.store import Run
from starling.streams import Answers


@pytest.fixture(scope="module")
def sampled(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 15 prompts with three answers each."""
    folder = tmp_path_factory.mktemp("sampled")
    run = Run.open(folder / "run", config.load(recipe(folder, tiny_model)))
    for stage in (prompts, sample):
        name = stage.__name__.rpartition(".")[2]
        run.started(name)
        run.finished(name, stage.run(run))
    return run


def start(folder: Path, tiny_model: Path, sampled: Run, **changes) -> Run:
    """A run of other settings for `rank` that borrows prompts and answers."""
    run = Run.open(folder / "run", config.load(recipe(folder, tiny_model, **changes)))
    borrow(run, sampled, ["prompts", "sample"])
    return run


def items_of(run: Run) -> list:
    return [item for shard in Answers(run).shards(1000) for item in shard]


def ranking_of(run: Run) -> dict:
    return {found.prompt_id: found for found in tables.rankings_of(run, tables.prompts_of(run, "train", "validation"))}


def test_the_rubrics_ranking_is_written_best_answer_first(tiny_model: Path, tmp_path: Path, sampled: Run) -> None:
    run = start(tmp_path, tiny_model, sampled, rank__probe_prompts=0)
    facts = rank.run(run)
    assert (facts["judge"], facts["ranked"], facts["unranked"], facts["probe"]) == ("rubric", 15, 0, None)
    items = items_of(run)
    judged = RubricJudge(tie_margin=run.config.rank.tie_margin).rank(items)
    found = ranking_of(run)
    for (prompt, answers), verdict in zip(items, judged, strict=True):
        ranking = found[prompt.id]
        assert list(ranking.ranks) == sorted(verdict.ranks)
        assert {answer.model: rank for answer, rank in zip(ranking.answers, ranking.ranks, strict=True)} == {
            answer.model: rank for answer, rank in zip(answers, verdict.ranks, strict=True)
        }
        assert (ranking.messages, ranking.good_natured) == (prompt.messages, prompt.good_natured)
    assert not (run.root / "unranked").exists()


def test_what_a_killed_shard_left_unranked_goes_once_the_shard_is_ranked(tiny_model, tmp_path, sampled) -> None:
    run = start(tmp_path, tiny_model, sampled, rank__probe_prompts=0)
    data_files.write_jsonl(run.root / "unranked" / "00000.jsonl", [{"prompt_id": "rain-0", "reason": "no reply"}])
    assert rank.run(run)["unranked"] == 0
    assert not any((run.root / "unranked").iterdir())
    run.started("rank")
    run.finished("rank", {})
    assert len(judgements.read(run.root).calls) == 15


def test_items_hold_the_answers_in_the_order_of_the_generators(sampled: Run) -> None:
    items = items_of(sampled)
    assert len(items) == 15
    assert all([answer.model for answer in answers] == ["plain", "greedy", "hot"] for _, answers in items)


def test_prompts_without_a_readable_ranking_are_kept_apart_with_reason_and_replies(
    tiny_model: Path, tmp_path: Path, sampled: Run
) -> None:
    by_length = ranking_judge(len)

    def write(question: str) -> str:
        return "I would rather not say." if "Say one word about the rain." in question else by_length(question)

    with Server(always=replies_with(write)) as server:
        judge = f"openai:judge@{server.url}"
        run = start(tmp_path, tiny_model, sampled, rank__judge=judge, rank__probe_prompts=0)
        facts = rank.run(run)
    assert (facts["ranked"], facts["unranked"]) == (14, 1)
    (kept,) = data_files.read_rows(run.root / "unranked" / "00000.jsonl")
    assert kept["prompt_id"] == "rain-0"
    assert kept["reason"]
    assert set(kept["replies"]) == {"I would rather not say."}
    found = ranking_of(run)
    assert "rain-0" not in found
    for ranking in found.values():
        lengths = [len(answer.answer) for answer in ranking.answers]
        assert lengths == sorted(lengths, reverse=True)
        assert ranking.judge.startswith("kwise:judge@")
        shown = [ranking.answers[index].answer for index in ranking.orders[0]]
        assert sorted(shown) == sorted(answer.answer for answer in ranking.answers)


def test_progress_is_told_of_each_call_once_as_its_reply_comes(tiny_model, tmp_path, sampled, monkeypatch) -> None:
    seen = []

    @contextmanager
    def track(stage, total, unit):
        seen.append((stage, total, unit))
        yield seen.append

    monkeypatch.setattr(progress, "track", track)
    with Server(says("no"), always=replies_with(ranking_judge(len))) as server:
        judge = f"openai:judge@{server.url}"
        rank.run(start(tmp_path, tiny_model, sampled, rank__judge=judge, rank__probe_prompts=0))
    assert seen == [("rank", 15, "calls"), *[1] * 15, 0]


def test_the_stage_stops_where_too_little_can_be_read(tiny_model: Path, tmp_path: Path, sampled: Run) -> None:
    with Server(always=replies_with(lambda question: "They are all nice.")) as server:
        judge = f"openai:judge@{server.url}"
        run = start(tmp_path, tiny_model, sampled, rank__judge=judge, rank__max_unparsed=0.5, rank__probe_prompts=0)
        with pytest.raises(
            StopStage, match=r"^rank: 15 of 15 prompts have no readable ranking \(100%, limit 50%\); .*$"
        ):
            rank.run(run)
    assert list(run.folder("rank").iterdir()) == []


@pytest.mark.parametrize(("unread", "stops"), [(0, False), (1, False), (2, True)])
def test_a_share_at_the_limit_does_not_stop(
    tiny_model: Path, tmp_path: Path, sampled: Run, unread: int, stops: bool
) -> None:
    run = start(tmp_path, tiny_model, sampled, rank__max_unparsed=0.2)
    reasons = Counter({"no verdict": unread})
    if not stops:
        rank._refuse_unparsed(run, reasons, 5, "scripted")
        return
    with pytest.raises(StopStage, match=r"2 of 5 .*\(40%, limit 20%\); most often \(2\): no verdict; judge: scripted"):
        rank._refuse_unparsed(run, reasons, 5, "scripted")


def test_shards_give_the_same_rankings_orders_and_facts_as_one_shard(
    tiny_model: Path, tmp_path: Path, sampled: Run
) -> None:
    found = []
    for name, size in (("one", 1000), ("many", 4)):
        (tmp_path / name).mkdir()
        with Server(always=replies_with(ranking_judge(len))) as server:
            changes = {"rank__judge": f"openai:judge@{server.url}", "rank__probe_prompts": 0}
            run = start(tmp_path / name, tiny_model, sampled, rank__shard_prompts=size, **changes)
            facts = rank.run(run)
        rows = [row | {"judge": "", "calls": []} for row in data_files.read_rows(run.folder("rank"))]
        found.append((rows, {key: facts[key] for key in ("ranked", "mean_rank", "longer_ranked_above", "tied_pairs")}))
    assert found[0] == found[1]
    # 4 is rounded up to 6, a multiple of the three answers: 6 + 6 + 3 prompts
    assert [len(data_files.read_rows(path)) for path in sorted(run.folder("rank").iterdir())] == [6, 6, 3]
    first_shown = Counter(row["answers"][row["orders"][0][0]]["model"] for row in found[1][0])
    assert set(first_shown.values()) == {5}


def test_only_the_shard_that_is_missing_is_judged_again(tiny_model: Path, tmp_path: Path, sampled: Run) -> None:
    by_length = ranking_judge(len)

    def write(question: str) -> str:
        return "I would rather not say." if "Say one word about the rain." in question else by_length(question)

    with Server(always=replies_with(write)) as server:
        changes = {"rank__judge": f"openai:judge@{server.url}", "rank__probe_prompts": 0, "rank__shard_prompts": 6}
        run = start(tmp_path, tiny_model, sampled, **changes)
        before = rank.run(run)
        asked = len(server.requests)
        (run.folder("rank") / "00001.parquet").unlink()
        kept = (run.folder("rank") / "00000.parquet").stat().st_mtime_ns
        after = rank.run(run)
        assert len(server.requests) == asked  # the ledger has the replies of the shard that is judged again
    assert (run.folder("rank") / "00000.parquet").stat().st_mtime_ns == kept
    same = ("ranked", "unranked", "mean_rank", "longer_ranked_above", "tied_pairs")
    assert [after[key] for key in same] == [before[key] for key in same]
    assert (after["ranked"], after["unranked"]) == (14, 1)
    (before_spent,), (after_spent,) = before["spending"], after["spending"]
    assert (after_spent["calls"], before_spent["calls"]) == (16, 16)  # the unread reply was asked for twice
    assert (before_spent["from_ledger"], after_spent["from_ledger"]) == (
        0,
        6 if first_shard_holds(run, "rain-0") else 7,
    )


def first_shard_holds(run: Run, prompt_id: str) -> bool:
    return (run.root / "unranked" / "00000.jsonl").exists() and any(
        row["prompt_id"] == prompt_id for row in data_files.read_rows(run.root / "unranked" / "00000.jsonl")
    )


def test_the_runs_own_model_is_probed_as_a_judge(tiny_model: Path, tmp_path: Path, sampled: Run) -> None:
    run = start(tmp_path, tiny_model, sampled, rank__probe_prompts=2, rank__probe_tokens=8)
    probe = rank.run(run)["probe"]
    assert probe["prompts"] == 2
    assert probe["judge"] == f"kwise:{tiny_model}"
    assert probe["unparsed"] + probe["position"]["n"] <= 2
    assert sum(probe["reasons"].values()) == probe["unparsed"]


@pytest.mark.parametrize("strategy", ["kwise", "direct", "pairwise", "pointwise"])
def test_every_strategy_stops_with_a_clear_message_past_the_limit(
    strategy: str, tiny_model: Path, tmp_path: Path, sampled: Run
) -> None:
    with Server(always=replies_with(lambda question: "They are all nice.")) as server:
        judge = {"rank__judge": f"openai:judge@{server.url}", "rank__strategy": strategy}
        run = start(tmp_path, tiny_model, sampled, **judge, rank__probe_prompts=0)
        with pytest.raises(StopStage, match=r"^rank: 15 of 15 prompts have no readable ranking \(100%, limit 20%\)"):
            rank.run(run)


def test_repeats_are_stored_call_by_call_and_the_effect_of_place_is_told(
    tiny_model: Path, tmp_path: Path, sampled: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(question: str) -> str:  # whoever is shown first, but on the rain by length
        asked = question.partition("<<conversation")[2].partition("<<end of conversation")[0]
        return ranking_judge(len)(question) if "rain" in asked else f"[[{', '.join(shown_answers(question))}]]"

    with Server(always=replies_with(write)) as server:
        settings = {
            "rank__judge": f"openai:judge@{server.url}", "rank__strategy": "direct", "rank__adaptive": 0.5,
            "rank__max_repeats": 3, "rank__position_corrected": True, "rank__probe_prompts": 0,
        }  # fmt: skip
        run = start(tmp_path, tiny_model, sampled, **settings)
        facts = rank.run(run)
    times = Counter(len(ranking.orders) for ranking in ranking_of(run).values())
    assert facts["asking"]["prompts_by_repeats"] == {"2": times[2], "3": times[3]}
    for ranking in ranking_of(run).values():  # answers as long as each other are told apart by their places alone
        settled = len({len(answer.answer) for answer in ranking.answers}) == 3
        assert len(ranking.orders) == (2 if settled and ranking.prompt_id.startswith("rain") else 3)
    assert (facts["asking"]["strategy"], facts["asking"]["unread_calls"]) == ("direct", 0)
    (effects,) = facts["position_effects"]
    assert (effects["k"], effects["prompts"]) == (3, times[3])
    assert effects["effect"] == sorted(effects["effect"], reverse=True) and effects["low"] == []
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "rank: effect of place among 3 answers" in said
        and "too few, or all by the place alone, to say how sure" in said
    )
    for ranking in ranking_of(run).values():
        assert len(ranking.orders) == len(ranking.rankings) in (2, 3)
        assert ranking.self_agreement is not None
        for order, ranks in zip(ranking.orders, ranking.rankings, strict=True):
            assert sorted(order) == [0, 1, 2] and sorted(ranks) == [1, 2, 3]
    calls = judgements.read(run.root / "rank").calls
    assert len(calls) == 2 * times[2] + 3 * times[3]
    tilted = audit.first_place_by_position([call for call in calls if "rain" not in call.prompt], 3)
    assert tilted["first"][1:] == [0, 0]


def test_marks_are_stored_with_the_answer_that_got_them(tiny_model: Path, tmp_path: Path, sampled: Run) -> None:
    def write(question: str) -> str:
        (text,) = shown_answers(question).values()
        return f"Rating: [[{min(10, 1 + len(text) // 8)}]]"

    with Server(always=replies_with(write)) as server:
        judge = {"rank__judge": f"openai:judge@{server.url}", "rank__strategy": "pointwise"}
        run = start(tmp_path, tiny_model, sampled, **judge, rank__probe_prompts=0)
        assert rank.run(run)["position_effects"] == []
    for ranking in ranking_of(run).values():
        marks = {index: mark for (index,), mark in zip(ranking.orders, ranking.marks, strict=True)}
        assert [marks[index] for index in range(3)] == sorted(marks.values(), reverse=True)
        assert marks == {n: min(10, 1 + len(answer.answer) // 8) for n, answer in enumerate(ranking.answers)}


@pytest.mark.parametrize(("strategy", "a_prompt"), [("kwise", 2), ("direct", 2), ("pairwise", 12), ("pointwise", 6)])
def test_shards_tell_the_same_of_calls_and_places_as_one_shard_also_when_they_are_only_read(
    strategy: str, a_prompt: int, tiny_model: Path, tmp_path: Path, sampled: Run
) -> None:
    """Twice three answers: one call each, six pairs in both orders, or three marks."""

    def write(question: str) -> str:
        if strategy == "pointwise":
            (text,) = shown_answers(question).values()
            return f"Rating: [[{min(10, 1 + len(text) // 8)}]]"
        shown = shown_answers(question)
        if strategy == "pairwise":  # on the river whoever is shown first, else the longer one
            return "[[A]]" if "river" in question or len(shown["A"]) >= len(shown["B"]) else "[[B]]"
        return f"[[{', '.join(shown)}]]" if "river" in question else ranking_judge(len)(question)

    found = []
    for name, size in (("one", 1000), ("many", 4)):
        (tmp_path / name).mkdir()
        with Server(always=replies_with(write)) as server:
            changes = {"rank__judge": f"openai:judge@{server.url}", "rank__repeats": 2, "rank__strategy": strategy}
            run = start(
                tmp_path / name, tiny_model, sampled, **changes, rank__probe_prompts=0, rank__shard_prompts=size
            )
            facts = rank.run(run)
            again = rank.run(run)
        told = ("asking", "position_effects")
        assert [facts[key] for key in told] == [again[key] for key in told]
        found.append(facts)
        for ranking in ranking_of(run).values():
            assert len(set(ranking.calls)) == len(ranking.calls) == len(ranking.orders) == len(ranking.repeats)
            assert (len(ranking.calls), set(ranking.repeats), ranking.unread) == (a_prompt, {0, 1}, 0)
    one, many = found
    assert many["asking"] == one["asking"]
    assert one["asking"]["replies"] == 15 * a_prompt
    for ours, theirs in zip(many["position_effects"], one["position_effects"], strict=True):
        assert ours["effect"] == pytest.approx(theirs["effect"], abs=1e-6)
        assert (ours["n"], ours["prompts"]) == (theirs["n"], theirs["prompts"])
