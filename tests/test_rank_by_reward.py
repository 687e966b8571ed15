"""rank by a reward model: alone, in a panel, killed and begun again, and with other weights in its folder."""

import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import known_rewards
import pytest
from servers import Server, ranking_judge, replies_with
from small_road import content
from test_rank import items_of, ranking_of, sampled, start
from tolerances import CLOSE

from starling import audit, chat, cli, data_files, judgements, lineage, models, progress, reward
from starling.errors import StopStage, UsageError
from starling.judges.ranks import mean_ranks, ranks_with_ties
from starling.judges.rubric import RubricJudge
from starling.reward import Question
from starling.stages import rank
from starling.store import Run

__all__ = ["sampled"]  # a fixture
QUIET = {"rank__probe_prompts": 0}


@pytest.fixture
def judge(reward_model: Any, tmp_path: Path) -> str:
    models.save(reward_model, tmp_path / "rm")
    return str(tmp_path / "rm")


def rewards_of(run: Run, judge: str) -> dict[str, dict[str, float]]:
    """The reward of each model's answer to each prompt, each answer by itself."""
    scorer = reward.load_reward_model(judge)
    found = {}
    for prompt, answers in items_of(run):
        asked = [
            Question(messages=prompt.messages, answers=[one.answer or " "], finished=[one.finished], where=one.model,
                     reads_empty=True)
            for one in answers
        ]  # fmt: skip
        scored = [row[0] for row in scorer.score_questions(asked)]
        found[prompt.id] = {one.model: value for one, value in zip(answers, scored, strict=True)}
    return found


