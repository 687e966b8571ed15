"""Settings of runs held against each other."""

import pytest

from starling import agreeing, config
from starling.config import Config


def settings(*overrides: str) -> Config:
    return config.load(config.find_recipe("smollm2"), list(overrides))


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("tune.lam=0.25", ["prompts", "sample", "rank", "fit"]),
        ("sample.slots=3", ["prompts"]),
        ("prompts.train=3", []),
        ("run.seed=3", []),
        ("run.threads=1", list(agreeing.STAGES)),
        ("evaluate.answer_tokens=90", ["prompts", "sample", "rank", "fit"]),  # by which tune has chosen its step
        ("evaluate.draws=3", ["prompts", "sample", "rank", "fit"]),
        ("evaluate.token_budget=99000", ["prompts", "sample", "rank", "fit"]),
        ("evaluate.resamples=200", ["prompts", "sample", "rank", "fit", "tune"]),
    ],
)
def test_stages_agree_up_to_the_first_other_setting(override: str, stages: list[str]) -> None:
    assert agreeing.stages_that_agree(settings(), settings(override)) == stages


def test_where_the_source_ranks_tune_stands_only_with_the_judge_that_chose_its_step() -> None:
    source = ("sample.generators=[]", "prompts.sources=a.jsonl", "rank.judge=source")
    for mine, others in (
        (source, ["prompts", "sample", "rank", "fit"]),
        ((), ["prompts", "sample", "rank", "fit", "tune"]),
    ):
        by_m = settings(*mine, "evaluate.judge=m")
        assert agreeing.stages_that_agree(by_m, settings(*mine, "evaluate.judge=n")) == others
        assert (
            agreeing.stages_that_agree(by_m, settings(*mine, "evaluate.judge=m", "evaluate.resamples=200"))[-1]
            == "tune"
        )


def test_the_first_table_that_differs_is_named_with_its_settings() -> None:
    assert agreeing.first_difference(settings(), settings()) == ""
    mine = settings("fit.epochs=2", "tune.lam=0.25", "fit.layers=3")
    assert agreeing.first_difference(mine, settings()) == "fit.epochs: 1 -> 2, fit.layers: 15 -> 3"


def test_a_sampling_server_may_move_but_not_come_or_go() -> None:
    here, there = (settings(f"tune.sampler='vllm@http://127.0.0.1:{port}'") for port in (8000, 9000))
    assert agreeing.settled(here) == agreeing.settled(there) != agreeing.settled(settings())


def test_what_may_grow_parts_no_stages_and_tells_which_stage_is_asked_for_more() -> None:
    more = settings('evaluate.benchmarks=["ifeval"]')
    assert agreeing.settled(more) == agreeing.settled(settings())
    assert agreeing.stages_that_agree(more, settings())[-1] == "evaluate"
    assert agreeing.asked_anew(settings(), more) == agreeing.asked_anew(more, settings()) == ["evaluate"]
    assert agreeing.asked_anew(more, settings("evaluate.benchmarks=[{name = 'ifeval'}]")) == []


def test_an_endpoint_that_only_a_benchmark_names_is_nothing_that_rows_depend_on() -> None:
    table = "endpoints=[{name = 'far', urls = ['http://127.0.0.1:1/v1'], model = 'm'}]"
    data = settings().model_dump(exclude_none=True)
    far = {"name": "far", "urls": ["http://127.0.0.1:1/v1"], "model": "m"}
    asks = data | {
        "endpoints": [far],
        "evaluate": data["evaluate"] | {"benchmarks": [{"name": "mt_bench", "judge": "far"}]},
    }
    assert agreeing.settled(Config.model_validate(asks)) == agreeing.settled(settings()), table
    ranks = asks | {"rank": data["rank"] | {"judge": "far"}}
    assert agreeing.settled(Config.model_validate(ranks))["endpoints"][0]["name"] == "far"
