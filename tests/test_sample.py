"""sample: one answer from each generator to each prompt."""

from collections import Counter
from pathlib import Path

import pytest
from servers import Server, fails, replies_with, says
from small_road import prompt_rows, recipe, write_lines

from starling import config, data_files, progress, tables, underway
from starling.device import seed_for
from starling.errors import CallError, DataError, StopStage, UsageError
from starling.records import Candidate
from starling.stages import prompts, sample
from starling.store import Run
from starling.streams import Answers
from starling.underway import Keeper

PLAIN = '[[sample.generators]]\nname = "{name}"\nmodel = "{model}"\nsystem = "{system}"\n'


def start(folder: Path, tiny_model: Path, more: str = "", **changes) -> Run:
    """A run whose prompts stand; `more` is further TOML."""
    path = recipe(folder, tiny_model, **changes)
    path.write_text(path.read_text() + more)
    run = Run.open(folder / "run", config.load(path))
    prompts.run(run)
    return run


def shards(run: Run) -> dict[str, list[dict]]:
    return {path.name: data_files.read_rows(path) for path in sorted(run.folder("sample").iterdir())}


def answers_of(run: Run) -> list[Candidate]:
    """All answers but those that were left out."""
    lost = tables.left_out_of(run)
    rows = data_files.read_rows(run.folder("sample"))
    return [Candidate(**row) for row in rows if row["draw"] not in lost.get(row["prompt_id"], ())]


@pytest.fixture(scope="module")
def sampled(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict]:
    """A sampled run of 3 + 12 prompts, three generators and shards of five prompts, and its facts."""
    more = '[[sample.generators]]\nname = "odd"\nsystem = "be odd"\nweakened = true\n'
    run = start(tmp_path_factory.mktemp("sampled"), tiny_model, more)
    return run, sample.run(run)


def test_every_prompt_gets_one_answer_from_each_generator(sampled) -> None:
    run, facts = sampled
    answers = answers_of(run)
    wanted = tables.prompts_of(run, "train", "validation")
    assert Counter((answer.prompt_id, answer.model, answer.draw) for answer in answers) == {
        (prompt.id, name, draw): 1 for prompt in wanted for draw, name in enumerate(("plain", "greedy", "hot", "odd"))
    }
    assert {answer.model for answer in answers if answer.weakened} == {"odd"}
    assert (facts["prompts"], facts["answers"], facts["prompts_left_out_for_budget"]) == (15, 60, 0)
    assert facts["tokens"] == sum(answer.num_tokens for answer in answers)
    assert facts["finished"] == sum(answer.finished for answer in answers) / 60


def test_a_shard_holds_its_prompts_and_validation_comes_first(sampled) -> None:
    run, _ = sampled
    found = [list(dict.fromkeys(row["prompt_id"] for row in rows)) for rows in shards(run).values()]
    assert [len(shard) for shard in found] == [5, 5, 5]
    assert found[0][:3] == [prompt.id for prompt in tables.prompts_of(run, "validation")]


def test_the_seed_of_every_answer_follows_from_run_prompt_and_draw(sampled) -> None:
    run, _ = sampled
    answers = answers_of(run)
    assert [answer.seed for answer in answers] == [
        seed_for(run.config.run.seed, "sample", answer.prompt_id, answer.draw) for answer in answers
    ]
    assert len({answer.seed for answer in answers}) == 60


def test_only_the_shard_that_is_missing_is_sampled_again(tiny_model: Path, tmp_path: Path) -> None:
    run = start(tmp_path, tiny_model)
    facts = sample.run(run)
    before = shards(run)
    kept, lost, _ = sorted(run.folder("sample").iterdir())
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    assert sample.run(run) == facts
    assert shards(run) == before
    assert kept.stat().st_mtime_ns == stamp


