"""tune: APA moves the policy towards what the reward model prefers; the judge picks the checkpoint.

The first steps learn from the answers that were ranked, the others from answers of the policy itself. Both are the
same step: APA's target, the initial policy times exp(advantage / lambda), does not depend on who gave the answers.
"""

import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from starling import models, progress, selection, tables
from starling.checkpoint import Checkpoint
from starling.config import Config, TuneTable
from starling.device import generator
from starling.errors import StarlingError
from starling.experience import Batch, Part, Scale, gather, judged_by_critic, teach_critic, whitened
from starling.judges.make import make_judge
from starling.ledger import Ledger
from starling.losses import kl
from starling.losses.apa import apa_loss
from starling.losses.value import value_loss
from starling.metrics import Recorder
from starling.models import Model
from starling.policy import Policy, pad
from starling.records import Prompt, Ranking
from starling.rollout import Group, ranked_groups, sample_groups, score_texts
from starling.store import Run, replace_folder

LOSSES = {"apa": apa_loss}


def run(run: Run) -> dict[str, Any]:
    """Write the chosen policy to `tune/policy`."""
    config, cfg = run.config, run.config.tune
    prompts = tables.prompts_of(run, "train")
    policy = Policy(models.load_policy(config.run.model), cfg.layers, cfg.temperature)
    reward_model = models.load_reward_model(str(run.folder("fit") / "model"), torch.bfloat16)
    recorder = Recorder(run.metrics_path, "tune")
    with Ledger(run.ledger_path, "tune") as ledger:
        watch = selection.Watch(config, tables.prompts_of(run, "validation"), make_judge(config.rank, config, ledger))
        rankings = tables.rankings_of(run, prompts)
        loop = Loop(config, policy, reward_model, prompts, rankings, watch, recorder)
        loop.train(Checkpoint(run.folder("tune") / "checkpoint.pt", cfg.checkpoint_seconds))
    policy.top.load_state_dict(watch.best_weights)
    policy.sync(cfg.weight_share)
    partial = run.folder("tune") / "policy.partial"
    shutil.rmtree(partial, ignore_errors=True)
    models.save(Model(policy.network, policy.tokenizer), partial)
    replace_folder(partial, run.folder("tune") / "policy")
    Checkpoint(run.folder("tune") / "checkpoint.pt", 0).remove()
    return loop.facts() | watch.facts()


