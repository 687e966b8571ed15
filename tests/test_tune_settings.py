"""The settings of tune, and which of them an algorithm reads."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from starling import config
from starling.config import TuneTable
from starling.errors import UsageError
from starling.tune_settings import READS, algorithm_key, as_read, is_online, unread

GENERATORS = '[[sample.generators]]\nname = "a"\n[[sample.generators]]\nname = "b"\n'


def load(folder: Path, *lines: str) -> TuneTable:
    path = folder / "mine.toml"
    path.write_text("\n".join(["[tune]", *lines, GENERATORS]))
    return config.load(path).tune


def test_every_algorithm_says_what_it_reads_and_every_name_is_a_setting() -> None:
    names = set(get_args(TuneTable.model_fields["algorithm"].annotation))
    assert names | {"apa_sampling"} == set(READS)
    assert set().union(*READS.values()) <= set(TuneTable.model_fields)


def test_the_default_is_apa_at_the_initial_policy_and_reads_all_that_is_set() -> None:
    assert algorithm_key(TuneTable()) == "apa"
    assert as_read(TuneTable()) == TuneTable(kl_coef=0.0, value_clip=0.0, value_gate=0.0)
    assert unread(config.load(config.find_recipe("smollm2")).tune) == []
    assert algorithm_key(TuneTable(anchor="sampling")) == "apa_sampling"


def test_what_is_set_in_vain_is_told() -> None:
    assert unread(TuneTable(clip=0.3, lam=2.0)) == ["clip"]
    assert unread(TuneTable(algorithm="ppo", clip=0.3, lam=2.0, ranked_epochs=5)) == ["ranked_epochs", "lam"]
    assert unread(TuneTable(algorithm="dpo", beta=0.3, steps=3, anchor="sampling")) == ["anchor", "steps"]
    assert unread(TuneTable(algorithm="ipo", temperature=0.7)) == ["temperature"]
    assert unread(TuneTable(algorithm="grpo", clip_high=0.28, kl_coef=0.0)) == []


def test_what_an_algorithm_does_not_read_is_off() -> None:
    ppo = as_read(TuneTable(algorithm="ppo"))
    assert (ppo.ranked_prompts, ppo.steps, ppo.kl_coef, ppo.value_gate) == (0, 8, 0.01, 0.0)
    dpo = as_read(TuneTable(algorithm="dpo"))
    assert (dpo.ranked_prompts, dpo.steps, dpo.whiten_advantages) == (140, 0, False)
    assert as_read(TuneTable(algorithm="dpo", temperature=0.7)).temperature == 1.0  # nothing is sampled
    assert as_read(TuneTable(algorithm="ppo", temperature=0.7)).temperature == 0.7
    p3o = as_read(TuneTable(algorithm="p3o"))
    assert (p3o.reward_baseline, p3o.reward_shift, p3o.kl_coef) == ("none", 0.0, 0.0)
    assert [name for name in READS if not is_online(name)] == ["dpo", "ipo", "listwise_dpo", "sft"]


def test_a_reward_is_a_name_a_list_of_names_or_tables(tmp_path: Path) -> None:
    assert [reward.name for reward in load(tmp_path).rewards] == ["model"]
    assert [reward.name for reward in load(tmp_path, 'rewards = "rubric"').rewards] == ["rubric"]
    found = load(tmp_path, 'rewards = ["judge", {name = "mine.scores:brief", weight = 0.5}]').rewards
    assert [(reward.name, reward.weight) for reward in found] == [("judge", 1.0), ("mine.scores:brief", 0.5)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['algorithm = "pp0"'], r"\[tune\] algorithm = 'pp0': .*; did you mean 'ppo'\? "),
        (['algorithm = "listwise"'], r"did you mean 'listwise_dpo'\?"),
        (['algorithm = "p3o"', "rollouts_per_prompt = 3"], r"rollouts_per_prompt = 3: .* p3o .* needs an even number"),
        (['algorithm = "p3o"', "rollouts_per_prompt = 1"], r"rollouts_per_prompt = 1: .* p3o .* needs an even number"),
        (['algorithm = "grpo"', "rollouts_per_prompt = 1"], "grpo compares the answers to a prompt, so it needs 2 or"),
        (['algorithm = "rloo"', "rollouts_per_prompt = 1"], "rloo compares the answers to a prompt, so it needs 2 or"),
        (["rollouts_per_prompt = 1"], "needs rollouts_per_prompt of 2 or more"),
        (
            ['algorithm = "ppo"', 'rewards = "judge"', "rollouts_per_prompt = 1", 'reward_baseline = "none"'],
            "as a reward it needs 2 or more",
        ),
        (['rewards = "modell"'], r"\[tune\.rewards\.0\] name = 'modell'"),
        (["rewards = []"], "rewards"),
        (
            ['rewards = ["rubric", "judge", {name = "rubric", weight = 2.0}]'],
            "'rubric' stands there twice; give it one",
        ),
        (["prompts_per_step = 6"], "updates_per_step = 4: .* divides prompts_per_step, 6"),
        (['algorithm = "ppo"', "kl_coef = 0.0", 'kl_control = "adaptive"'], "kl_control = 'adaptive': .*cannot be 0"),
        (['sampler = "http://gpu:8000"'], r"\[tune\] sampler: .*vllm@http://HOST:PORT"),
        (['sampler = "vllm@gpu:8000"'], r"\[tune\] sampler: .*vllm@http://HOST:PORT"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as told:
        load(tmp_path, *lines)
    assert "\n" not in str(told.value)


def test_one_answer_a_prompt_is_enough_where_none_are_compared(tmp_path: Path) -> None:
    assert load(tmp_path, 'algorithm = "dpo"', "rollouts_per_prompt = 1").algorithm == "dpo"
    alone = load(tmp_path, 'algorithm = "ppo"', "rollouts_per_prompt = 1", 'reward_baseline = "none"')
    assert alone.rollouts_per_prompt == 1


@pytest.mark.parametrize("algorithm", ["rloo", "p3o"])
def test_what_sums_logprobs_is_not_sampled_ahead_by_a_server(algorithm: str) -> None:
    ahead = {"algorithm": algorithm, "overlap": True}
    with pytest.raises(ValidationError, match=rf"{algorithm} sums an answer's logprobs, in which"):
        TuneTable(**ahead, sampler="vllm@http://127.0.0.1:8000")
    assert TuneTable(**ahead).overlap
    assert TuneTable(algorithm="ppo", overlap=True, sampler="vllm@http://127.0.0.1:8000").overlap
