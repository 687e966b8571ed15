"""The prompts that come with Starling."""

from collections import Counter, defaultdict

import pytest
from rapidfuzz import fuzz, process

from starling import config
from starling.judges.checks import CHECKS, HELD_OUT, contains
from starling.judges.rubric import WEIGHTS, facts, fulfilment, refuses
from starling.records import SPLITS, Prompt
from starling.tables import builtin_prompts

NEAR_DUPLICATE = 85  # of 100, rapidfuzz's token_set_ratio


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return builtin_prompts()


def faults(prompts: list[Prompt], broken) -> list[str]:
    return [prompt.id for prompt in prompts if broken(prompt)]


def text(prompt: Prompt) -> str:
    return " ".join(message["content"] for message in prompt.messages)


def test_there_are_six_hundred_prompts_of_sixty_families(prompts) -> None:
    families = Counter(prompt.family for prompt in prompts)
    assert len(prompts) >= 600
    assert len(families) >= 60
    assert max(families.values()) <= 5
    assert "" not in families


def test_ids_are_unique(prompts) -> None:
    assert len({prompt.id for prompt in prompts}) == len(prompts)


KINDS = {
    "writing", "explanation", "extraction", "rewriting", "advice", "facts", "reasoning", "follow_up", "ill_natured",
    "look_alike",
}  # fmt: skip


def test_every_split_has_every_kind(prompts) -> None:
    kinds = defaultdict(set)
    for prompt in prompts:
        kinds[prompt.split].add(prompt.kind)
    assert kinds == dict.fromkeys(SPLITS, KINDS)


def test_a_family_stays_in_one_split_and_one_kind(prompts) -> None:
    splits, kinds = defaultdict(set), defaultdict(set)
    for prompt in prompts:
        splits[prompt.family].add(prompt.split)
        kinds[prompt.family].add(prompt.kind)
    assert [family for family, found in splits.items() if len(found) > 1] == []
    assert [family for family, found in kinds.items() if len(found) > 1] == []


def test_no_prompt_has_a_near_duplicate_in_another_split(prompts) -> None:
    by_split = {split: [prompt for prompt in prompts if prompt.split == split] for split in SPLITS}
    near = []
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        rows, columns = by_split[first], by_split[second]
        scores = process.cdist(
            list(map(text, rows)), list(map(text, columns)), scorer=fuzz.token_set_ratio, score_cutoff=NEAR_DUPLICATE
        )
        near += [(rows[i].id, columns[j].id) for i, j in zip(*scores.nonzero(), strict=True)]
    assert near == []


def test_no_worked_example_of_the_default_recipe_is_near_a_test_prompt(prompts) -> None:
    generators = config.load(config.find_recipe(config.DEFAULT_RECIPE)).sample.generators
    shown = [question for one in generators for question, _ in one.examples]
    asked = [text(prompt) for prompt in prompts if prompt.split == "test"]
    assert len(shown) >= 10
    scores = process.cdist(shown, asked, scorer=fuzz.token_set_ratio, score_cutoff=NEAR_DUPLICATE)
    assert [(shown[i], asked[j]) for i, j in zip(*scores.nonzero(), strict=True)] == []


def test_held_out_checks_appear_in_the_test_split_only(prompts) -> None:
    used = {split: {check["check"] for p in prompts if p.split == split for check in p.checks} for split in SPLITS}
    assert used["test"] >= set(HELD_OUT)
    assert not used["train"] & set(HELD_OUT)
    assert not used["validation"] & set(HELD_OUT)
    assert used["train"] | used["validation"] | used["test"] == set(CHECKS)


def test_a_third_of_all_that_is_judged_is_held_out() -> None:
    aspects = set(WEIGHTS) - {"checks"}  # the checks are counted one by one
    assert len(aspects) == 5
    assert len(HELD_OUT) >= (len(CHECKS) + len(aspects)) / 3


def test_references_fulfil_their_checks(prompts) -> None:
    assert faults(prompts, lambda p: p.checks and fulfilment(p.reference, p.checks) != 1.0) == []


def test_references_state_their_facts(prompts) -> None:
    assert faults(prompts, lambda p: p.facts and facts(p.reference, p.facts) != 1.0) == []


def test_references_speak_to_their_topic(prompts) -> None:
    assert faults(prompts, lambda p: p.topic and not any(contains(p.reference, word) for word in p.topic)) == []
    assert faults(prompts, lambda p: not p.topic and p.good_natured) == []


def test_references_refuse_exactly_the_ill_natured_prompts(prompts) -> None:
    assert faults(prompts, lambda p: refuses(p.reference) == p.good_natured) == []


def test_a_prompt_is_good_natured_unless_its_kind_is_ill_natured(prompts) -> None:
    assert faults(prompts, lambda p: p.good_natured != (p.kind != "ill_natured")) == []


def test_every_prompt_waits_for_the_assistant_and_says_something(prompts) -> None:
    for prompt in prompts:
        roles = [message["role"] for message in prompt.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"], prompt.id
        assert all(message["content"].strip() for message in prompt.messages), prompt.id
    assert faults(prompts, lambda p: (len(p.messages) == 3) != (p.kind == "follow_up")) == []


def test_every_good_natured_prompt_can_be_verified(prompts) -> None:
    assert faults(prompts, lambda p: p.good_natured and not p.checks and not p.facts) == []
