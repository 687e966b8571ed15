"""The judge that a configuration names."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from starling import endpoints, models, progress
from starling.client import Client, OnReply
from starling.config import Config, JudgeTable
from starling.endpoints import Endpoint
from starling.errors import ModelError, UsageError
from starling.judge_settings import NO_MODEL
from starling.judges import by_source, rubric
from starling.judges.by_reward import RewardJudge
from starling.judges.by_source import SourceJudge
from starling.judges.llm import LlmJudge, calls_of
from starling.judges.protocol import Chat, Judge
from starling.judges.rubric import RubricJudge
from starling.judges.several import Panel, members_of
from starling.ledger import Ledger
from starling.limits import Allowance
from starling.local import LocalChat
from starling.spending import allowance
from starling.store import is_run

OnAnswers = Callable[[int], None]


class Named(NamedTuple):
    """A judge that a stage names: its settings, the endpoint behind it, and whether it is a reward model."""

    cfg: JudgeTable
    endpoint: Endpoint | None
    by_reward: bool

    @property
    def is_asked(self) -> bool:
        """Whether it writes its verdicts, so that it is asked in words; what is no model and a reward model are not."""
        return self.cfg.judge not in NO_MODEL and not self.by_reward

    def looks(self, k: int) -> int:
        """Its calls, or the answers that it reads, for a prompt with `k` answers; 0 for what is no model."""
        return calls_of(self.cfg, k)[0] if self.is_asked else k * self.by_reward

    def asking(self) -> dict[str, Any] | None:
        """How it is asked; None for what is no model and a reward model."""
        return {"strategy": self.cfg.strategy, "output": self.cfg.output} if self.is_asked else None


def named_judges(config: Config, cfg: JudgeTable) -> list[Named]:
    """The judges that a stage names, one or a panel's, and what each of them is."""
    return [Named(one, endpoint, _is_by_reward(one, endpoint)) for one, endpoint in endpoints.of_judges(config, cfg)]


def make_judge(
    cfg: JudgeTable,
    config: Config,
    ledger: Ledger,
    on_reply: OnReply | None = None,
    on_answers: OnAnswers = lambda count: None,
) -> Judge:
    """The judge that the configuration names: the rubric, the ranks that came with answers, a model behind a URL or in
    this process, or a panel.

    A model in this process that has a head for rewards ranks by them, any other is asked. `on_reply` is told of each
    call to a model behind a URL as it ends, `on_answers` of answers that a reward model has read. What may be spent is
    the whole panel's.
    """
    named = named_judges(config, cfg)
    allowed = allowance(config, ledger) if any(one.endpoint for one in named) else None
    judges = [
        RewardJudge(one.cfg.judge, on_answers) if one.by_reward else _one(one, config, ledger, on_reply, allowed)
        for one in named
    ]
    _refuse_twice(judges)
    return judges[0] if len(judges) == 1 else Panel(judges)


def _one(named: Named, config: Config, ledger: Ledger, on_reply: OnReply | None, allowed: Allowance | None) -> Judge:
    cfg = named.cfg
    if cfg.judge == rubric.NAME:
        return RubricJudge(tie_margin=config.rank.tie_margin)
    if cfg.judge == by_source.NAME:
        return SourceJudge()
    chat: Chat
    if named.endpoint:
        chat = Client(named.endpoint, ledger, on_reply=on_reply, allowance=allowed)
    elif cfg.output == "json":
        raise UsageError(
            f'judge {cfg.judge}: output = "json" needs an endpoint; a model in this process replies in text'
        )
    else:
        chat = LocalChat(models.load_policy(cfg.judge), cfg.judge, seed=config.run.seed)
    return LlmJudge(chat, cfg, seed=config.run.seed)


def clients_of(judge: Judge) -> list[Client]:
    """The clients that a judge asks through; none for a program and for a model in this process."""
    return [one.chat for one in members_of(judge) if isinstance(one, LlmJudge) and isinstance(one.chat, Client)]


def reward_judges(judge: Judge) -> list[RewardJudge]:
    """The reward models among a judge's members, or it itself."""
    return [one for one in members_of(judge) if isinstance(one, RewardJudge)]


def refuse_unfit(config: Config, root: Path, stages: Sequence[str]) -> None:
    """Stop before the first stage where a later one would find no judge in the place that it names.

    A judge that the run itself makes, in `root`, is not there yet. A model that writes is told, since who meant a
    reward model would not notice.
    """
    judging = endpoints.judging(config)
    if config.chooser is config.rank:
        del judging["tune"]  # what `rank` has told
    for stage, cfg in judging.items():
        for one, endpoint in endpoints.of_judges(config, cfg) if stage in stages else ():
            if endpoint or one.judge in NO_MODEL or Path(one.judge).resolve().is_relative_to(root.resolve()):
                continue
            try:
                if _is_by_reward(one, endpoint):
                    models.require_one_label(one.judge, models.load_config(one.judge))
                    continue
            except ModelError as error:
                raise ModelError(f"{stage}: judge {error}") from error
            progress.say(f"{stage}: judge {one.judge} has no head for rewards, so it is asked to write, {one.strategy}")


def _is_by_reward(cfg: JudgeTable, endpoint: Endpoint | None) -> bool:
    if endpoint or cfg.judge in NO_MODEL:
        return False
    if is_run(cfg.judge):
        raise UsageError(
            f"judge {cfg.judge} is a run; name its reward model, {Path(cfg.judge) / 'fit' / 'model'}, or its policy, "
            f"{Path(cfg.judge) / 'tune' / 'policy'}"
        )
    return models.is_reward_model(cfg.judge)


def _refuse_twice(judges: Sequence[Judge]) -> None:
    """Stop where two of a panel are one reward model, by its weights."""
    seen: dict[str, str] = {}
    for one in judges:
        if isinstance(one, RewardJudge):
            model, weights = str(one.identity["name"]), str(one.identity["weights_sha256"])
            if before := seen.get(weights):
                raise UsageError(f"judge {model} is {before} once more, the same weights; name it once")
            seen[weights] = model
