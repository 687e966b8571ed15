"""The judge that a configuration names."""

import shutil
from pathlib import Path

import known_rewards
import pytest
from small_road import recipe
from transformers import AutoModelForSequenceClassification

from starling import config
from starling.errors import ModelError, UsageError
from starling.judges import make
from starling.judges.make import clients_of, make_judge, reward_judges
from starling.judges.several import members_named
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


# a reward model as judge


@pytest.fixture(scope="module")
def rewarding(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return known_rewards.save(tiny_model, tmp_path_factory.mktemp("rewarding") / "rm")


def test_a_folder_with_a_head_for_rewards_is_a_reward_model_whatever_is_said_of_asking(
    tmp_path: Path, tiny_model: Path, rewarding: str
) -> None:
    asked = {"rank__strategy": "pairwise", "rank__output": "json", "rank__repeats": 2, "rank__adaptive": 0.5}
    cfg = config.load(recipe(tmp_path, tiny_model, rank__judge=rewarding, rank__position_corrected=True, **asked))
    (named,) = make.named_judges(cfg, cfg.rank)
    assert (named.by_reward, named.is_asked, named.looks(7), named.asking()) == (True, False, 7, None)
    with Ledger(tmp_path / "calls.sqlite") as ledger:
        judge = make_judge(cfg.rank, cfg, ledger)
    assert judge.name.startswith(f"reward:{rewarding}#") and reward_judges(judge) == [judge]


def test_a_panel_may_hold_a_program_a_reward_model_and_a_language_model(
    tmp_path: Path, tiny_model: Path, rewarding: str
) -> None:
    url = "openai:m@http://127.0.0.1:9/v1"
    cfg = config.load(recipe(tmp_path, tiny_model, rank__judges=["rubric", rewarding, url]))
    assert [one.looks(4) for one in make.named_judges(cfg, cfg.rank)] == [0, 4, 1]
    with Ledger(tmp_path / "calls.sqlite") as ledger:
        judge = make_judge(cfg.rank, cfg, ledger)
    assert members_named(judge.name)[::2] == ["rubric", "kwise:m@127.0.0.1:9"]
    assert [one.name for one in reward_judges(judge)] == members_named(judge.name)[1:2]


def test_the_same_weights_are_one_judge_wherever_they_lie_and_however_they_would_be_asked(
    tmp_path: Path, tiny_model: Path, rewarding: str
) -> None:
    copy = str(shutil.copytree(rewarding, tmp_path / "copy"))
    twice = [{"judge": rewarding, "strategy": "kwise"}, {"judge": rewarding, "strategy": "direct"}]
    for number, judges in enumerate(([rewarding, copy], twice)):
        path = recipe(tmp_path / str(number), tiny_model)
        path.write_text(path.read_text().replace("[rank]", f"[rank]\njudges = {_toml(judges)}"))
        cfg = config.load(path)
        with Ledger(tmp_path / "calls.sqlite") as ledger, pytest.raises(UsageError, match="the same weights"):
            make_judge(cfg.rank, cfg, ledger)


def _toml(judges: list) -> str:
    tables = (f'"{one}"' if isinstance(one, str) else "{" + _pairs(one) + "}" for one in judges)
    return f"[{', '.join(tables)}]"


def _pairs(table: dict[str, str]) -> str:
    return ", ".join(f'{key} = "{value}"' for key, value in table.items())


def unfit(folder: Path, tiny_model: Path, judge: object, table: str = "rank") -> None:
    cfg = config.load(recipe(folder / "recipe", tiny_model, **{f"{table}__judge": str(judge)}))
    make.refuse_unfit(cfg, folder / "run", ["sample", "rank", "evaluate"])


def test_before_anything_begins_a_judge_that_is_none_is_refused_with_what_it_lacks(
    tmp_path: Path, tiny_model: Path, rewarding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unfit(tmp_path, tiny_model, rewarding)
    unfit(tmp_path, tiny_model, tmp_path / "run" / "fit" / "model", "evaluate")  # the run is still to make it
    assert capsys.readouterr().out == ""
    with pytest.raises(ModelError, match=r"^rank: judge .*/absent: there is no such folder"):
        unfit(tmp_path, tiny_model, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"^evaluate: judge .*/empty: the folder holds no config.json"):
        unfit(tmp_path, tiny_model, tmp_path / "empty", "evaluate")
    labels = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    labels.save_pretrained(tmp_path / "three")
    with pytest.raises(ModelError, match=r"^rank: judge .*/three: a reward model has one label .* this has 3$"):
        unfit(tmp_path, tiny_model, tmp_path / "three")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match=r"old is a run; name its reward model, .*/old/fit/model, or its policy"):
        unfit(tmp_path, tiny_model, tmp_path / "old")


def test_where_the_source_ranks_evaluates_judge_is_looked_at_before_tune(tmp_path: Path, tiny_model: Path) -> None:
    path = recipe(tmp_path, tiny_model, evaluate__judge=str(tmp_path / "absent"))
    by_source = config.load(path, ["sample.generators=[]", "rank.judge=source"])
    with pytest.raises(ModelError, match=r"^tune: judge .*/absent: there is no such folder"):
        make.refuse_unfit(by_source, tmp_path / "run", ["rank", "fit", "tune"])
    make.refuse_unfit(config.load(path), tmp_path / "run", ["rank", "fit", "tune"])  # the rubric looks


def test_a_model_that_writes_is_said_to_lack_a_head_and_to_be_asked(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfit(tmp_path, tiny_model, tiny_model)
    said = " ".join(capsys.readouterr().out.split())
    assert said == f"rank: judge {tiny_model} has no head for rewards, so it is asked to write, kwise"
