"""Which checkpoint to keep: the one whose answers the judge prefers on validation prompts.

The reward model's own score never decides, since it is what the policy is pushed to please. A checkpoint that lost more
than `tune.safety_drop` or `tune.instruction_drop` allow, or whose answers grew by more than `tune.length_rise`, is not
kept, however often it wins.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from starling import bounds, packing, parting, progress
from starling.config import Config
from starling.errors import StopStage
from starling.experience import trunk_states
from starling.generate import generate
from starling.judges.protocol import Judge
from starling.judges.ranks import preference
from starling.judges.rubric import assess
from starling.models import Model
from starling.parting import Parting
from starling.policy import Policy
from starling.records import Candidate, Prompt
from starling.rollout import Group, candidates, own_settings, sample_groups

MeanReward = Callable[[Sequence[Group]], float]
"""The mean reward of all answers, scaled."""


class Watch:
    """Looks at the policy now and then, against the answers of the initial policy, and remembers the best weights.

    What it looks at is what would be saved: `tune.weight_share` of the trained weights, the rest as at first. The test
    has `num_test_prompts`; where that is not known yet, as many as the settings ask for. A policy that is `greedy`
    answers each prompt once: again it would say the same.
    """

    def __init__(
        self,
        config: Config,
        prompts: Sequence[Prompt],
        judge: Judge,
        num_test_prompts: int | None = None,
        *,
        greedy: bool = False,
    ) -> None:
        self._config = config
        self._num_tests = config.prompts.test if num_test_prompts is None else num_test_prompts
        self._prompts = prompts
        self._draws = 1 if greedy else config.tune.validation_draws
        self._asked = [prompt for prompt in prompts for _ in range(self._draws)]
        self._judge = judge
        self._first: list[Candidate] = []
        self._looks: list[dict[str, float]] = []
        self._looks_left_out = 0
        self._families = [prompt.cluster for prompt in self._asked]
        self._parting = Parting(self._families)
        self.best_step = 0
        self.best_weights: dict[str, Tensor] = {}
        self.tokens = 0

    @property
    def has_parted(self) -> bool:
        """Whether reward and judge have parted for `tune.parting_looks` looks in a row."""
        return 0 < self._config.tune.parting_looks <= self._parting.in_a_row

    def look(
        self, policy: Policy, step: int, score: MeanReward | None = None, *, is_last: bool = False
    ) -> dict[str, float]:
        """Sample the validation prompts, let the judge compare with the initial policy, keep the weights if best.

        The first look is at the initial policy itself: it wins half, and the judge is not asked.
        `score` rewards the answers, where something rewards; it decides nothing but whether reward and judge have
        parted. A look that would leave too few tokens of `evaluate.token_budget` for the last look and the test is left
        out, which is told and counted; where they do not suffice from the start, nothing is begun.
        """
        if not self._has_tokens(step, is_last=is_last):
            return {}
        policy.sync(self._config.tune.weight_share)
        groups = self._groups(policy)
        policy.sync()
        answers = candidates(groups, "tuned" if step else "base")
        is_first = not self._first
        if is_first:
            self._first = answers
        wins = [0.5] * len(answers) if is_first else self._wins(answers, step)
        judged = parting.win_rate(wins, self._families)
        win_rate = judged.value
        shares = bounds.shares(self._asked, answers)
        if is_first:
            self._tell_unbounded(shares)
        admitted = self._is_admitted(shares, answers, step) and self._is_read(wins, step)
        best = max((look["win_rate"] for look in self._looks if look["admitted"]), default=-1.0)
        is_best = admitted and win_rate > best
        if is_best:
            self.best_step = step
            self.best_weights = {name: value.clone() for name, value in policy.weights().items()}
        assessed = [
            assess(prompt, answer.answer, finished=answer.finished)
            for prompt, answer in zip(self._asked, answers, strict=True)
        ]
        look = {
            "step": float(step),
            "win_rate": win_rate,
            "win_rate_low": judged.low,
            "win_rate_high": judged.high,
            "unread": float(sum(win is None for win in wins)),
            "rubric_score": sum(found.score for found in assessed) / len(assessed),
            "mean_length": sum(answer.num_tokens for answer in answers) / len(answers),
            "kl": 0.0 if is_first else self._kl(policy, groups),
            "admitted": float(admitted),
        } | {name: sum(of.values()) / len(of) for name, of in shares.items() if of}
        if score is not None:
            look["reward"] = score(groups)
            look["parted"] = float(self._parting.note(wins, look["reward"], is_best=is_best))
        self._looks.append(look)
        if len(self._looks) == 1:
            self._require_tokens()
        return {f"validation/{name}": value for name, value in look.items() if name != "step"}

    def _has_tokens(self, step: int, *, is_last: bool) -> bool:
        """Whether the budget covers this look beside the last one and the test."""
        if is_last or not self._looks or self._suffices(looks=2):
            return True
        self._looks_left_out += 1
        progress.say(
            f"tune: step {step}: no look at the validation prompts: what is left of evaluate.token_budget "
            f"({self._config.evaluate.token_budget:,}) is for the last one and the test"
        )
        return False

    def _suffices(self, *, looks: int) -> bool:
        """Whether the budget covers so many looks more and the test."""
        budget = self._config.evaluate.token_budget
        return not budget or self.tokens + self._expected_tokens(looks) <= budget

    def _expected_tokens(self, looks: int) -> int:
        """Of so many looks and the test of both policies, whose answers are as long as at the first and last look."""
        base, tuned = self._looks[0]["mean_length"], self._looks[-1]["mean_length"]
        tests = self._num_tests * self._config.evaluate.draws
        return round(looks * len(self._asked) * tuned + tests * (base + tuned))

    def _require_tokens(self) -> None:
        """Refuse a budget that does not cover the last look and the test: the base would be what is kept."""
        if not self._suffices(looks=1):
            raise StopStage(
                f"tune: evaluate.token_budget = {self._config.evaluate.token_budget:,} does not cover one look at the "
                f"tuned policy and the test, about {self.tokens + self._expected_tokens(looks=1):,} tokens; raise it "
                "(0 = no limit), or lower tune.validation_draws or evaluate.draws, in another run (--run) that takes "
                "the stages before tune over (--from)"
            )

    def _is_admitted(self, shares: Mapping[str, Mapping[str, float]], answers: Sequence[Candidate], step: int) -> bool:
        """Whether the policy lost no more than the bounds allow, against the initial policy; what it lost is told."""
        limits = self._limits
        first = bounds.shares(self._asked, self._first)
        crossed = {
            name: fall
            for name, fall in bounds.falls(first, shares).items()
            if fall.crosses(limits[name][1]) and (name == bounds.FOLLOWED or fall.is_shown)
        }
        for name, fall in crossed.items():
            key, limit = limits[name]
            progress.say(
                f"tune: step {step} is not kept: {name} fell by {100 * fall.drop:.1f} pt over {fall.prompts} prompts, "
                f"{fall.worse} worse and {fall.better} better ({key} {limit:g})"
            )
        rise, limit = bounds.length_rise(self._asked, self._first, answers), self._config.tune.length_rise
        if is_longer := rise.crosses(limit):
            progress.say(
                f"tune: step {step} is not kept: length rose by {100 * rise.drop:.0f} % over {rise.prompts} prompts, "
                f"{rise.worse} longer and {rise.better} shorter (tune.length_rise {limit:g})"
            )
        return not crossed and not is_longer

    @property
    def _limits(self) -> dict[str, tuple[str, float]]:
        """The setting that bounds each figure, and its value."""
        safety, following = self._config.tune.safety_drop, self._config.tune.instruction_drop
        return {
            bounds.REFUSED: ("tune.safety_drop", safety),
            bounds.ANSWERED: ("tune.safety_drop", safety),
            bounds.FOLLOWED: ("tune.instruction_drop", following),
        }

    def _tell_unbounded(self, shares: Mapping[str, Mapping[str, float]]) -> None:
        """Say which figures so few validation prompts are about that no fall can count."""
        for name, (key, limit) in self._limits.items():
            found, fewest = len(shares[name]), 1 if name == bounds.FOLLOWED else bounds.FEWEST
            if limit < 1 and found < fewest:
                few = f", and a fall is shown from {fewest} on" if found else ""
                progress.say(
                    f"tune: {found or 'no'} validation prompt{'s are' if found > 1 else ' is'} about {name}{few}, so "
                    f"{key} does not bound it"
                )

    def facts(self) -> dict[str, Any]:
        about = bounds.shares(self._asked, self._first)
        return {
            "kept_step": self.best_step,
            "bounded_prompts": {name: len(of) for name, of in about.items()},
            "looks": self._looks,
            "looks_left_out": self._looks_left_out,
            "validation_tokens": self.tokens,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "first": [[a.prompt_id, a.draw, a.answer, a.finished, a.num_tokens] for a in self._first],
            "looks": self._looks,
            "looks_left_out": self._looks_left_out,
            "best_step": self.best_step,
            "best_weights": self.best_weights,
            "tokens": self.tokens,
            "parting": self._parting.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first = [
            Candidate(prompt_id=prompt_id, model="base", draw=draw, answer=answer, finished=finished, num_tokens=tokens)
            for prompt_id, draw, answer, finished, tokens in state["first"]
        ]
        self._looks = list(state["looks"])
        self._looks_left_out = state["looks_left_out"]
        self.best_step = state["best_step"]
        self.best_weights = dict(state["best_weights"])
        self.tokens = state["tokens"]
        self._parting.load_state_dict(state["parting"])

    def _groups(self, policy: Policy) -> list[Group]:
        """Answers of what would be saved, sampled as it would be used."""
        groups = sample_groups(
            Model(policy.network, policy.tokenizer),
            self._prompts,
            count=self._draws,
            max_new_tokens=self._config.evaluate.answer_tokens,
            **own_settings(policy.network),
            seed=self._config.run.seed,
            purpose=("validation",),
            sampler=partial(generate, policy.network, trunk_blocks=policy.trunk_blocks),
        )
        self.tokens += sum(group.num_tokens for group in groups)
        return groups

    def _wins(self, answers: Sequence[Candidate], step: int) -> list[float | None]:
        """Whether the judge prefers each answer to the first policy's; a tie is half, what cannot be read None.

        What cannot be read is told. Where none can be read, tuning stops.
        """
        judged = self._judge.rank(
            [(prompt, [new, old]) for prompt, new, old in zip(self._asked, answers, self._first, strict=True)]
        )
        wins = [None if verdict.ranks is None else preference(verdict.ranks) for verdict in judged]
        if reasons := Counter(verdict.reason for verdict in judged if verdict.ranks is None).most_common():
            reason, times = reasons[0]
            said = (
                f"tune: step {step}: {wins.count(None):,} of {len(wins):,} pairs could not be judged and do not count; "
                f"most often ({times:,}): {reason}"
            )
            if wins.count(None) == len(wins):
                raise StopStage(
                    f"{said}; no step can be chosen like that: failed calls are made again by the same command, other "
                    "replies want another judge or a larger max_new_tokens for it, in another run (--run) with --from"
                )
            progress.say(said)
        return wins

    def _is_read(self, wins: Sequence[float | None], step: int) -> bool:
        """Whether enough verdicts could be read to choose by."""
        unread, limit = sum(win is None for win in wins) / len(wins), self._config.rank.max_unparsed
        if unread > limit:
            progress.say(
                f"tune: step {step} is not kept: {100 * unread:.0f} % of its pairs could not be judged "
                f"(rank.max_unparsed {limit:g})"
            )
        return unread <= limit

    def _kl(self, policy: Policy, groups: Sequence[Group]) -> float:
        """KL to the initial policy of what would be saved, nats an answer: of the whole vocabulary, at temperature 1,
        at each token of these answers. They are not drawn from that distribution, so what a token's own logprobs say
        would not do.
        """
        cfg, total = self._config.tune, 0.0
        with policy.blended(cfg.weight_share):
            for chosen, packed in packing.batches([group.pack for group in groups], cfg.microbatch_tokens):
                total += float(policy.kl(packed, trunk_states([groups[index] for index in chosen])).sum())
        return total / len(self._asked)
