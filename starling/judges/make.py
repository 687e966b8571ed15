"""The judge that a configuration names."""

from starling import endpoints, models
from starling.client import Client, OnReply
from starling.config import Config, JudgeTable
from starling.endpoints import Endpoint
from starling.errors import UsageError
from starling.judges.llm import LlmJudge
from starling.judges.protocol import Chat, Judge
from starling.judges.rubric import RubricJudge
from starling.judges.several import Panel, members_of
from starling.ledger import Ledger
from starling.limits import Allowance
from starling.local import LocalChat
from starling.spending import allowance


def make_judge(cfg: JudgeTable, config: Config, ledger: Ledger, on_reply: OnReply | None = None) -> Judge:
    """The judge that the configuration names: the rubric, a model behind a URL or in this process, or a panel of such.

    `on_reply` is told of each call to a model behind a URL as it ends. What may be spent is the whole panel's.
    """
    named = endpoints.of_judges(config, cfg)
    allowed = allowance(config, ledger) if any(endpoint for _, endpoint in named) else None
    judges = [_one(one, endpoint, config, ledger, on_reply, allowed) for one, endpoint in named]
    return judges[0] if len(judges) == 1 else Panel(judges)


def _one(
    cfg: JudgeTable,
    endpoint: Endpoint | None,
    config: Config,
    ledger: Ledger,
    on_reply: OnReply | None,
    allowed: Allowance | None,
) -> Judge:
    if cfg.judge == "rubric":
        return RubricJudge(tie_margin=config.rank.tie_margin)
    chat: Chat
    if endpoint:
        chat = Client(endpoint, ledger, on_reply=on_reply, allowance=allowed)
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
