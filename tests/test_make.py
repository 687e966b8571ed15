"""The judge that a configuration names."""

from pathlib import Path

import pytest
from small_road import recipe

from starling import config
from starling.errors import UsageError
from starling.judges.make import make_judge
from starling.ledger import Ledger


@pytest.mark.parametrize("strategy", ["kwise", "direct", "pairwise", "pointwise"])
def test_a_judge_bears_its_strategy_and_endpoint_in_its_name(tmp_path: Path, tiny_model: Path, strategy: str) -> None:
    settings = {"rank__judge": "openai:m@http://127.0.0.1:9/v1", "rank__strategy": strategy}
    cfg = config.load(recipe(tmp_path, tiny_model, **settings))
    with Ledger(tmp_path / "calls.sqlite") as ledger:
        assert make_judge(cfg.rank, cfg, ledger).name == f"{strategy}:m@127.0.0.1:9"


def test_json_is_refused_where_no_endpoint_can_hold_a_reply_to_a_schema(tmp_path: Path, tiny_model: Path) -> None:
    cfg = config.load(recipe(tmp_path, tiny_model, rank__judge=str(tiny_model), rank__output="json"))
    with Ledger(tmp_path / "calls.sqlite") as ledger, pytest.raises(UsageError, match="needs an endpoint"):
        make_judge(cfg.rank, cfg, ledger)
