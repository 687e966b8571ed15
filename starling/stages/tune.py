"""tune: the policy moves towards what is rewarded, or ranked first; the judge picks the checkpoint."""

import shutil
from typing import Any

import torch

from starling import models, progress, rewards, selection, tables
from starling.adapters import Lora
from starling.checkpoint import Checkpoint
from starling.device import seed_for
from starling.distributed import vllm
from starling.judges.make import make_judge
from starling.ledger import Ledger
from starling.loop import Loop
from starling.metrics import Recorder
from starling.models import Model
from starling.policy import Policy
from starling.store import Run, replace_folder
from starling.tune_settings import TuneTable, is_online, unread


def run(run: Run) -> dict[str, Any]:
    """Write the chosen policy to `tune/policy`."""
    config, cfg = run.config, run.config.tune
    _tell_unread(cfg)
    prompts = tables.prompts_of(run, "train")
    lora = Lora(cfg.lora_rank, cfg.lora_alpha, seed_for(config.run.seed, "tune", "lora")) if cfg.lora_rank else None
    policy = Policy(models.load_policy(config.run.model), cfg.layers, cfg.temperature, lora)
    base = models.resolve(config.run.model)
    server = None
    if cfg.sampler and is_online(cfg.algorithm):
        server = vllm.Server(cfg.sampler.removeprefix("vllm@"), run.folder("tune") / "sampler", base)
    recorder = Recorder(run.metrics_path, "tune")
    with Ledger(run.ledger_path, "tune") as ledger:
        judge = make_judge(config.rank, config, ledger)
        watch = selection.Watch(config, tables.prompts_of(run, "validation"), judge)
        rankings = tables.rankings_of(run, prompts)
        wanted = cfg.rewards if is_online(cfg.algorithm) else ()
        reward = rewards.make(wanted, lambda: _reward_model(run), judge, cfg.microbatch_tokens)
        loop = Loop(config, policy, reward, prompts, rankings, watch, recorder, server)
        loop.train(Checkpoint(run.folder("tune") / "checkpoint.pt", cfg.checkpoint_seconds))
    policy.load(watch.best_weights)
    policy.sync(cfg.weight_share)
    partial = run.folder("tune") / "policy.partial"
    shutil.rmtree(partial, ignore_errors=True)
    models.save(Model(policy.network, policy.tokenizer), partial)
    replace_folder(partial, run.folder("tune") / "policy")
    if lora is not None:
        policy.save_adapter(partial, base, cfg.weight_share)
        replace_folder(partial, run.folder("tune") / "adapter")
    if server is not None:
        server.leave()
    Checkpoint(run.folder("tune") / "checkpoint.pt", 0).remove()
    return loop.facts() | watch.facts()


def _reward_model(run: Run) -> Model:
    return models.load_reward_model(str(run.folder("fit") / "model"), torch.bfloat16)


def _tell_unread(cfg: TuneTable) -> None:
    """Say which settings were chosen in vain."""
    if names := unread(cfg):
        listed = ", ".join(f"tune.{name}" for name in names)
        which = f" with anchor = {cfg.anchor!r}" if cfg.algorithm == "apa" else ""
        progress.console.print(f"{listed} {'is' if len(names) == 1 else 'are'} not read by {cfg.algorithm}{which}")
