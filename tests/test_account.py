"""On whose account a benchmark asks."""

from pathlib import Path

import pytest

from starling.account import Account
from starling.benches import cost, filing, panel, scoring
from starling.benches.cost import Part
from starling.config import Config
from starling.errors import UsageError
from starling.ledger import Ledger
from starling.records import Reply
from starling.speakers import endpoint_of, ledger_name, open_speaker


@pytest.fixture
def account(tmp_path: Path) -> Account:
    far = {
        "name": "far", "urls": ["http://127.0.0.1:1/v1"], "model": "j", "price_in": 10.0, "price_out": 0.0,
        "concurrency": 3, "timeout_seconds": 7.0,
    }  # fmt: skip
    sample = {"generators": [{"name": "a"}, {"name": "b"}]}
    config = Config.model_validate({"sample": sample, "endpoints": [far]})
    return Account(config=config, ledger=tmp_path / "calls.sqlite", name="evaluate mt_bench")


def test_an_endpoint_of_the_run_is_known_by_its_name_with_its_limits(account: Account) -> None:
    found = endpoint_of("far", account)
    assert found and (found.model, found.concurrency) == ("j", 3)
    assert endpoint_of("far") is None and ledger_name("far") == ledger_name("far", account) == "far"
    assert panel.names(["far", "openai:k@http://h/v1"], account) == ["j", "k"]
    assert not scoring.is_reward_model("far", account)
    with pytest.raises(UsageError, match="no endpoint 'farr'; did you mean 'far'"):
        endpoint_of("farr", account)


def test_its_patience_is_its_own_and_that_of_an_address_long(account: Account, tmp_path: Path) -> None:
    with filing.filed(tmp_path / "out", "verdicts", account) as ledger:
        assert (ledger.path, ledger.stage) == (account.ledger, "evaluate mt_bench verdicts")
        own, spelt = (open_speaker(name, ledger, account=account) for name in ("far", "openai:k@http://h/v1"))
    seconds = [speaker.chat.endpoint.timeout_seconds for speaker in (own, spelt)]
    assert seconds == [7.0, 900.0]


def test_calls_of_another_benchmark_or_of_the_stage_are_not_on_file(account: Account) -> None:
    for stage, tokens in (("evaluate mt_bench verdicts", 10), ("evaluate", 500), ("evaluate other verdicts", 500)):
        with Ledger(account.ledger, stage) as ledger:
            attempt = ledger.sent(f"{tokens:064x}", name="far", model="j", request=stage, draw=0)
            ledger.replied(attempt, Reply(text="x", finished=True, prompt_tokens=5, completion_tokens=tokens))
    part = Part(purpose="verdicts", model="far", calls=4, characters=400, max_tokens=100)
    (found,) = cost.expected([part], account.ledger, account)
    assert (found["calls"], found["on_file"], found["concurrency"]) == (3, 1, 3)
    # 3 of 4 calls, 400 / 4 tokens in: 75 at 10 dollars a million; 3 x 10 out
    assert found["usd"]["expected"] == pytest.approx(75 * 10 / 1e6) and found["completion_tokens"]["expected"] == 30
