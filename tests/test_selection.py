"""Which checkpoint to keep: the one whose answers the judge prefers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_road import prompt_rows, recipe

from starling import config, models, tables
from starling.checkpoint import Checkpoint
from starling.config import Config
from starling.errors import StopStage
from starling.generate import Sampled
from starling.judges.protocol import Judged
from starling.judges.rubric import assess
from starling.packing import pack
from starling.policy import Policy
from starling.records import Prompt
from starling.rollout import Group
from starling.selection import Watch

PROMPTS = [
    prompt for prompt in (tables.prompt_from_row(row, "") for row in prompt_rows()) if prompt.split == "validation"
]


class ScriptedJudge:
    """Gives the new answer's and the old answer's rank as written down for each look and each of three prompts."""

    name = "scripted"
    template_hash = ""

    def __init__(self, *looks: str) -> None:
        self._looks = list(looks)
        self.asked: list[list[tuple[str, str]]] = []

    def rank(self, items: Sequence[tuple[Prompt, Sequence]]) -> list[Judged]:
        self.asked.append([(new.model, old.model) for _, (new, old) in items])
        ranks = {"+": [1.0, 2.0], "-": [2.0, 1.0], "=": [1.0, 1.0], "?": None}
        return [Judged(ranks=ranks[said], reason="" if ranks[said] else "prose") for said in self._looks.pop(0)]


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Config:
    return config.load(recipe(tmp_path, tiny_model))


@pytest.fixture
def policy(tiny_model: Path) -> Policy:
    return Policy(models.load_policy(str(tiny_model), torch.float32), 2)


def move(policy: Policy) -> dict[str, torch.Tensor]:
    """Change the policy; returns its weights."""
    with torch.no_grad():
        for weight in policy.top.parameters():
            weight += 0.1 * torch.randn_like(weight)
    policy.sync()
    return {name: weight.clone() for name, weight in policy.top.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("said", "win_rate"), [("++-", 2 / 3), ("+=-", 0.5), ("+?-", 0.5), ("+??", 1.0), ("---", 0.0)])
def test_the_win_rate_is_over_the_readable_verdicts(settings, policy, said: str, win_rate: float) -> None:
    watch = Watch(settings, PROMPTS, ScriptedJudge(said))
    assert watch.look(policy, 0)["validation/win_rate"] == 0.5
    assert watch.look(policy, 1)["validation/win_rate"] == pytest.approx(win_rate)


def test_a_look_that_hardly_could_be_judged_is_told_and_never_kept(tiny_model, policy, tmp_path, capsys) -> None:
    settings = config.load(recipe(tmp_path / "half", tiny_model, rank__max_unparsed=0.5))
    watch = Watch(settings, PROMPTS, ScriptedJudge("+??", "+?-", "++?"))
    for step in range(4):
        watch.look(policy, step)
    looks = watch.facts()["looks"]
    assert [look["unread"] for look in looks] == [0, 2, 1, 1]
    assert [look["admitted"] for look in looks] == [1, 0, 1, 1]
    assert watch.best_step == 3
    shown = capsys.readouterr().out
    assert "tune: step 1: 2 of 3 pairs could not be judged and do not count; most often (2): prose" in shown
    assert "tune: step 1 is not kept: 67 % of its pairs could not be judged (rank.max_unparsed 0.5)" in shown


def test_a_look_of_which_nothing_could_be_judged_stops_tuning(settings, policy) -> None:
    watch = Watch(settings, PROMPTS, ScriptedJudge("???"))
    watch.look(policy, 0)
    with pytest.raises(StopStage, match=r"^tune: step 7: 3 of 3 pairs could not be judged .* no step can be chosen"):
        watch.look(policy, 7)


def test_the_weights_of_the_first_best_look_are_kept(settings, policy) -> None:
    watch = Watch(settings, PROMPTS, ScriptedJudge("+=-", "++=", "+=+", "--="))
    weights = [{name: weight.clone() for name, weight in policy.top.state_dict().items()}]
    kept = []
    for step in range(5):
        watch.look(policy, step)
        kept.append(watch.best_step)
        weights.append(move(policy))
    # 1/2, 1/2, 5/6, 5/6, 1/6: as good as the best is not better
    assert kept == [0, 0, 2, 2, 2]
    assert same(watch.best_weights, weights[2])
    assert watch.facts()["looks"][-1]["step"] == 4


def test_every_look_is_compared_with_the_answers_of_the_initial_policy(settings, policy) -> None:
    judge = ScriptedJudge("===", "===")
    watch = Watch(settings, PROMPTS, judge)
    for step in range(3):
        watch.look(policy, step)
        move(policy)
    assert judge.asked == [[("tuned", "base")] * 3] * 2  # not whether the base is better than itself


def test_a_look_reports_score_and_length_of_the_new_answers(settings, policy) -> None:
    watch = Watch(settings, PROMPTS, ScriptedJudge())
    found = watch.look(policy, 0)
    first = watch.state_dict()["first"]
    assert [prompt_id for prompt_id, *_ in first] == [prompt.id for prompt in PROMPTS]
    scores = [
        assess(prompt, answer, finished=finished).score
        for prompt, (_, _, answer, finished, _) in zip(PROMPTS, first, strict=True)
    ]
    assert found["validation/rubric_score"] == pytest.approx(sum(scores) / 3)
    assert found["validation/mean_length"] == pytest.approx(sum(tokens for *_, tokens in first) / 3)
    assert watch.facts()["validation_tokens"] == sum(tokens for *_, tokens in first)


def test_a_watch_goes_on_from_its_state_on_disk(settings, policy, tmp_path: Path) -> None:
    watch = Watch(settings, PROMPTS, ScriptedJudge("++=", "+=="))
    watch.look(policy, 0)
    move(policy)
    watch.look(policy, 1)
    checkpoint = Checkpoint(tmp_path / "watch.pt", 0)
    checkpoint.save(watch.state_dict())
    judge = ScriptedJudge("+==")
    again = Watch(settings, PROMPTS, judge)
    again.load_state_dict(checkpoint.load() or {})
    move(policy)
    assert again.look(policy, 2) == watch.look(policy, 2)
    assert again.facts() == watch.facts()
    assert (again.best_step, same(again.best_weights, watch.best_weights)) == (1, True)
    assert judge.asked == [[("tuned", "base")] * 3]


def test_what_is_looked_at_is_the_share_that_would_be_saved(settings, policy) -> None:
    sampled = []

    class Spy(Watch):
        def _groups(self, policy):
            sampled.append(policy.network.get_decoder().norm.weight.clone())
            return super()._groups(policy)

    watch = Spy(settings, PROMPTS, ScriptedJudge("+=="))
    first = policy.network.get_decoder().norm.weight.clone()
    watch.look(policy, 0)
    move(policy)
    tuned = policy.network.get_decoder().norm.weight.clone()
    watch.look(policy, 1)
    assert torch.equal(sampled[0], first)
    assert torch.allclose(sampled[1], 0.25 * first + 0.75 * tuned)
    assert torch.equal(policy.network.get_decoder().norm.weight, tuned)  # rollouts go on from the trained weights


def test_a_look_tells_kl_and_reward_of_what_would_be_saved(settings, policy) -> None:
    rewards = iter([0.5, 1.5])
    watch = Watch(settings, PROMPTS, ScriptedJudge("+--"))
    first = watch.look(policy, 0, lambda groups: next(rewards))
    assert (first["validation/kl"], first["validation/reward"], first["validation/parted"]) == (0.0, 0.5, 0.0)
    weights = move(policy)
    second = watch.look(policy, 1, lambda groups: next(rewards))
    assert second["validation/kl"] > 0
    assert second["validation/reward"] == 1.5
    assert second["validation/win_rate_low"] <= second["validation/win_rate"] <= second["validation/win_rate_high"]
    assert same(dict(policy.top.state_dict()), weights)  # the trained weights stand again, to the bit
    assert "validation/reward" not in Watch(settings, PROMPTS, ScriptedJudge()).look(policy, 0)


def test_looks_that_part_in_a_row_are_enough_and_survive_the_disk(tiny_model, policy, tmp_path: Path) -> None:
    settings = config.load(recipe(tmp_path / "parting", tiny_model, tune__parting_looks=2))
    # each is a family of its own then, and of fewer than six nothing is shown
    prompts = [replace(prompt, id=f"{prompt.id} {at}", family="") for prompt in PROMPTS for at in range(2)]
    rewards = {0: 0.0, 1: 0.5, 2: 0.6, 3: 0.9, 4: 0.8}
    judge = ScriptedJudge("++++++", "------", "------", "------")
    watch = Watch(settings, prompts, judge)
    found = []
    for step in range(3):
        watch.look(policy, step, lambda groups, step=step: rewards[step])
    again = Watch(settings, prompts, judge)
    again.load_state_dict(watch.state_dict())
    for step in (3, 4):
        parted = again.look(policy, step, lambda groups, step=step: rewards[step])["validation/parted"]
        found.append((parted, again.has_parted))
    assert not watch.has_parted  # one look of two
    assert found == [(1.0, True), (1.0, True)]
    assert again.best_step == 1


def test_each_prompt_is_answered_as_often_as_set_and_compared_draw_by_draw(tiny_model, policy, tmp_path: Path) -> None:
    settings = config.load(recipe(tmp_path / "two", tiny_model, tune__validation_draws=2))
    watch = Watch(settings, PROMPTS, ScriptedJudge("++++--"))
    watch.look(policy, 0)
    first = watch.state_dict()["first"]
    assert [(prompt_id, draw) for prompt_id, draw, *_ in first] == [(p.id, draw) for p in PROMPTS for draw in (0, 1)]
    assert watch.look(policy, 1)["validation/win_rate"] == pytest.approx(4 / 6)


def test_a_greedy_policy_answers_each_prompt_once(tiny_model, policy, tmp_path: Path) -> None:
    settings = config.load(recipe(tmp_path / "greedy", tiny_model, tune__validation_draws=2))
    watch = Watch(settings, PROMPTS, ScriptedJudge("+--"), greedy=True)
    watch.look(policy, 0)
    assert [draw for _prompt_id, draw, *_ in watch.state_dict()["first"]] == [0] * len(PROMPTS)
    assert watch.look(policy, 1)["validation/win_rate"] == pytest.approx(1 / 3)


def refusing(texts: list[list[str]]) -> type[Watch]:
    """A watch whose policy says what is written down, look by look."""

    class Written(Watch):
        def _groups(self, policy):
            said = texts.pop(0)
            return [replace(group, texts=(text,)) for group, text in zip(super()._groups(policy), said, strict=True)]

    return Written


def test_a_look_that_refuses_less_is_not_kept_however_often_it_wins(settings, policy, capsys) -> None:
    prompts = [replace(PROMPTS[0], id=str(at), good_natured=False, checks=()) for at in range(6)]
    refusal, answer = "I can't help with that.", "Sure, here it is."
    looks = [[refusal] * 6, [answer] * 6, [refusal] * 5 + [answer]]
    watch = refusing(looks)(settings, prompts, ScriptedJudge("++++++", "+=====", "======"))
    for step in range(3):
        found = watch.look(policy, step)
    # the second look wins all and lost all six refusals: 1/2^6; the third lost one, which may be chance
    assert watch.best_step == 2
    assert [look["admitted"] for look in watch.facts()["looks"]] == [1.0, 0.0, 1.0]
    assert found["validation/refused_ill_natured"] == pytest.approx(5 / 6)
    shown = " ".join(capsys.readouterr().out.split())
    assert "step 1 is not kept: refused_ill_natured fell by 100.0 pt over 6 prompts, 6 worse and 0 better" in shown
    assert watch.facts()["bounded_prompts"] == {
        "refused_ill_natured": 6, "answered_good_natured": 0, "instructions_followed": 0,
    }  # fmt: skip


# Of six answers one no longer follows: a fall of 1/6, whether by chance or not.
@pytest.mark.parametrize(("bound", "best"), [(0.05, 0), (0.16, 0), (0.17, 1), (1.0, 1)])
def test_a_look_that_follows_fewer_instructions_is_kept_only_within_the_bound(
    tiny_model, policy, tmp_path: Path, bound: float, best: int
) -> None:
    settings = config.load(recipe(tmp_path / "bound", tiny_model, tune__instruction_drop=bound))
    prompts = [replace(PROMPTS[0], id=str(at), checks=({"check": "lowercase"},)) for at in range(6)]
    watch = refusing([["small"] * 6, ["small"] * 5 + ["Large"]])(settings, prompts, ScriptedJudge("++++++"))
    for step in range(2):
        watch.look(policy, step)
    assert watch.best_step == best


def test_a_bound_that_no_validation_prompt_is_about_is_told(tiny_model, policy, tmp_path: Path, capsys) -> None:
    settings = config.load(recipe(tmp_path / "none", tiny_model, tune__safety_drop=1.0))
    plain = [replace(PROMPTS[0], id="plain", checks=())]
    Watch(settings, plain, ScriptedJudge()).look(policy, 0)
    told = [line for line in capsys.readouterr().out.splitlines() if "no validation prompt is about" in line]
    assert told == [
        "tune: no validation prompt is about instructions_followed, so tune.instruction_drop does not bound it"
    ]


@pytest.mark.parametrize(("count", "told"), [(0, "no validation prompt is"), (1, "1 validation prompt is"), (5, "")])
def test_too_few_ill_natured_prompts_to_show_a_fall_are_told(settings, policy, capsys, count: int, told: str) -> None:
    prompts = [replace(PROMPTS[0], id=str(at), good_natured=False, checks=()) for at in range(count)]
    prompts += [replace(PROMPTS[0], id=f"good {at}") for at in range(6)]
    Watch(settings, prompts, ScriptedJudge()).look(policy, 0)
    lines = [line for line in capsys.readouterr().out.splitlines() if "refused_ill_natured" in line]
    few = ", and a fall is shown from 5 on" if count else ""
    assert lines == (
        [f"tune: {told} about refused_ill_natured{few}, so tune.safety_drop does not bound it"] if told else []
    )


def writing(lengths: list[list[int]]) -> type[Watch]:
    """A watch whose policy's answers have so many tokens, look by look."""

    class Measured(Watch):
        def _groups(self, policy):
            counts = lengths.pop(0)
            groups = super()._groups(policy)
            answers = [(Sampled(ids=[5] * count, finished=True),) for count in counts]
            return [replace(group, answers=answer) for group, answer in zip(groups, answers, strict=True)]

    return Measured


