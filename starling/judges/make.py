"""The judge that a configuration names."""

from dataclasses import replace

from starling import models
from starling.client import Client, OnReply, parse_endpoint
from starling.config import Config, JudgeTable
from starling.errors import UsageError
from starling.judges.llm import LlmJudge
from starling.judges.protocol import Chat, Judge
from starling.judges.rubric import RubricJudge
from starling.ledger import Ledger
from starling.local import LocalChat


def make_judge(cfg: JudgeTable, config: Config, ledger: Ledger, on_reply: OnReply | None = None) -> Judge:
    """The judge that the configuration names: the rubric, a model behind a URL, or a model in this process.

    `on_reply` is told of each call to a model behind a URL as it ends.
    """
    if cfg.judge == "rubric":
        return RubricJudge(tie_margin=config.rank.tie_margin)
    chat: Chat
    if cfg.judge.startswith("openai:"):
        endpoint = replace(parse_endpoint(cfg.judge, key_env=cfg.key_env), concurrency=cfg.concurrency)
        chat = Client(endpoint, ledger, on_reply=on_reply)
    elif cfg.output == "json":
        raise UsageError(
            f'judge {cfg.judge}: output = "json" needs an endpoint; a model in this process replies in text'
        )
    else:
        chat = LocalChat(models.load_policy(cfg.judge), cfg.judge, seed=config.run.seed)
    return LlmJudge(chat, cfg, seed=config.run.seed)
