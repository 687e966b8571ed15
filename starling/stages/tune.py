"""tune: APA moves the policy towards what the reward model prefers; the judge picks the checkpoint.

The first steps learn from the answers that were ranked, the others from answers of the policy itself. Both are the
same step: APA's target, the initial policy times exp(advantage / lambda), does not depend on who gave the answers.
"""

import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from starling import chat, models, packing, progress, selection, tables
from starling.checkpoint import Checkpoint
from starling.config import Config, TuneTable
from starling.device import generator
from starling.errors import StarlingError
from starling.generate import Sampled, stop_ids
from starling.judges.make import make_judge
from starling.ledger import Ledger
from starling.losses import kl
from starling.losses.advantage import gae, leave_one_out
from starling.losses.apa import apa_loss
from starling.losses.value import value_loss
from starling.metrics import Recorder
from starling.models import Model
from starling.packing import Packed
from starling.policy import Features, Policy, pad
from starling.records import Prompt, Ranking
from starling.rollout import Group, sample_groups, score_texts
from starling.store import Run, replace_folder

LOSSES = {"apa": apa_loss}


class Scale(NamedTuple):
    """What turns raw rewards into scaled ones: fixed before tuning, on answers of the initial policy."""

    mean: float
    spread: float


class Batch(NamedTuple):
    """Some groups, packed, with what every update needs: (N, T) over their answers."""

    packed: Packed
    features: Features
    lengths: list[int]
    ref_logprob_BT: Tensor
    advantage_BT: Tensor
    return_BT: Tensor
    mask_BT: Tensor