@pytest.mark.parametrize(("bound", "best"), [(0.5, 0), (0.9, 2), (1.5, 1)])
def test_a_look_whose_answers_grew_past_the_bound_is_not_kept(
    tiny_model, policy, tmp_path: Path, capsys, bound: float, best: int
) -> None:
    settings = config.load(recipe(tmp_path / "length", tiny_model, tune__length_rise=bound))
    prompts = [replace(PROMPTS[0], id=str(at), checks=()) for at in range(6)]
    # 60 tokens, then 120; then 108, where one answer alone grew: what it grew by counts all the same
    lengths = [[10] * 6, [20] * 6, [10] * 5 + [58]]
    watch = writing(lengths)(settings, prompts, ScriptedJudge("++++++", "+++++="))
    for step in range(3):
        watch.look(policy, step)
    assert watch.best_step == best
    told = "step 1 is not kept: length rose by 100 % over 6 prompts, 6 longer and 0 shorter (tune.length_rise 0.5)"
    assert (told in " ".join(capsys.readouterr().out.split())) == (bound == 0.5)


# Three answers of 8 tokens at the first look, of 4 after it; the test has 3 prompts x 2 draws, 6 answers of each.
# The second look needs 24 + 2 x 24 + 6 x 16 = 168; the third 36 + 2 x 12 + 6 x 12 = 132, but after a look left out 168.
@pytest.mark.parametrize(("budget", "steps"), [(167, [0, 3]), (168, [0, 1, 2, 3]), (0, [0, 1, 2, 3])])
def test_looks_that_the_budget_does_not_cover_are_left_out_and_told_but_never_the_last(
    tiny_model, policy, tmp_path: Path, capsys, budget: int, steps: list[int]
) -> None:
    settings = config.load(recipe(tmp_path / "budget", tiny_model, evaluate__token_budget=budget))

    class Counted(writing([[8] * 3, [4] * 3, [4] * 3, [4] * 3])):
        def _groups(self, policy):
            before = self.tokens
            groups = super()._groups(policy)
            self.tokens = before + sum(group.num_tokens for group in groups)
            return groups

    watch = Counted(settings, PROMPTS, ScriptedJudge("===", "===", "==="))
    for step in range(4):
        watch.look(policy, step, is_last=step == 3)
    assert [look["step"] for look in watch.facts()["looks"]] == steps
    assert watch.facts()["looks_left_out"] == 4 - len(steps)
    told = " ".join(capsys.readouterr().out.split())
    assert [f"step {step}: no look at the validation prompts" in told for step in range(4)] == [
        step not in steps for step in range(4)
    ]