def test_no_shard_is_begun_that_could_pass_the_token_budget(tiny_model: Path, tmp_path: Path) -> None:
    # three generators, five prompts, 8 tokens: a shard takes up to 120
    run = start(tmp_path, tiny_model, sample__token_budget=200, sample__max_new_tokens=8)
    facts = sample.run(run)
    assert 5 <= facts["prompts"] < 15
    assert facts["prompts"] + facts["prompts_left_out_for_budget"] == 15
    assert facts["tokens"] <= 200


def test_a_budget_below_one_shard_is_a_plain_error(tiny_model: Path, tmp_path: Path) -> None:
    run = start(tmp_path, tiny_model, sample__token_budget=119, sample__max_new_tokens=8)
    with pytest.raises(StopStage, match=r"sample\.token_budget = 119 does not cover one shard"):
        sample.run(run)


def test_models_behind_urls_answer_under_their_own_names(tiny_model: Path, tmp_path: Path) -> None:
    def told(at: int):
        return replies_with(lambda question: f" {at}: {question} ")

    with Server(always=told(1)) as one, Server(always=told(2)) as two:
        more = PLAIN.format(name="first", model=f"openai:m@{one.url}", system="be brief")
        more += PLAIN.format(name="second", model=f"openai:m@{two.url}", system="")
        run = start(tmp_path, tiny_model, more)
        sample.run(run)
        asked = one.requests[0]["messages"]
        count = (len(one.requests), len(two.requests))
    question_of = {prompt.id: prompt.messages[0]["content"] for prompt in tables.prompts_of(run, "train", "validation")}
    answers = answers_of(run)
    for at, name in ((1, "first"), (2, "second")):
        found = {answer.prompt_id: answer.answer for answer in answers if answer.model == name}
        assert found == {identity: f"{at}: {question}" for identity, question in question_of.items()}
    assert asked[0] == {"role": "system", "content": "be brief"}
    assert count == (15, 15)


def test_worked_examples_stand_as_turns_between_system_prompt_and_question(tiny_model: Path, tmp_path: Path) -> None:
    with Server(always=replies_with(str)) as server:
        more = PLAIN.format(name="shown", model=f"openai:m@{server.url}", system="be brief")
        run = start(tmp_path, tiny_model, more + 'examples = [["one?", "1"], ["two?", "2"]]\n')
        sample.run(run)
        asked = server.requests[0]["messages"]
    assert [(turn["role"], turn["content"]) for turn in asked[:5]] == [
        ("system", "be brief"), ("user", "one?"), ("assistant", "1"), ("user", "two?"), ("assistant", "2"),
    ]  # fmt: skip
    prompts_of_run = [list(prompt.messages) for prompt in tables.prompts_of(run, "train", "validation")]
    assert asked[5:] in prompts_of_run


def test_examples_that_leave_no_room_in_the_window_stop_the_stage(tiny_model: Path, tmp_path: Path) -> None:
    more = '[[sample.generators]]\nname = "long"\nexamples = [["why?", "' + "because " * 300 + '"]]\n'
    run = start(tmp_path, tiny_model, more)
    with pytest.raises(DataError, match=r"5 of 20 prompts .* in a window of 512, first '.*' of 'long' with \d+; give"):
        sample.run(run)
    assert list(run.folder("sample").glob("*.parquet")) == []


