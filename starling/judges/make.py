"""The judge that a configuration names."""

from starling import endpoints, models
from starling.client import Client, OnReply
from starling.config import Config, JudgeTable
from starling.errors import UsageError
from starling.judges.llm import LlmJudge
from starling.judges.protocol import Chat, Judge
from starling.judges.rubric import RubricJudge
from starling.ledger import Ledger
from starling.local import LocalChat
from starling.spending import allowance


def make_judge(cfg: JudgeTable, config: Config, ledger: Ledger, on_reply: OnReply | None = None) -> Judge:
    """The judge that the configuration names: the rubric, a model behind a URL, or a model in this process.

    `on_reply` is told of each call to a model behind a URL as it ends.
    """
    if cfg.judge == "rubric":
        return RubricJudge(tie_margin=config.rank.tie_margin)
    chat: Chat
    if endpoint := endpoints.of_judge(config, cfg):
        chat = Client(endpoint, ledger, on_reply=on_reply, allowance=allowance(config, ledger))
    elif cfg.output == "json":
        raise UsageError(
            f'judge {cfg.judge}: output = "json" needs an endpoint; a model in this process replies in text'
        )
    else:
        chat = LocalChat(models.load_policy(cfg.judge), cfg.judge, seed=config.run.seed)
    return LlmJudge(chat, cfg, seed=config.run.seed)


def clients_of(judge: Judge) -> list[Client]:
    """The client that a judge asks through; none for a program and for a model in this process."""
    return [judge.chat] if isinstance(judge, LlmJudge) and isinstance(judge.chat, Client) else []
