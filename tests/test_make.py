"""The judge that a configuration names."""

from pathlib import Path

import pytest
from small_road import recipe

from starling import config
from starling.errors import UsageError
from starling.judges.make import clients_of, make_judge
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


def test_several_judges_become_a_panel_whose_endpoints_share_what_may_be_spent(
    tmp_path: Path, tiny_model: Path
) -> None:
    urls = [f"openai:{name}@http://127.0.0.1:9/v1" for name in ("a", "b")]
    cfg = config.load(recipe(tmp_path, tiny_model, rank__judges=["rubric", *urls], evaluate__judges=urls))
    with Ledger(tmp_path / "calls.sqlite") as ledger:
        judge = make_judge(cfg.rank, cfg, ledger)
        clients = clients_of(judge)
    assert judge.name == "panel of rubric, kwise:a@127.0.0.1:9, kwise:b@127.0.0.1:9"
    assert [client.name for client in clients] == ["a@127.0.0.1:9", "b@127.0.0.1:9"]
    one, other = (client._allowance for client in clients)
    assert one is other