def test_a_model_behind_a_url_is_sent_the_key_that_its_generator_names(tiny_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sesame")
    with Server(always=says("wet")) as server:
        far = PLAIN.format(name="far", model=f"openai:m@{server.url}", system="") + 'key_env = "FAR_KEY"\n'
        sample.run(start(tmp_path, tiny_model, far))
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer sesame"}
        other = PLAIN.format(name="other", model=f"openai:m@{server.url}", system="")
        with pytest.raises(UsageError, match=r"openai:m@.* name different keys: '', 'FAR_KEY'"):
            sample.run(start(tmp_path / "two", tiny_model, far + other))


def test_answers_of_a_server_and_shards_that_stand_move_the_bar(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(tmp_path / "progress.json", "sample", seconds_between=0.0)
    monkeypatch.setattr(progress, "_keepers", [keeper])
    with Server(always=says("wet", completion_tokens=4)) as server:
        run = start(tmp_path, tiny_model, PLAIN.format(name="far", model=f"openai:m@{server.url}", system=""))
        for _ in range(2):  # the second time all shards but one stand
            sample.run(run)
            rows = [row for shard in shards(run).values() for row in shard]
            note = underway.read(tmp_path / "progress.json")
            assert note is not None and note.done == sum(row["num_tokens"] for row in rows)
            assert sum(row["num_tokens"] for row in rows if row["model"] == "far") == 4 * 15
            next(path for path in run.folder("sample").iterdir() if "openai" in path.name).unlink()


def test_a_server_that_does_not_count_tokens_is_no_spent_budget(tiny_model: Path, tmp_path: Path) -> None:
    with Server(always=says("wet", completion_tokens=0)) as server:
        run = start(tmp_path, tiny_model, PLAIN.format(name="far", model=f"openai:m@{server.url}", system=""))
        assert sample.run(run)["answers"] == 60


def test_a_call_that_fails_stops_the_stage_and_keeps_what_was_answered(tiny_model: Path, tmp_path: Path) -> None:
    with Server(says("wet"), always=fails(400, "no")) as server:
        run = start(tmp_path, tiny_model, PLAIN.format(name="far", model=f"openai:m@{server.url}", system=""))
        with pytest.raises(CallError, match=r"sample: 4 of 5 calls to openai:m@.* failed, first: .*no"):
            sample.run(run)
    assert len(shards(run)) == 3  # those of the model in this process


def test_an_answer_that_a_filter_stops_is_left_out_with_the_reason(tiny_model: Path, tmp_path: Path) -> None:
    with Server(says("wet"), says("", finish="content_filter"), always=says("dry")) as server:
        more = PLAIN.format(name="far", model=f"openai:m@{server.url}", system="")
        facts = sample.run(start(tmp_path, tiny_model, more))
        assert facts["left_out"] == {"no_answer": 1}
        assert len(server.requests) == 15  # which no later shard asks again
        run = start(tmp_path, tiny_model, more)
        assert sample.run(run)["answers"] == facts["answers"] == 59
        assert len(server.requests) == 15
    (lost,) = data_files.read_rows(run.folder("sample") / "left_out.jsonl")
    assert lost["detail"].endswith("the provider's content filter stopped the reply (attempt 1 of 6)")
    assert lost["draw"] in tables.left_out_of(run)[lost["prompt_id"]]


def test_an_endpoint_that_filters_most_answers_stops_the_stage(tiny_model: Path, tmp_path: Path) -> None:
    with Server(says("wet"), always=says("", finish="content_filter")) as server:
        run = start(tmp_path, tiny_model, PLAIN.format(name="far", model=f"openai:m@{server.url}", system=""))
        with pytest.raises(CallError, match=r"sample: 4 of 5 calls to .* failed, first: .*content filter"):
            sample.run(run)


def test_models_whose_names_are_alike_have_shards_of_their_own(tiny_model: Path, tmp_path: Path) -> None:
    where = "127.0.0.1:9/v1," * 12
    names = [f"openai:llama-8b@{where}", f"openai:llama-70b@{where}", "org/model", "org_model", "org/other"]
    slugs = [sample._slug(name, names) for name in names]
    assert len(set(slugs)) == 5
    assert slugs[4] == "org_other"  # as before, where nothing is like it


def answered(folder: Path, tiny_model: Path, counts: list[int], **changes) -> Run:
    """A run whose prompts bring so many answers each, one after the other and from the beginning again."""
    rows = [
        {"prompt": row["prompt"], "messages": None, "prompt_id": row["id"], "split": row["split"]}
        | {
            "answers": [
                {"answer": f"{row['id']} {at}", "model": f"m{at}"} for at in range(counts[number % len(counts)])
            ]
        }
        for number, row in enumerate(prompt_rows())
    ]
    sources = [
        {"path": str(write_lines(folder / f"{split}.jsonl", [row for row in rows if row["split"] == split])),
         "form": "nectar", "split": split}
        for split in ("train", "validation", "test")
    ]  # fmt: skip
    path = recipe(folder / "made", tiny_model, **changes)
    settings = config.load(path).model_dump()
    settings["prompts"]["sources"] = sources
    settings["sample"]["generators"] = settings["sample"]["generators"] if "sample__answers" in changes else []
    run = Run.open(folder / "run", config.Config.model_validate(settings))
    prompts.run(run)
    return run


def left_out(run: Run) -> Counter:
    return Counter(row["reason"] for row in data_files.read_rows(run.folder("sample") / "left_out.jsonl"))


def test_answers_that_came_with_the_prompts_are_ranked_without_a_generator(tiny_model: Path, tmp_path: Path) -> None:
    run = answered(tmp_path, tiny_model, [3, 2, 1])
    facts = sample.run(run)
    assert (facts["prompts"], facts["answers"], facts["tokens"]) == (10, 25, 0)
    assert (facts["from_sources"], facts["prompts_with_answers"]) == ({"m0": 10, "m1": 10, "m2": 5}, {"2": 5, "3": 5})
    assert facts["left_out"] == {"fewer_than_2_answers": 5} == left_out(run)
    assert {one.answer for one in answers_of(run)} >= {"rain-0 0", "rain-0 1", "rain-0 2", "rain-1 1"}
    assert Answers(run).sizes() == {3: 5, 2: 5}
    assert sample.run(run) == facts


def test_generators_fill_up_what_the_sources_lack_and_no_more(tiny_model: Path, tmp_path: Path) -> None:
    run = answered(tmp_path, tiny_model, [4, 2, 0], sample__answers=3, sample__order="source_first")
    facts = sample.run(run)
    given = Counter(one.prompt_id for one in answers_of(run) if one.model in ("plain", "greedy", "hot"))
    wanted = tables.prompts_of(run, "train", "validation")
    assert facts["prompts_with_answers"] == {"3": 15}
    # of each topic's three prompts one brings four answers, one two and one none
    assert sorted(given[prompt.id] for prompt in wanted) == [0] * 5 + [1] * 5 + [3] * 5
    assert left_out(run) == {"more_than_3_answers": 5}
    assert {one.model for one in answers_of(run) if given[one.prompt_id] == 1} == {"m0", "m1", "plain"}


def test_prompts_with_fewer_answers_than_asked_for_may_be_left_out(tiny_model: Path, tmp_path: Path) -> None:
    run = answered(tmp_path, tiny_model, [1, 0], sample__answers=4, sample__fewer="leave_out")
    facts = sample.run(run)
    assert set(facts["prompts_with_answers"]) == {"4"}
    assert facts["left_out"]["fewer_than_4_answers"] == 3 * (15 - facts["prompts"])
    assert {one.prompt_id for one in answers_of(run)} == {
        prompt.id for shard in Answers(run).shards(4) for prompt, _ in shard
    }


def test_neither_generators_nor_answers_is_said_before_anything_is_sampled(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sample: 15 prompts bring at most 1 answer each and 0 generators are named"):
        sample.run(answered(tmp_path, tiny_model, [1]))


def test_a_choice_that_leaves_nothing_says_why(tiny_model: Path, tmp_path: Path) -> None:
    run = answered(tmp_path, tiny_model, [1], sample__answers=9, sample__fewer="leave_out")
    with pytest.raises(StopStage, match=r"no prompt has enough answers \(fewer_than_9_answers: 60\); see .*left_out"):
        sample.run(run)