def test_each_prompts_answers_are_ranked_by_reward_and_all_is_told(
    tiny_model: Path, tmp_path: Path, sampled: Run, judge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path, tiny_model, sampled, **QUIET, rank__judge=judge)
    facts = rank.run(run)
    assert (facts["ranked"], facts["unranked"], facts["asking"], facts["position_effects"]) == (15, 0, None, [])
    said = f"rank: {facts['judge']} ranks by its rewards; it reads each answer alone"
    assert said in capsys.readouterr().out.replace("\n", "")
    assert (facts["spending"], facts["reward_models"][0]["name"]) == ([], judge)
    assert facts["judge"] == f"reward:{judge}#{facts['reward_models'][0]['weights_sha256'][:12]}"
    expected = rewards_of(run, judge)
    for row in data_files.read_rows(run.folder("rank")):
        alone = expected[row["prompt_id"]]
        told = {row["answers"][at]["model"]: mark for (at,), mark in zip(row["orders"], row["marks"], strict=True)}
        assert told == pytest.approx(alone, rel=CLOSE, abs=CLOSE)
        names = [one["model"] for one in row["answers"]]
        assert [one["rank"] for one in row["answers"]] == sorted(ranks_with_ties([told[name] for name in names], 0))
        assert (row["judge"], row["template_hash"], row["calls"]) == (facts["judge"], facts["template_hash"], [])
    run.started("rank")
    run.finished("rank", facts)
    found = audit.audit(judgements.read(run.root))
    assert found["missing"]["position"] == "the judge reads each answer alone, so no order can sway it"
    assert lineage.strategy(run) == "by the reward of each answer"
    capsys.readouterr()
    assert cli.main(["show", str(run.root), "--row", "rain-0"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "rewards" in said and "shown in order" not in said


def test_a_panel_with_the_rubric_and_an_endpoint_ranks_by_the_mean_of_their_ranks(
    tiny_model: Path, tmp_path: Path, sampled: Run, judge: str
) -> None:
    with Server(always=replies_with(ranking_judge(len))) as server:
        by = ["rubric", judge, f"openai:m@{server.url}"]
        facts = rank.run(run := start(tmp_path, tiny_model, sampled, **QUIET, rank__judges=by))
        assert len(server.requests) == 15
    items, expected = items_of(run), rewards_of(run, judge)
    by_rubric = RubricJudge(tie_margin=run.config.rank.tie_margin).rank(items)
    alone = {prompt.id: list(one.ranks or ()) for (prompt, _), one in zip(items, by_rubric, strict=True)}
    for row in data_files.read_rows(run.folder("rank")):
        names = [one["model"] for one in row["answers"]]
        rubric, rewarded, asked = (dict(zip(names, one["ranks"], strict=True)) for one in row["panel"])
        assert [rubric[name] for name in ("plain", "greedy", "hot")] == alone[row["prompt_id"]]
        rewards = expected[row["prompt_id"]]
        assert all((rewarded[a] < rewarded[b]) == (rewards[a] > rewards[b]) for a in names for b in names if a != b)
        said = [[one[name] for name in names] for one in (rubric, rewarded, asked)]
        assert [one["rank"] for one in row["answers"]] == mean_ranks(said)
        assert (len(row["calls"]), len(row["panel"][1]["marks"])) == (1, 3)
    members = facts["panel"]["members"]
    assert [one["asking"] is None for one in members] == [True, True, False]
    assert [one["judge"] for one in members][1] == f"reward:{judge}#{facts['reward_models'][0]['weights_sha256'][:12]}"


def test_progress_counts_the_answers_as_they_are_read(
    tiny_model: Path, tmp_path: Path, sampled: Run, judge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    @contextmanager
    def track(stage, total, unit):
        seen.append((stage, total, unit))
        yield seen.append

    monkeypatch.setattr(progress, "track", track)
    rank.run(start(tmp_path, tiny_model, sampled, **QUIET, rank__judge=judge))
    assert seen[0] == ("rank", 45, "answers read") and sum(seen[1:]) == 45


def test_after_a_kill_the_shards_that_stand_are_kept_and_the_rankings_are_the_same(
    tiny_model: Path, tmp_path: Path, sampled: Run, judge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = QUIET | {"rank__judge": judge, "rank__shard_prompts": 6}
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = start(tmp_path / "whole", tiny_model, sampled, **changes)
    facts = rank.run(whole)
    run = start(tmp_path / "killed", tiny_model, sampled, **changes)
    read = 0

    @contextmanager
    def dies_in_the_second_shard(stage, total, unit):
        def advance(count: int) -> None:
            nonlocal read
            read += count
            if read > 18:
                raise KeyboardInterrupt

        yield advance

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(progress, "track", dies_in_the_second_shard)
        rank.run(run)
    (kept,) = run.folder("rank").iterdir()
    before = kept.stat().st_mtime_ns
    assert rank.run(run) == facts
    assert kept.stat().st_mtime_ns == before
    assert content(run.folder("rank")) == content(whole.folder("rank"))


def test_other_weights_in_the_folder_of_a_judge_that_has_ranked_are_refused(
    tiny_model: Path, tmp_path: Path, sampled: Run, judge: str
) -> None:
    run = start(tmp_path, tiny_model, sampled, **QUIET, rank__judge=judge, rank__shard_prompts=6)
    rank.run(run)
    (run.folder("rank") / "00001.parquet").unlink()
    shutil.rmtree(judge)
    known_rewards.save(tiny_model, Path(judge))
    with pytest.raises(UsageError, match=r"^rank: 00000.parquet was ranked by reward:.*put the weights back"):
        rank.run(run)


def test_prompts_that_the_model_cannot_read_are_listed_and_too_many_stop_the_stage(
    tiny_model: Path, tmp_path: Path, sampled: Run, judge: str
) -> None:
    tokenizer = models.load_tokenizer(judge)
    tokens = {}
    for prompt, answers in items_of(sampled):
        texts, ends = [one.answer or " " for one in answers], [one.finished for one in answers]
        shared, own = chat.conversation_ids(tokenizer, prompt.messages, texts, ends)
        tokens[prompt.id] = len(shared) + max(map(len, own))
    window = sorted(tokens.values())[7]
    too_long = {name for name, length in tokens.items() if length > window}
    file = Path(judge) / "config.json"
    file.write_text(file.read_text().replace('"max_position_embeddings": 512', f'"max_position_embeddings": {window}'))
    run = start(tmp_path, tiny_model, sampled, **QUIET, rank__judge=judge, rank__max_unparsed=1.0)
    facts = rank.run(run)
    assert too_long and (facts["ranked"], facts["unranked"]) == (15 - len(too_long), len(too_long))
    rows = data_files.read_rows(run.root / "unranked" / "00000.jsonl")
    assert {row["prompt_id"] for row in rows} == too_long
    reason = f"longer than the reward model's window of {window} tokens"
    assert {row["reason"] for row in rows} == {reason}
    assert {row["replies"][0] for row in rows} == {
        f"prompt {name}: takes {tokens[name]} tokens, the reward model's window is {window}; shorten it"
        for name in too_long
    }
    assert not set(ranking_of(run)) & too_long
    run = start(tmp_path / "few", tiny_model, sampled, **QUIET, rank__judge=judge)
    with pytest.raises(StopStage, match=r"3 of 5 .* Use a reward model that reads them, or .* raise rank.max_unparsed"):
        rank._refuse_unparsed(run, Counter({reason: 3}), 5, facts["judge"])
