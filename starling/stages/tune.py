"""tune: the policy answers, the reward model scores, APA moves the policy; the judge picks the checkpoint."""

import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from starling import models, packing, progress, selection, tables
from starling.checkpoint import Checkpoint
from starling.config import Config, TuneTable
from starling.device import generator
from starling.errors import StarlingError
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
from starling.records import Prompt
from starling.rollout import Group, sample_groups, score_texts
from starling.store import Run, replace_folder


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
        loop = Loop(config, policy, reward_model, prompts, watch, recorder)
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
        watch: selection.Watch,
        recorder: Recorder,
    ) -> None:
        self.cfg: TuneTable = config.tune
        self.seed = config.run.seed
        self.policy = policy
        self.reward_model = reward_model
        self.prompts = prompts
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
        self.recorder.rewind(self.step)
        total = self.cfg.steps * self.cfg.prompts_per_step * self.cfg.rollouts_per_prompt * self.cfg.max_new_tokens
        with progress.track("tune", min(total, self.cfg.token_budget or total), "tokens") as advance:
            advance(self.tokens)
            if state is None:
                self.warm_up(advance)
                self.recorder.log(0, self.watch.look(self.policy, 0))
            while self.step < self.cfg.steps and not self.stopped_by:
                self.take_step(advance)
                if checkpoint.due:
                    checkpoint.save(self.state_dict())
            if self.watch.last_step < self.step:  # the token budget ends tuning before a step, not after one
                self.recorder.log(self.step, self.watch.look(self.policy, self.step))

    def warm_up(self, advance: progress.Advance) -> None:
        """Scale the reward and teach the critic on answers of the initial policy, before the policy moves."""
        groups = self._sample(0, self.cfg.warm_up_prompts, advance)
        self.tokens += sum(group.num_tokens for group in groups)
        raw = self._score(groups)
        flat = torch.tensor([reward for row in raw for reward in row])
        if flat.std() < 1e-6:
            raise StarlingError(
                f"tune: all {len(flat)} answers of the initial policy get the same reward; refit the reward model"
            )
        self.scale = Scale(float(flat.mean()), float(flat.std()))
        batches = self._batches(groups, self._scaled(groups, raw))
        for step in range(self.cfg.critic_steps):
            batch = batches[step % len(batches)]
            value_BT, _ = pad(self.policy.values(batch.features), batch.lengths)
            self.optimiser.zero_grad(set_to_none=True)
            value_loss(value_BT, batch.return_BT, batch.mask_BT).value.backward()
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def take_step(self, advance: progress.Advance) -> None:
        """One round: rollouts of this step's prompts, then `updates_per_step` updates, each on its own part of them."""
        groups = self._sample(self.step + 1, self.cfg.prompts_per_step, advance)
        spent = sum(group.num_tokens for group in groups)
        if self.cfg.token_budget and self.tokens + spent > self.cfg.token_budget:
            self.stopped_by = "token_budget"
            return
        raw = self._score(groups)
        scaled = self._scaled(groups, raw)
        size = -(-len(groups) // self.cfg.updates_per_step)
        parts = [self._batches(groups[at : at + size], scaled[at : at + size]) for at in range(0, len(groups), size)]
        if self.cfg.whiten_advantages:
            parts = _whitened(parts)
        metrics = _divergence(groups, [batch for part in parts for batch in part])
        for part in parts:
            found = self._gradient(part)
            found["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.policy.top.parameters(), self.cfg.grad_clip))
            self.optimiser.step()
            metrics |= {name: metrics.get(name, 0.0) + value / len(parts) for name, value in found.items()}
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += spent
        self.policy.sync()
        if metrics["objective/kl"] > self.cfg.kl_limit:
            self.stopped_by = "kl_limit"
        metrics |= self._describe(groups, raw, scaled)
        last = self.step == self.cfg.steps or bool(self.stopped_by)
        if self.step % self.cfg.validate_every == 0 or last:
            metrics |= self.watch.look(self.policy, self.step)
        self.recorder.log(self.step, metrics)
        advance(
            0,
            note=f"step {self.step}/{self.cfg.steps} reward {metrics['reward']:+.2f} KL {metrics['objective/kl']:.1f}",
        )

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
            "rollout_tokens": self.tokens,
            "stopped_by": self.stopped_by or "steps",
            "reward_scale": self.scale._asdict(),
        }

    def _sample(self, step: int, count: int, advance: progress.Advance = lambda count: None) -> list[Group]:
        """This step's prompts, drawn without replacement in an order that is new in every pass over them."""
        start = 0 if step == 0 else (step - 1) * self.cfg.prompts_per_step
        chosen = []
        for index in range(start, start + count):
            epoch, place = divmod(index, len(self.prompts))
            order = torch.randperm(len(self.prompts), generator=generator(self.seed, "tune", epoch, step == 0)).tolist()
            chosen.append(self.prompts[order[place]])
        return sample_groups(
            Model(self.policy.network, self.policy.tokenizer),
            chosen,
            count=self.cfg.rollouts_per_prompt,
            max_new_tokens=self.cfg.max_new_tokens,
            temperature=self.cfg.temperature,
            top_p=1.0,
            seed=self.seed,
            purpose=("tune", step),
            on_tokens=advance,
        )

    def _score(self, groups: Sequence[Group]) -> list[list[float]]:
        shown = [(group.prompt, group.texts, [answer.finished for answer in group.answers]) for group in groups]
        return score_texts(self.reward_model, shown, self.cfg.microbatch_tokens)

    def _scaled(self, groups: Sequence[Group], raw: Sequence[Sequence[float]]) -> Tensor:
        """Raw rewards -> what is laid on each answer's last token: (prompts, G)."""
        reward_BG = (torch.tensor(raw) - self.scale.mean) / self.scale.spread
        reward_BG = reward_BG.clamp(-self.cfg.reward_clip, self.cfg.reward_clip)
        finished_BG = torch.tensor([[answer.finished for answer in group.answers] for group in groups])
        reward_BG = reward_BG - self.cfg.missing_eos_penalty * (~finished_BG)
        if self.cfg.reward_baseline == "leave_one_out":
            reward_BG = leave_one_out(reward_BG)
        return reward_BG + self.cfg.reward_shift

    def _batches(self, groups: Sequence[Group], scaled_BG: Tensor) -> list[Batch]:
        packs = [(group.prompt_ids, [answer.ids for answer in group.answers]) for group in groups]
        drafts = []
        for chosen in packing.microbatches([packing.size(pack) for pack in packs], self.cfg.microbatch_tokens):
            packed = packing.pack([packs[index] for index in chosen])
            lengths = [len(answer.ids) for index in chosen for answer in groups[index].answers]
            features = self.policy.features(packed)
            with torch.no_grad():
                value_BT, mask_BT = pad(self.policy.values(features), lengths)
            reward_BT = on_last_token(scaled_BG[chosen].flatten(), mask_BT)
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
            loss = apa_loss(
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

    def _describe(self, groups: Sequence[Group], raw: Sequence[Sequence[float]], scaled_BG: Tensor) -> dict[str, float]:
        answers = [answer for group in groups for answer in group.answers]
        flat = torch.tensor(raw)
        return {
            "reward": float((flat.mean() - self.scale.mean) / self.scale.spread),
            "reward_raw": float(flat.mean()),
            "reward_spread_within_prompt": float(flat.std(1).mean()) if flat.shape[1] > 1 else 0.0,
            "completions/mean_length": sum(len(answer.ids) for answer in answers) / len(answers),
            "completions/finished": sum(answer.finished for answer in answers) / len(answers),
            "tokens": float(self.tokens),
        }


def _divergence(groups: Sequence[Group], batches: Sequence[Batch]) -> dict[str, float]:
    """KL of the policy that sampled to the reference: nats an answer by k1, nats a token by k3."""
    logprob_N = torch.tensor([value for group in groups for answer in group.answers for value in answer.logprobs])
    ref_logprob_N = torch.cat([batch.features.ref_logprob_N for batch in batches]).cpu()
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
