"""tune: the policy moves towards what is rewarded, or ranked first; the judge picks the checkpoint."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from starling import (
    data_files,
    device,
    findings,
    models,
    own_reward,
    packing,
    progress,
    rewards,
    rollout,
    selection,
    tables,
    trackers,
)
from starling.checkpoint import Checkpoint
from starling.curriculum import USED, Curriculum
from starling.distributed import vllm
from starling.judges.make import make_judge
from starling.ledger import Ledger
from starling.loop import Loop
from starling.metrics import Recorder
from starling.models import Model
from starling.policy import Policy, initial_policy
from starling.records import Prompt
from starling.rewards import Rewards
from starling.store import Run
from starling.tune_settings import TuneTable, is_online, unread
from starling.writing import fill_folder


def run(run: Run) -> dict[str, Any]:
    """Write the chosen policy to `tune/policy`."""
    config, cfg = run.config, run.config.tune
    _tell_unread(cfg)
    findings.refuse([findings.of_memory(config)])
    prompts, validation = tables.prompts_of(run, "train"), tables.prompts_of(run, "validation")
    policy = initial_policy(config)
    packing.tell_dropout(policy.network.config, "tune")
    rollout.tell_left_aside(policy.network, "tune")
    base = models.resolve(config.run.model)
    server = None
    if cfg.sampler and is_online(cfg.algorithm):
        server = vllm.Server(cfg.sampler, run.folder("tune") / "sampler", base)
    mirrors = trackers.opened(run.root, config.run.trackers, "tune")
    with mirrors as shown, Ledger(run.ledger_path, "tune") as ledger, server or nullcontext():
        recorder = Recorder(run.metrics_path, "tune", shown, run.folder("tune") / "samples.md")
        judge = make_judge(config.chooser, config, ledger)
        own_reward.refuse_choosing(run, judge)
        own_reward.tell_choosing(config)
        tests = tables.prompts_of(run, "test")
        greedy = rollout.own_settings(policy.network)["temperature"] == 0
        watch = selection.Watch(config, validation, judge, len(tests), greedy=greedy)
        rankings = tables.rankings_of(run, prompts)
        wanted = cfg.rewards if is_online(cfg.algorithm) else ()
        own = _reward_model(run) if any(one.name == "model" for one in wanted) else None
        reward = rewards.make(wanted, own, judge, cfg.microbatch_tokens)
        _tell_same_judge(cfg, reward)
        loop = Loop(config, policy, reward, prompts, rankings, watch, recorder, server)
        _refuse_unfit(run, policy, own, [*prompts, *validation, *tests], loop.curriculum)
        data_files.write_jsonl(run.folder("tune") / USED, loop.curriculum.used())
        progress.say(f"tune: {loop.curriculum.plan()}")
        if server is not None:
            server.try_out(policy)
        loop.train(Checkpoint(run.folder("tune") / "checkpoint.pt", cfg.checkpoint_seconds))
    if watch.best_step == 0 and loop.step > 0:
        progress.say(
            "tune: no look was liked better than the base and lost no more than it may, so the base itself is kept"
        )
    policy.load(watch.best_weights)
    policy.sync(cfg.weight_share)
    fill_folder(run.policy_path, policy.save)
    if policy.has_adapters:
        name, share = models.lasting_name(config.run.model), cfg.weight_share
        fill_folder(run.folder("tune") / "adapter", lambda partial: policy.save_adapter(partial, name, share))
    return loop.facts() | watch.facts()


def _refuse_unfit(
    run: Run, policy: Policy, reward_model: Model | None, prompts: Sequence[Prompt], curriculum: Curriculum
) -> None:
    """What of `starling doctor` costs next to nothing, mostly on the first part of the ranked answers."""
    config = run.config
    findings.refuse([findings.of_window(policy, prompts, config)])
    if reward_model is not None:
        findings.warn(findings.of_held_out(run.facts("fit").get("held_out")))
        every = [group for part in curriculum.parts[: curriculum.num_rewarded_parts] for group in part]
        findings.refuse([findings.of_reward_window(reward_model, every, prompts, config)])
    ranked = curriculum.parts[0][:2]
    shown = [(group.prompt, text) for group in ranked for text in group.texts]
    findings.refuse([findings.of_template(policy, shown), findings.of_kl(policy, ranked)])


def _reward_model(run: Run) -> Model:
    return models.load_reward_model(str(run.reward_model_path), device.product_dtype())


def _tell_same_judge(cfg: TuneTable, reward: Rewards) -> None:
    """Say that what the judge rewards is not held against what it likes."""
    if cfg.parting_looks and len(cfg.rewards) > 1 and is_online(cfg.algorithm) and not reward.differ_from_judge:
        progress.say(
            "tune: the judge is one of tune.rewards, so looks show no reward and tune.parting_looks never stops tuning"
        )


def _tell_unread(cfg: TuneTable) -> None:
    """Say which settings were chosen in vain."""
    if names := unread(cfg):
        listed = ", ".join(f"tune.{name}" for name in names)
        which = f" with anchor = {cfg.anchor!r}" if cfg.algorithm == "apa" else ""
        progress.say(f"{listed} {'is' if len(names) == 1 else 'are'} not read by {cfg.algorithm}{which}")