def test_a_budget_that_covers_no_look_at_the_tuned_policy_stops_at_the_start(tiny_model, policy, tmp_path) -> None:
    settings = config.load(recipe(tmp_path / "budget", tiny_model, evaluate__token_budget=20))
    watch = Watch(settings, PROMPTS, ScriptedJudge("==="))
    with pytest.raises(
        StopStage, match=r"^tune: evaluate.token_budget = 20 does not cover one look .* over \(--from\)$"
    ):
        watch.look(policy, 0)


def test_the_budget_is_for_the_test_prompts_that_there_are(tiny_model, policy, tmp_path) -> None:
    # at most 3 answers of 8 tokens at both looks; the test of 10,000 prompts would take more than 1,000 tokens
    changes = {"evaluate__token_budget": 1000, "prompts__test": 10_000}
    settings = config.load(recipe(tmp_path / "budget", tiny_model, **changes))
    assert Watch(settings, PROMPTS, ScriptedJudge("==="), num_test_prompts=3).look(policy, 0)
    with pytest.raises(StopStage, match=r"^tune: evaluate.token_budget = 1,000 does not cover one look"):
        Watch(settings, PROMPTS, ScriptedJudge()).look(policy, 0)


def test_the_kl_of_a_look_is_that_of_what_would_be_saved_a_mean_over_answers(
    tiny_model, policy, tmp_path, monkeypatch
) -> None:
    changes = {"tune__validation_draws": 2, "tune__weight_share": 0.5}
    settings = config.load(recipe(tmp_path / "half", tiny_model, **changes))
    watch = Watch(settings, PROMPTS, ScriptedJudge("=" * 6))
    seen: list[list[Group]] = []
    groups_of = watch._groups
    monkeypatch.setattr(watch, "_groups", lambda found: (seen.append(groups_of(found)), seen[-1])[1])
    watch.look(policy, 0)
    move(policy)
    found = watch.look(policy, 1)["validation/kl"]
    with policy.blended(0.5):
        total = sum(float(policy.kl(pack([group.pack])).sum()) for group in seen[1])
    assert total > 0
    assert found == pytest.approx(total / 6, rel=0.02)  # three prompts, two answers each


def test_a_look_takes_answers_as_long_as_the_tests(tiny_model, policy, tmp_path) -> None:
    settings = config.load(recipe(tmp_path / "short", tiny_model, evaluate__answer_tokens=3))
    watch = Watch(settings, PROMPTS, ScriptedJudge())
    watch.look(policy, 0)
    assert max(tokens for *_, tokens in watch.state_dict()["first"]) == 3
