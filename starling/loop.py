"""The loop of `tune`: rollout, score, advantage, update; every algorithm runs in it."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

from starling import algorithms, device, progress, samples, schedule, selection, step_metrics, update
from starling.ahead import Rollouts
from starling.checkpoint import Checkpoint
from starling.config import Config
from starling.curriculum import Curriculum, chunks, count_tokens
from starling.distributed.vllm import Server
from starling.errors import DataError
from starling.experience import (
    Part,
    Scale,
    compared,
    gather,
    shifted,
    teach_critic,
    teach_nothing,
    teach_nothing_within,
    whitened,
)
from starling.losses.kl_control import KLControl
from starling.metrics import Recorder
from starling.models import Model
from starling.policy import Policy
from starling.ranked import RankedAnswers
from starling.records import Prompt, Ranking
from starling.rewards import Rewards
from starling.rollout import Group, ranked_groups, with_first
from starling.tune_settings import as_read

FLAT_STEPS = 3  # in a row whose rewards tell nothing apart: one may be chance, after these tuning ends


class Loop:
    """Rollout, score, advantage, update; all that changes from step to step is in `state_dict`."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        rewards: Rewards,
        prompts: Sequence[Prompt],
        rankings: Sequence[Ranking],
        watch: selection.Watch,
        recorder: Recorder,
        server: Server | None = None,
    ) -> None:
        self.algorithm = algorithms.chosen(config.tune)
        self.cfg = as_read(config.tune)
        self.seed = config.run.seed
        self.policy = policy
        self._began_with = policy.fingerprint()
        self.rewards = rewards
        ranked = ranked_groups(Model(policy.network, policy.tokenizer), prompts, rankings)
        if self.algorithm.best_only:
            ranked = with_first(ranked)
        self.curriculum = Curriculum(self.cfg, self.seed, prompts, ranked)
        self.curriculum.require(online=self.algorithm.online, rankings=len(rankings))
        if self.algorithm.best_only:
            self.curriculum.keep_best()
        self.rollouts = Rollouts(self.cfg, self.seed, policy, self.curriculum.prompts, server)
        self.watch = watch
        self.recorder = recorder
        self.step = 0
        self.tokens = 0
        self.stopped_by = ""
        self.flat_steps = 0
        self.scale = Scale(0.0, 1.0)  # of what is reported
        self.shaping = self.scale  # of what is learnt from
        target = self.cfg.kl_target if self.cfg.kl_control == "adaptive" else None
        self.kl_control = KLControl(self.cfg.kl_coef, target, self.cfg.kl_horizon)
        self.ranked = RankedAnswers(self.curriculum, rewards if self.algorithm.online else None, self._gathered)
        self._gap_told = False
        self.optimiser = update.optimiser(policy, self.cfg)

    def train(self, checkpoint: Checkpoint) -> None:
        """Go on from the checkpoint, or from the start, to the last step or the first limit."""
        state = checkpoint.load()
        if state is not None:
            if state["began_with"] != self._began_with:
                raise DataError(
                    f"{checkpoint.path}: was saved while another model was tuned than "
                    f"{self.policy.tokenizer.name_or_path}; bring that one back, or delete the file to begin anew"
                )
            self.load_state_dict(state)
        self.recorder.rewind(-1 if state is None else self.step)  # step 0 is a line too
        before = self.curriculum.warm_up_tokens if self.algorithm.online else 0
        total = before + self.curriculum.expected_tokens
        if state is None and self.algorithm.online:
            self.fix_scale()
        with progress.track("tune", total, "tokens", self.recorder.curves) as advance:
            if state is None:
                if self.algorithm.online:
                    self.warm_up(advance)
                self.recorder.log(0, self._look())
            else:
                advance(before + self.curriculum.ranked_tokens_before(self.step) + self.tokens, found=True)
            while self.step < self.curriculum.num_steps and not self.stopped_by:
                self.take_step(advance)
                if checkpoint.due:
                    checkpoint.save(self.state_dict())

    def fix_scale(self) -> None:
        """Fix the reward's scale on the warm-up's ranked answers."""
        self.scale = self.shaping = self.ranked.scale(self.cfg)

    def warm_up(self, advance: progress.Advance) -> None:
        """Teach the critic on the warm-up's ranked answers, before the policy moves."""
        parts = []
        for index in range(self.curriculum.num_warm_up_parts):
            if self.cfg.critic_epochs:
                parts.append(self.ranked.part(index))
            advance(count_tokens(self.curriculum.parts[index]), note="warm-up on ranked answers")
        if parts:
            teach_critic(self.policy, parts, self.cfg, device.generator(self.seed, "critic"))
        if not self.curriculum.num_ranked_parts:
            self.ranked.let_go()

    def take_step(self, advance: progress.Advance) -> None:
        """One round: a step's groups, ranked or fresh, then `updates_per_step` updates, each on its own part."""
        before = self._share_done
        online = self.step >= self.curriculum.ranked_steps
        if online:
            self.ranked.let_go()
            fresh = self._sample(advance)
            spent = sum(count_tokens(groups) for groups in fresh)
            self.tokens += spent
            if 0 < self.cfg.token_budget <= self.tokens and self.step + 1 < self.curriculum.num_steps:
                self._stop(self.step + 1, "token_budget", f"tune.token_budget ({self.cfg.token_budget:,}) is spent")
            is_last = self.stopped_by or self.step + 1 == self.curriculum.num_steps
            with nullcontext() if is_last else self.rollouts.ahead(self.step + 1, advance):
                parts, metrics = self._learn_from_fresh(fresh, 1 - before)
        else:
            order = self.curriculum.ranked_order(self.step)
            self.ranked.reward(order)
            parts = [self.ranked.part(index) for index in order]
            metrics = step_metrics.of_answers(parts, self.scale) | self._update(parts, 1 - before)
        self.step += 1
        self.policy.sync()
        self._stop_past_limit(metrics.get("objective/kl", 0.0))
        if self._is_over or schedule.is_look_due(self.cfg.validate_every, self.step, before, self._share_done):
            metrics |= self._look()
        self.recorder.log(self.step, metrics | {"online": float(online), "num_tokens": float(self.tokens)})
        rewarded = f" reward {metrics['reward']:+.2f}" if "reward" in metrics else ""
        kind = f"KL {metrics['objective/kl']:.1f}" if online else "ranked answers"
        count = 0 if online else sum(count_tokens(part.groups) for part in parts)  # fresh ones: as they came
        advance(count, note=f"step {self.step}/{self.curriculum.num_steps}{rewarded} {kind}")

    def _learn_from_fresh(self, fresh: Sequence[Sequence[Group]], left: float) -> tuple[list[Part], dict[str, float]]:
        """Score the rollouts, a list for each update, and update on them, with so much of the way left."""
        raw, means = self.rewards([group for groups in fresh for group in groups])
        if self.cfg.reward_scaling == "running":
            self.shaping = self.shaping.after([reward for row in raw for reward in row])
        rows = iter(raw)
        parts = [self._gathered(groups, list(islice(rows, len(groups)))) for groups in fresh]
        metrics = step_metrics.of_answers(parts, self.scale)
        metrics |= step_metrics.of_rollouts(parts, *compared(self.policy, parts, self.cfg)) | means
        self._note_rewards(parts)
        self._write_samples(parts)
        metrics |= self._update(parts, left, self.cfg.epochs_per_step)
        if self.algorithm.kl_in_reward:
            metrics |= self._control_kl(metrics["objective/kl"], parts)
        return parts, metrics

    def _note_rewards(self, parts: Sequence[Part]) -> None:
        """End tuning where there is nothing left to learn from the rewards."""
        groups = [group for part in parts for group in part.groups]
        rows = [row for part in parts for row in part.raw]
        within = self.algorithm.within_prompt(self.cfg)
        flat = (teach_nothing_within if within else teach_nothing)(groups, rows, self.shaping, self.cfg)
        self.flat_steps = self.flat_steps + 1 if flat else 0
        if self.flat_steps == FLAT_STEPS:
            same = " to a prompt" if within else ""
            alike = (
                f"in {FLAT_STEPS} steps in a row all answers{same} got the same reward once it is scaled and clipped, "
                f"first {rows[0][0]:g}"
            )
            self._stop(self.step + 1, "constant_reward", alike)

    def _stop(self, step: int, reason: str, why: str) -> None:
        """End tuning with this step, for the first reason there is; at the last step only say it."""
        if self.stopped_by:
            return
        is_last = step == self.curriculum.num_steps
        self.stopped_by = "" if is_last else reason
        progress.say(f"tune: step {step}: {why}{'' if is_last else '; tuning ends here'}")

    def _stop_past_limit(self, kl: float) -> None:
        if kl > self.cfg.kl_limit:
            self._stop(self.step, "kl_limit", f"a KL of {kl:.1f} nats is past tune.kl_limit ({self.cfg.kl_limit:g})")

    @property
    def _share_done(self) -> float:
        return self.curriculum.share_done(self.step, self.tokens)

    @property
    def _is_over(self) -> bool:
        """Whether no step comes after those that are done."""
        return bool(self.stopped_by) or self.step == self.curriculum.num_steps

    def _look(self) -> dict[str, float]:
        """A look of the judge at the policy, which ends tuning once reward and judge have parted."""
        rewarded = self.algorithm.online and self.rewards.differ_from_judge
        score = self._mean_reward if rewarded else None
        found = self.watch.look(self.policy, self.step, score, is_last=self._is_over)
        self._stop_past_limit(found.get("validation/kl", 0.0))
        if self.watch.has_parted:
            self._stop(
                self.step,
                "parted",
                f"reward and judge have parted: {self.cfg.parting_looks} looks in a row (tune.parting_looks) have more "
                f"reward than step {self.watch.best_step} and please the judge less",
            )
        return found

    def _mean_reward(self, groups: Sequence[Group]) -> float:
        """The mean reward of all answers, scaled as in the steps' metrics."""
        raw = [reward for row in self.rewards(groups)[0] for reward in row]
        return self.scale.of(sum(raw) / len(raw))

    def _write_samples(self, parts: Sequence[Part]) -> None:
        """Some of the first step's fresh answers, and of every `samples_every`th after it, into the diary."""
        every, number = self.cfg.samples_every, self.step - self.curriculum.ranked_steps
        if every and number % every == 0:
            groups = [group for part in parts for group in part.groups]
            raw = [row for part in parts for row in part.raw]
            self.recorder.write(self.step + 1, samples.section(groups, raw, self.scale))

    def _update(self, parts: Sequence[Part], left: float, epochs: int = 1) -> dict[str, float]:
        """`epochs` times one optimiser step for each part, at a rate that falls linearly to 0 with what is `left` of
        the way; advantages and old logprobs are those before the first."""
        cfg, coef = self.cfg, self.kl_control.coef
        once = len(parts) * epochs == 1
        batches = [
            [
                update.appraised(self.policy, found, self.algorithm, cfg, coef, only_update=once)
                for found in part.experiences
            ]
            for part in parts
        ]
        if cfg.whiten_advantages:
            batches = whitened(batches)
        if cfg.reward_shift:
            batches = shifted(batches, cfg.reward_shift)
        for group, rate in zip(self.optimiser.param_groups, (cfg.learning_rate, cfg.value_learning_rate), strict=True):
            group["lr"] = rate * left
        metrics: dict[str, float] = {"learning_rate": cfg.learning_rate * left}
        if coef:
            metrics["objective/kl"] = step_metrics.charged_kl(batches)
        updates = batches * epochs
        found = update.taken(self.policy, self.optimiser, updates, self.algorithm, cfg, self.step + 1)
        gap = found.pop(update.GAP, None)
        return metrics | found | self._gap(gap)

    def _gap(self, gap: float | None) -> dict[str, float]:
        """The gap between sampler and trainer before the step's first update, over that update's tokens; ranked answers
        have none. No warning is given of rollouts that a step of learning stands between."""
        if gap is None:
            return {}
        if gap > self.cfg.logprob_gap_limit and not (self._gap_told or self.rollouts.stale):
            self._gap_told = True  # once is enough: every step's gap stands in the metrics
            progress.say(
                f"tune: step {self.step + 1}: a token's logprob as sampled and as trained differ by {gap:.3f} nats in "
                f"the mean (tune.logprob_gap_limit {self.cfg.logprob_gap_limit:g}): another policy sampled than trains"
            )
        return {update.GAP: gap}

    def _control_kl(self, kl: float, parts: Sequence[Part]) -> dict[str, float]:
        """Note what the KL cost in this step's rewards, and let it steer what it costs in the next."""
        coef = self.kl_control.coef
        self.kl_control = self.kl_control.after(kl, sum(len(group.answers) for part in parts for group in part.groups))
        return {"objective/kl_coef": coef, "objective/non_score_reward": -coef * kl}

    def state_dict(self) -> dict[str, Any]:
        return {
            "began_with": self._began_with,
            "step": self.step,
            "tokens": self.tokens,
            "stopped_by": self.stopped_by,
            "flat_steps": self.flat_steps,
            "gap_told": self._gap_told,
            "scale": list(self.scale),
            "shaping": list(self.shaping),
            "raw": self.ranked.raw,
            "kl_coef": self.kl_control.coef,
            "top": self.policy.weights(),
            "critic": self.policy.critic.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "watch": self.watch.state_dict(),
            "open_rollouts": self.rollouts.state_dict(),
            "random": device.random_state(),  # a reward of the user's may draw
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.tokens, self.stopped_by = state["step"], state["tokens"], state["stopped_by"]
        self.flat_steps = state["flat_steps"]
        self._gap_told = state.get("gap_told", False)  # states of before have none
        self.scale, self.shaping = Scale(*state["scale"]), Scale(*state["shaping"])
        self.ranked.raw = dict(state["raw"])
        self.kl_control = self.kl_control._replace(coef=state["kl_coef"])
        self.policy.load(state["top"])
        self.policy.critic.load_state_dict(state["critic"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.watch.load_state_dict(state["watch"])
        self.rollouts.load_state_dict(state["open_rollouts"], self.step)
        device.set_random_state(state["random"])
        self.policy.sync()

    def facts(self) -> dict[str, Any]:
        return {
            "steps": self.step,
            "ranked_steps": self.curriculum.ranked_steps,
            "ranked_tokens": self.curriculum.ranked_tokens_before(self.step),
            "critic_warm_up_tokens": self.curriculum.warm_up_tokens if self.cfg.critic_epochs else 0,
            "rollout_tokens": self.tokens,
            "stopped_by": self.stopped_by or "steps",
            "reward_scale": self.scale._asdict(),
        }

    def _gathered(self, groups: Sequence[Group], raw: Sequence[Sequence[float]]) -> Part:
        reference = self.algorithm.compares(self.cfg)
        return gather(self.policy, groups, raw, self.shaping, self.cfg, reference=reference)

    def _sample(self, advance: progress.Advance) -> list[Sequence[Group]]:
        """Fresh answers to this step's prompts, a list for each update."""
        groups = self.rollouts.of(self.step, advance)
        return list(chunks(groups, -(-len(groups) // self.cfg.updates_per_step)))