def run(run: Run) -> dict[str, Any]:
    """Write the chosen policy to `tune/policy`."""
    config, cfg = run.config, run.config.tune
    prompts = tables.prompts_of(run, "train")
    policy = Policy(models.load_policy(config.run.model), cfg.layers, cfg.temperature)
    reward_model = models.load_reward_model(str(run.folder("fit") / "model"), torch.bfloat16)
    recorder = Recorder(run.metrics_path, "tune")
    with Ledger(run.ledger_path) as ledger:
        watch = selection.Watch(config, tables.prompts_of(run, "validation"), make_judge(config.rank, config, ledger))
        rankings = tables.rankings_of(run, prompts)
        loop = Loop(config, policy, reward_model, prompts, rankings, watch, recorder)
        loop.train(Checkpoint(run.folder("tune") / "checkpoint.pt", cfg.checkpoint_seconds))
    policy.top.load_state_dict(watch.best_weights)
    policy.sync()
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
        self.ranked = ranked_groups(policy, prompts, rankings)
        self.ranked_steps = -(-min(self.cfg.ranked_prompts, len(self.ranked)) // self.cfg.prompts_per_step)
        self.num_steps = self.ranked_steps + self.cfg.steps
        self.watch = watch
        self.recorder = recorder
        self.step = 0
        self.tokens = 0
        self.stopped_by = ""
        self.scale = Scale(0.0, 1.0)
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
        fresh = self.cfg.steps * self.cfg.prompts_per_step * self.cfg.rollouts_per_prompt * self.cfg.max_new_tokens
        given = [sum(group.num_tokens for group in self._ranked_of(step)) for step in range(self.ranked_steps)]
        with progress.track("tune", sum(given) + min(fresh, self.cfg.token_budget or fresh), "tokens") as advance:
            advance(sum(given[: self.step]) + self.tokens)
            if state is None:
                self.warm_up()
                self.recorder.log(0, self.watch.look(self.policy, 0))
            while self.step < self.num_steps and not self.stopped_by:
                self.take_step(advance)
                if checkpoint.due:
                    checkpoint.save(self.state_dict())
            if self.watch.last_step < self.step and (found := self.watch.look(self.policy, self.step)):
                self.recorder.log(self.step, found)

    def warm_up(self) -> None:
        """Fix the reward's scale and teach the critic, on ranked answers, before the policy moves."""
        groups = self.ranked[: self.cfg.warm_up_prompts]
        raw = self._score(groups)
        flat = torch.tensor([reward for row in raw for reward in row])
        if flat.std() < 1e-6:
            raise StarlingError(
                f"tune: all {len(flat)} ranked answers looked at get the same reward; refit the reward model"
            )
        self.scale = Scale(float(flat.mean()), float(flat.std()))
        batches = self._batches(groups, raw)
        for step in range(self.cfg.critic_steps):
            batch = batches[step % len(batches)]
            value_BT, _ = pad(self.policy.values(batch.features), batch.lengths)
            self.optimiser.zero_grad(set_to_none=True)
            value_loss(value_BT, batch.return_BT, batch.mask_BT).value.backward()
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def take_step(self, advance: progress.Advance) -> None:
        """One round: a step's groups, ranked or fresh, then `updates_per_step` updates, each on its own part."""
        online = self.step >= self.ranked_steps
        groups = self._sample(advance) if online else self._ranked_of(self.step)
        spent = sum(group.num_tokens for group in groups) if online else 0
        if self.cfg.token_budget and self.tokens + spent > self.cfg.token_budget:
            self.stopped_by = "token_budget"
            return
        raw = self._score(groups)
        size = -(-len(groups) // self.cfg.updates_per_step)
        parts = [self._batches(groups[at : at + size], raw[at : at + size]) for at in range(0, len(groups), size)]
        if self.cfg.whiten_advantages:
            parts = _whitened(parts)
        metrics = self._describe(groups, raw) | (_divergence(groups, parts) if online else {})
        metrics |= self._update(parts)
        self.step += 1
        self.tokens += spent
        self.policy.sync()
        if metrics.get("objective/kl", 0.0) > self.cfg.kl_limit:
            self.stopped_by = "kl_limit"
        if self.step % self.cfg.validate_every == 0:
            metrics |= self.watch.look(self.policy, self.step)
        self.recorder.log(self.step, metrics | {"online": float(online), "tokens": float(self.tokens)})
        kind = f"KL {metrics['objective/kl']:.1f}" if online else "ranked answers"
        count = 0 if online else sum(group.num_tokens for group in groups)  # fresh ones were counted as they came
        advance(count, note=f"step {self.step}/{self.num_steps} reward {metrics['reward']:+.2f} {kind}")

    def _update(self, parts: Sequence[Sequence[Batch]]) -> dict[str, float]:
        """One optimiser step for each part, at a rate that falls linearly to 0 over the whole of tuning."""
        left = 1 - self.step / self.num_steps
        for group, rate in zip(
            self.optimiser.param_groups, (self.cfg.learning_rate, self.cfg.value_learning_rate), strict=True
        ):
            group["lr"] = rate * left
        metrics: dict[str, float] = {"learning_rate": self.cfg.learning_rate * left}
        for part in parts:
            found = self._gradient(part)
            norm = torch.nn.utils.clip_grad_norm_(self.policy.top.parameters(), self.cfg.grad_clip)
            self.optimiser.step()
            found["grad_norm"] = float(norm)
            metrics |= {name: metrics.get(name, 0.0) + value / len(parts) for name, value in found.items()}
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

    def _ranked_of(self, step: int) -> list[Group]:
        start = step * self.cfg.prompts_per_step
        return self.ranked[start : min(start + self.cfg.prompts_per_step, self.cfg.ranked_prompts)]

    def _sample(self, advance: progress.Advance) -> list[Group]:
        """This step's prompts, drawn without replacement in an order that is new in every pass over them."""
        start = (self.step - self.ranked_steps) * self.cfg.prompts_per_step
        chosen = []
        for index in range(start, start + self.cfg.prompts_per_step):
            epoch, place = divmod(index, len(self.prompts))
            order = torch.randperm(len(self.prompts), generator=generator(self.seed, "tune", epoch)).tolist()
            chosen.append(self.prompts[order[place]])
        return sample_groups(
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

    def _score(self, groups: Sequence[Group]) -> list[list[float]]:
        shown = [(group.prompt, group.texts, [answer.finished for answer in group.answers]) for group in groups]
        return score_texts(self.reward_model, shown, self.cfg.microbatch_tokens)

    def _scaled(self, groups: Sequence[Group], raw: Sequence[Sequence[float]]) -> Tensor:
        """Raw rewards -> what is laid on each answer's last token, flat over the groups' answers."""
        rows = []
        for group, rewards in zip(groups, raw, strict=True):
            reward_G = (torch.tensor(rewards) - self.scale.mean) / self.scale.spread
            reward_G = reward_G.clamp(-self.cfg.reward_clip, self.cfg.reward_clip)
            cut_G = torch.tensor([not answer.finished for answer in group.answers])
            reward_G = reward_G - self.cfg.missing_eos_penalty * cut_G
            if self.cfg.reward_baseline == "leave_one_out":
                reward_G = leave_one_out(reward_G[None])[0]
            rows.append(reward_G + self.cfg.reward_shift)
        return torch.cat(rows)

    def _batches(self, groups: Sequence[Group], raw: Sequence[Sequence[float]]) -> list[Batch]:
        packs = [(group.prompt_ids, [answer.ids for answer in group.answers]) for group in groups]
        drafts = []
        for chosen in packing.microbatches([packing.size(pack) for pack in packs], self.cfg.microbatch_tokens):
            packed = packing.pack([packs[index] for index in chosen])
            lengths = [len(answer.ids) for index in chosen for answer in groups[index].answers]
            features = self.policy.features(packed)
            with torch.no_grad():
                value_BT, mask_BT = pad(self.policy.values(features), lengths)
            reward_B = self._scaled([groups[index] for index in chosen], [raw[index] for index in chosen])
            reward_BT = on_last_token(reward_B, mask_BT)
            advantage_BT, return_BT = gae(reward_BT, value_BT, mask_BT, gamma=self.cfg.gamma, lam=self.cfg.gae_lambda)
            ref_logprob_BT, _ = pad(features.ref_logprob_N, lengths)
            drafts.append(Batch(packed, features, lengths, ref_logprob_BT, advantage_BT, return_BT, mask_BT))
        return drafts

    def _gradient(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Accumulate the gradient of policy and critic over all batches; metrics are means over tokens or answers."""
        num_tokens = sum(int(batch.mask_BT.sum()) for batch in batches)
        self.optimiser.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        for batch in batches:
            logprob_BT, _ = pad(self.policy.logprobs(batch.packed, batch.features), batch.lengths)
            loss = LOSSES[self.cfg.algorithm](
                logprob_BT,
                batch.ref_logprob_BT,
                batch.advantage_BT,
                batch.mask_BT,
                lam=self.cfg.lam,
                num_tokens=num_tokens,
            )
            value_BT, _ = pad(self.policy.values(batch.features), batch.lengths)
            critic = value_loss(value_BT, batch.return_BT, batch.mask_BT, num_tokens=num_tokens)
            (loss.value + critic.value).backward()
            share = float(batch.mask_BT.sum()) / num_tokens
            found = {
                "loss/policy": float(loss.value.detach()),
                "loss/value": float(critic.value.detach()),
                "apa/target_above_zero": float(loss.metrics["target_above_zero"]),
                "value/explained_variance": share * float(critic.metrics["explained_variance"]),
            }
            totals = {name: totals.get(name, 0.0) + value for name, value in found.items()}
        return totals

    def _describe(self, groups: Sequence[Group], raw: Sequence[Sequence[float]]) -> dict[str, float]:
        answers = [answer for group in groups for answer in group.answers]
        flat = torch.tensor([reward for row in raw for reward in row])
        return {
            "reward": float((flat.mean() - self.scale.mean) / self.scale.spread),
            "reward_raw": float(flat.mean()),
            "reward_spread_within_prompt": sum(float(torch.tensor(row).std()) for row in raw) / len(raw),
            "completions/mean_length": sum(len(answer.ids) for answer in answers) / len(answers),
            "completions/finished": sum(answer.finished for answer in answers) / len(answers),
        }


def ranked_groups(policy: Policy, prompts: Sequence[Prompt], rankings: Sequence[Ranking]) -> list[Group]:
    """The ranked answers as groups of token ids, as the policy would have to say them; empty answers are left out."""
    prompt_of = {prompt.id: prompt for prompt in prompts}
    stop = stop_ids(policy.network)
    groups = []
    for ranking in rankings:
        given = [answer for answer in ranking.answers if answer.answer]
        answers = []
        for answer in given:
            ids = chat.turn_ids(policy.tokenizer, ranking.messages, answer.answer, stop, finished=answer.finished)
            answers.append(Sampled(ids=list(ids), finished=answer.finished))
        if len(given) > 1:
            groups.append(
                Group(
                    prompt=prompt_of[ranking.prompt_id],
                    prompt_ids=chat.prompt_ids(policy.tokenizer, ranking.messages),
                    answers=tuple(answers),
                    texts=tuple(answer.answer for answer in given),
                )
            )
    return groups


def _divergence(groups: Sequence[Group], parts: Sequence[Sequence[Batch]]) -> dict[str, float]:
    """KL of the policy that sampled to the reference: nats an answer by k1, nats a token by k3."""
    logprob_N = torch.tensor([value for group in groups for answer in group.answers for value in answer.logprobs])
    ref_logprob_N = torch.cat([batch.features.ref_logprob_N for part in parts for batch in part]).cpu()
    num_answers = sum(len(group.answers) for group in groups)
    return {
        "objective/kl": float(kl.k1(logprob_N, ref_logprob_N).sum()) / num_answers,
        "objective/kl_k3": float(kl.k3(logprob_N, ref_logprob_N).mean()),
    }


def _whitened(parts: Sequence[Sequence[Batch]]) -> list[list[Batch]]:
    """The same batches with advantages of mean 0 and variance 1 over all tokens that count, those of every part."""
    everything = torch.cat([batch.advantage_BT[batch.mask_BT] for part in parts for batch in part])
    mean, spread = everything.mean(), everything.std().clamp(min=1e-6)  # equal advantages: leave them at 0
    return [
        [
            batch._replace(advantage_BT=((batch.advantage_BT - mean) / spread).masked_fill(~batch.mask_BT, 0.0))
            for batch in part
        ]
        for part in parts
    ]


def on_last_token(reward_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Each answer's reward on its last counted token, 0 elsewhere: (B,), (B, T) -> (B, T)."""
    last_B = mask_BT.sum(1) - 1
    return torch.zeros(mask_BT.shape).scatter(1, last_B[:, None], reward_B[:, None])