class Loop:
    """Rollout, score, advantage, update; all that changes from step to step is in `state_dict`."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        reward_model: Model,
        prompts: Sequence[Prompt],
        rankings: Sequence[Ranking],
        watch: selection.Watch,
        recorder: Recorder,
    ) -> None:
        self.cfg: TuneTable = config.tune
        self.seed = config.run.seed
        self.policy = policy
        self.reward_model = reward_model
        self.prompts = prompts
        part_size = -(-self.cfg.prompts_per_step // self.cfg.updates_per_step)
        self.ranked = list(
            _chunks(ranked_groups(Model(policy.network, policy.tokenizer), prompts, rankings), part_size)
        )
        self.num_ranked_parts = min(-(-self.cfg.ranked_prompts // part_size), len(self.ranked))
        self.num_warm_up_parts = min(-(-self.cfg.warm_up_prompts // part_size), len(self.ranked))
        self.steps_per_epoch = -(-self.num_ranked_parts // self.cfg.updates_per_step)
        self.ranked_steps = self.cfg.ranked_epochs * self.steps_per_epoch
        self.num_steps = self.ranked_steps + self.cfg.steps
        self.watch = watch
        self.recorder = recorder
        self.step = 0
        self.tokens = 0
        self.stopped_by = ""
        self.scale = Scale(0.0, 1.0)
        self._kept: dict[int, Part] = {}
        self.optimiser = torch.optim.AdamW(
            [
                {"params": list(policy.top.parameters()), "lr": self.cfg.learning_rate},
                {"params": list(policy.critic.parameters()), "lr": self.cfg.value_learning_rate},
            ],
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=True,
        )

    def train(self, checkpoint: Checkpoint) -> None:
        """Go on from the checkpoint, or from the start, to the last step or the first limit."""
        state = checkpoint.load()
        if state is not None:
            self.load_state_dict(state)
        self.recorder.rewind(-1 if state is None else self.step)  # step 0 is a line too
        with progress.track("tune", self._expected_tokens(), "tokens") as advance:
            if state is None:
                self.warm_up(advance)
                self.recorder.log(0, self.watch.look(self.policy, 0))
            else:
                advance(self._tokens_behind())
            while self.step < self.num_steps and not self.stopped_by:
                self.take_step(advance)
                if checkpoint.due:
                    checkpoint.save(self.state_dict())
            if self.watch.last_step < self.step and (found := self.watch.look(self.policy, self.step)):
                self.recorder.log(self.step, found)

    def warm_up(self, advance: progress.Advance) -> None:
        """Fix the reward's scale and teach the critic, on ranked answers, before the policy moves."""
        raw = [self._score(part) for part in self.ranked[: self.num_warm_up_parts]]
        flat = torch.tensor([reward for part in raw for row in part for reward in row])
        if flat.std() < 1e-6:
            raise StarlingError(
                f"tune: all {len(flat)} ranked answers looked at get the same reward; refit the reward model"
            )
        self.scale = Scale(float(flat.mean()), float(flat.std()))
        for index, rewards in enumerate(raw):
            self._kept[index] = gather(self.policy, self.ranked[index], rewards, self.scale, self.cfg)
            advance(_count_tokens(self.ranked[index]), note="warm-up on ranked answers")
        teach_critic(self.policy, list(self._kept.values()), self.cfg, generator(self.seed, "critic"))

    def take_step(self, advance: progress.Advance) -> None:
        """One round: a step's groups, ranked or fresh, then `updates_per_step` updates, each on its own part."""
        online = self.step >= self.ranked_steps
        if online:
            fresh = self._sample(advance)
            spent = sum(_count_tokens(groups) for groups in fresh)
            if self.cfg.token_budget and self.tokens + spent > self.cfg.token_budget:
                self.stopped_by = "token_budget"
                return
            self.tokens += spent
            parts = [gather(self.policy, groups, self._score(groups), self.scale, self.cfg) for groups in fresh]
        else:
            parts = [self._ranked_part(index) for index in self._ranked_order(self.step)]
        metrics = _describe(parts, self.scale) | (_divergence(parts) if online else {})
        metrics |= self._update(parts)
        self.step += 1
        self.policy.sync()
        if metrics.get("objective/kl", 0.0) > self.cfg.kl_limit:
            self.stopped_by = "kl_limit"
        if self.step % self.cfg.validate_every == 0:
            metrics |= self.watch.look(self.policy, self.step)
        self.recorder.log(self.step, metrics | {"online": float(online), "tokens": float(self.tokens)})
        kind = f"KL {metrics['objective/kl']:.1f}" if online else "ranked answers"
        count = 0 if online else sum(_count_tokens(part.groups) for part in parts)  # fresh ones: as they came
        advance(count, note=f"step {self.step}/{self.num_steps} reward {metrics['reward']:+.2f} {kind}")

    def _update(self, parts: Sequence[Part]) -> dict[str, float]:
        """One optimiser step for each part, at a rate that falls linearly to 0 over the whole of tuning."""
        batches = [[judged_by_critic(self.policy, found, self.cfg) for found in part.experiences] for part in parts]
        if self.cfg.whiten_advantages:
            batches = whitened(batches)
        left = 1 - self.step / self.num_steps
        for group, rate in zip(
            self.optimiser.param_groups, (self.cfg.learning_rate, self.cfg.value_learning_rate), strict=True
        ):
            group["lr"] = rate * left
        metrics: dict[str, float] = {"learning_rate": self.cfg.learning_rate * left}
        for part in batches:
            found = self._gradient(part)
            norm = torch.nn.utils.clip_grad_norm_(self.policy.top.parameters(), self.cfg.grad_clip)
            self.optimiser.step()
            found["grad_norm"] = float(norm)
            metrics |= {name: metrics.get(name, 0.0) + value / len(batches) for name, value in found.items()}
        self.optimiser.zero_grad(set_to_none=True)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "stopped_by": self.stopped_by,
            "scale": list(self.scale),
            "top": self.policy.top.state_dict(),
            "critic": self.policy.critic.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "watch": self.watch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.tokens, self.stopped_by = state["step"], state["tokens"], state["stopped_by"]
        self.scale = Scale(*state["scale"])
        self.policy.top.load_state_dict(state["top"])
        self.policy.critic.load_state_dict(state["critic"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.watch.load_state_dict(state["watch"])
        self.policy.sync()

    def facts(self) -> dict[str, Any]:
        return {
            "steps": self.step,
            "ranked_steps": self.ranked_steps,
            "rollout_tokens": self.tokens,
            "stopped_by": self.stopped_by or "steps",
            "reward_scale": self.scale._asdict(),
        }

    def _ranked_order(self, step: int) -> list[int]:
        """Which parts of the ranked answers this step learns from: each once an epoch, in an order of its own."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(self.num_ranked_parts, generator=generator(self.seed, "ranked", epoch)).tolist()
        return order[place * self.cfg.updates_per_step : (place + 1) * self.cfg.updates_per_step]

    def _ranked_part(self, index: int) -> Part:
        """What does not change is computed once for the warm-up's parts, which stay in memory."""
        if index in self._kept:
            return self._kept[index]
        groups = self.ranked[index]
        part = gather(self.policy, groups, self._score(groups), self.scale, self.cfg)
        if index < self.num_warm_up_parts:
            self._kept[index] = part
        return part

    def _expected_tokens(self) -> int:
        fresh = self.cfg.steps * self.cfg.prompts_per_step * self.cfg.rollouts_per_prompt * self.cfg.max_new_tokens
        ranked = self.cfg.ranked_epochs * sum(map(_count_tokens, self.ranked[: self.num_ranked_parts]))
        return self._warm_up_tokens() + ranked + min(fresh, self.cfg.token_budget or fresh)

    def _warm_up_tokens(self) -> int:
        return sum(map(_count_tokens, self.ranked[: self.num_warm_up_parts]))

    def _tokens_behind(self) -> int:
        steps = range(min(self.step, self.ranked_steps))
        ranked = sum(_count_tokens(self.ranked[index]) for step in steps for index in self._ranked_order(step))
        return self._warm_up_tokens() + ranked + self.tokens

    def _sample(self, advance: progress.Advance) -> list[Sequence[Group]]:
        """Fresh answers to this step's prompts, a list for each update.

        Prompts are drawn without replacement, in an order that is new in every pass over them.
        """
        start = (self.step - self.ranked_steps) * self.cfg.prompts_per_step
        chosen = []
        for index in range(start, start + self.cfg.prompts_per_step):
            epoch, place = divmod(index, len(self.prompts))
            order = torch.randperm(len(self.prompts), generator=generator(self.seed, "tune", epoch)).tolist()
            chosen.append(self.prompts[order[place]])
        groups = sample_groups(
            Model(self.policy.network, self.policy.tokenizer),
            chosen,
            count=self.cfg.rollouts_per_prompt,
            max_new_tokens=self.cfg.max_new_tokens,
            temperature=self.cfg.temperature,
            top_p=1.0,
            seed=self.seed,
            purpose=("tune", self.step),
            on_tokens=advance,
        )
        return list(_chunks(groups, -(-len(groups) // self.cfg.updates_per_step)))

    def _score(self, groups: Sequence[Group]) -> list[list[float]]:
        shown = [(group.prompt, group.texts, [answer.finished for answer in group.answers]) for group in groups]
        return score_texts(self.reward_model, shown, self.cfg.microbatch_tokens)

    def _gradient(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Accumulate the gradient of policy and critic over all batches; metrics are means over tokens or answers."""
        num_tokens = sum(int(batch.experience.mask_BT.sum()) for batch in batches)
        self.optimiser.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        for experience, advantage_BT, return_BT in batches:
            mask_BT = experience.mask_BT
            logprob_BT, _ = pad(self.policy.logprobs(experience.packed, experience.features), experience.lengths)
            loss = LOSSES[self.cfg.algorithm](
                logprob_BT, experience.ref_logprob_BT, advantage_BT, mask_BT, lam=self.cfg.lam, num_tokens=num_tokens
            )
            value_BT, _ = pad(self.policy.values(experience.features), experience.lengths)
            critic = value_loss(value_BT, return_BT, mask_BT, num_tokens=num_tokens)
            (loss.value + critic.value).backward()
            share = float(mask_BT.sum()) / num_tokens
            found = {
                "loss/policy": float(loss.value.detach()),
                "loss/value": float(critic.value.detach()),
                "apa/target_above_zero": float(loss.metrics["target_above_zero"]),
                "value/explained_variance": share * float(critic.metrics["explained_variance"]),
            }
            totals = {name: totals.get(name, 0.0) + value for name, value in found.items()}
        return totals


def _chunks(groups: Sequence[Group], size: int) -> Iterator[Sequence[Group]]:
    return (groups[start : start + size] for start in range(0, len(groups), size))


def _count_tokens(groups: Sequence[Group]) -> int:
    return sum(group.num_tokens for group in groups)


def _describe(parts: Sequence[Part], scale: Scale) -> dict[str, float]:
    raw = [row for part in parts for row in part.raw]
    answers = [answer for part in parts for group in part.groups for answer in group.answers]
    mean = sum(map(sum, raw)) / len(answers)
    return {
        "reward": (mean - scale.mean) / scale.spread,
        "reward_raw": mean,
        "reward_spread_within_prompt": sum(float(torch.tensor(row).std()) for row in raw) / len(raw),
        "completions/mean_length": sum(len(answer.ids) for answer in answers) / len(answers),
        "completions/finished": sum(answer.finished for answer in answers) / len(answers),
    }


def _divergence(parts: Sequence[Part]) -> dict[str, float]:
    """KL of the policy that sampled to the reference: nats an answer by k1, nats a token by k3."""
    answers = [answer for part in parts for group in part.groups for answer in group.answers]
    logprob_N = torch.tensor([value for answer in answers for value in answer.logprobs])
    experiences = [experience for part in parts for experience in part.experiences]
    ref_logprob_N = torch.cat([experience.features.ref_logprob_N for experience in experiences]).cpu()
    return {
        "objective/kl": float(kl.k1(logprob_N, ref_logprob_N).sum()) / len(answers),
        "objective/kl_k3": float(kl.k3(logprob_N, ref_logprob_N).mean()),
    }
