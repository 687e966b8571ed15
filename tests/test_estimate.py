"""--estimate: what endpoints will be asked, before anything is spent."""

import json
from pathlib import Path

import pytest
from servers import Server, ranking_judge, replies_with
from small_road import prompt_rows, recipe, write_lines

from starling import cli, config, estimate, estimate_text
from starling.judges.asking import template_text

ENDPOINT = """
[[endpoints]]
name = "{name}"
urls = ["{url}"]
model = "m"
concurrency = 2
requests_per_minute = {rate}
"""
PRICES = "price_in = 1.0\nprice_out = 10.0\n"
FAR = '[[sample.generators]]\nname = "far"\nmodel = "far"\n'


def small(
    folder: Path, model: Path, url: str = "http://127.0.0.1:9/v1", *, rate: float = 0, prices: str = PRICES, **more
):
    """Fifteen prompts, three generators in process, one and the judge behind URLs."""
    path = recipe(folder, model, rank__judge="judge", rank__probe_prompts=0, rank__max_new_tokens=200, **more)
    names = "".join(ENDPOINT.format(name=name, url=url, rate=rate) + prices for name in ("far", "judge"))
    path.write_text(path.read_text() + FAR + names)
    return path


def test_the_sums_are_those_worked_out_by_hand(tiny_model: Path, tmp_path: Path) -> None:
    loaded = config.load(small(tmp_path, tiny_model, rate=3))
    found = estimate.estimate(loaded, tmp_path / "no-run", ["sample", "rank"])
    sample, rank = found["stages"]
    # sample: 15 calls of 400 characters (at most 800, at 2 a token), out half of 16 and at most 16 tokens.
    assert sample["calls"] == {"expected": 15, "at_most": 15}
    assert sample["prompt_tokens"] == {"expected": 15 * 100, "at_most": 15 * 400}
    assert sample["completion_tokens"] == {"expected": 120, "at_most": 240}
    assert sample["usd"]["expected"] == pytest.approx((1500 * 1 + 120 * 10) / 1e6)
    assert sample["seconds"] == 60 * 15 / 3  # the requests a minute bind
    # rank: 4 answers of 16 tokens are 256 characters, half of them 128; 6 pairs: 40 + 6 * 6 tokens out;
    # the template, 8 characters for each pair, 60 around each answer and the conversation.
    frame = len(template_text("kwise", "text")) + 6 * 8 + 5 * 60
    assert rank["calls"] == {"expected": 15, "at_most": 30}
    assert rank["prompt_tokens"]["expected"] == round(15 * (frame + 400 + 128) / 4)
    assert rank["prompt_tokens"]["at_most"] == 30 * (frame + 800 + 256) / 2
    assert rank["completion_tokens"] == {"expected": 15 * 76, "at_most": 30 * 200}
    assert found["usd"]["at_most"] == pytest.approx(sample["usd"]["at_most"] + rank["usd"]["at_most"])
    assert found["unknown"] == []


def test_what_a_generator_is_shown_before_the_prompt_is_counted(tiny_model: Path, tmp_path: Path) -> None:
    path = small(tmp_path, tiny_model)
    told = FAR + 'system = "be brief"\nexamples = [["one?", "1"], ["two?", "22"]]\n'  # 8 + 5 + 6 characters
    path.write_text(path.read_text().replace(FAR, told))
    (sample,) = estimate.estimate(config.load(path), tmp_path / "no-run", ["sample"])["stages"]
    assert sample["prompt_tokens"]["expected"] == round(15 * (400 + 19) / 4)


def test_without_limits_time_is_calls_over_connections(tiny_model: Path, tmp_path: Path) -> None:
    loaded = config.load(small(tmp_path, tiny_model))
    (rank,) = estimate.estimate(loaded, tmp_path / "no-run", ["rank"])["stages"]
    assert rank["seconds"] == pytest.approx(15 * (1 + 76 / 50) / 2, abs=0.1)


def test_an_unknown_price_is_said_and_not_counted_as_nothing(tiny_model: Path, tmp_path: Path) -> None:
    loaded = config.load(small(tmp_path, tiny_model, prices=""))
    found = estimate.estimate(loaded, tmp_path / "no-run")
    assert [part["usd"] for part in found["stages"]] == [None] * len(found["stages"])
    assert found["unknown"] == [
        f"the price of {name}: give price_in and price_out in [[endpoints]]" for name in ("far", "judge")
    ]
    assert any("and what is unknown" in line for line in estimate_text.lines(found))


def test_a_road_without_endpoints_costs_nothing(tiny_model: Path, tmp_path: Path) -> None:
    found = estimate.estimate(config.load(recipe(tmp_path, tiny_model)), tmp_path / "no-run")
    assert found["stages"] == []
    assert estimate_text.lines(found) == ["cost: no stage that is left asks an endpoint; nothing is spent"]


def test_a_judge_in_this_process_is_said_to_take_no_calls(tiny_model: Path, tmp_path: Path) -> None:
    cfg = config.load(recipe(tmp_path, tiny_model, rank__judges=["rubric", "far/rm"], evaluate__judge="far/rm"))
    found = estimate.estimate(cfg, tmp_path / "no-run")
    assert found["stages"] == []
    assert found["free"] == [{"stage": stage, "judge": "far/rm"} for stage in ("rank", "tune", "evaluate")]
    assert estimate_text.lines(found)[0] == "rank: judge far/rm runs in this process: 0 calls"


def test_what_the_run_has_on_file_is_not_counted_and_nothing_is_written(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    judge = ranking_judge(len)
    with Server(always=replies_with(lambda text: judge(text) if "<<answer A" in text else f"so {text}")) as server:
        path = small(tmp_path, tiny_model, server.url)
        assert cli.main(["run", str(path), "--run", str(root), "--until", "prompts"]) == 0
        capsys.readouterr()
        assert cli.main(["sample", str(path), "--run", str(root), "--estimate", "--json"]) == 0
        (before,) = json.loads(capsys.readouterr().out)["stages"]
        longest = max(len(f"Write about the {topic} in lower case.") for topic in ("rain", "plain", "river"))
        assert before["prompt_tokens"]["at_most"] == 15 * round((longest) / 2)  # real prompts now, not assumed ones
        assert server.requests == []

        assert cli.main(["run", str(path), "--run", str(root), "--until", "rank"]) == 0
        printed = capsys.readouterr().out
        assert "sample: far: 15 calls, 0 replies from the ledger, 105 tokens in, 45 out, $0.0006" in printed
        assert "rank: judge: 15 calls, 0 replies from the ledger, 105 tokens in, 45 out, $0.0006" in printed
        stamps = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
        assert cli.main(["run", "--run", str(root), "--until", "rank", "--estimate", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["stages"] == []
        assert found["spent_usd"] == pytest.approx(2 * (105 * 1 + 45 * 10) / 1e6)
        other = ["run", str(path), "--run", str(tmp_path / "other"), "--from", str(root), "--estimate", "--json"]
        assert cli.main([*other, "--until", "rank"]) == 0  # all of it would be taken over
        found = json.loads(capsys.readouterr().out)
        assert (found["stages"], found["spent_usd"]) == ([], 0)
        assert cli.main([*other, "--until", "rank", "--set", "sample.max_new_tokens=9"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [(part["stage"], part["calls"]["expected"]) for part in found["stages"]] == [
            ("sample", 15),
            ("rank", 15),
        ]
        assert cli.main([*other, "--until", "rank", "--set", "sample.train_prompts=6"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [(part["stage"], part["calls"]["expected"]) for part in found["stages"]] == [("sample", 9), ("rank", 9)]
        assert not (tmp_path / "other").exists()
        # A stage that stopped half way: its replies are on file.
        manifest = json.loads((root / "manifest.json").read_text())
        manifest["stages"]["rank"]["state"] = "running"
        (root / "manifest.json").write_text(json.dumps(manifest))
        assert cli.main(["rank", "--run", str(root), "--estimate"]) == 0
        assert "rank: judge: 0 (at most 15) calls (15 more are on file)" in capsys.readouterr().out
    del stamps[root / "manifest.json"]
    assert {file: file.stat().st_mtime_ns for file in stamps if file.is_file()} == {
        file: stamp for file, stamp in stamps.items() if file.is_file()
    }


@pytest.mark.parametrize(
    ("settings", "calls", "answers_shown"),
    [
        # four answers: 6 pairs in both orders; 4 marks; adaptive: 2 rankings, or 5 where they disagree
        ({"strategy": "pairwise"}, (12, 24), 2),
        ({"strategy": "pointwise", "attempts": 1}, (4, 4), 1),
        ({"strategy": "direct", "adaptive": 0.5, "max_repeats": 5}, (2, 10), 4),
    ],
    ids=["pairwise", "pointwise", "adaptive"],
)
def test_every_strategy_and_repeat_is_counted(
    tiny_model: Path, tmp_path: Path, settings: dict, calls: tuple[int, int], answers_shown: int
) -> None:
    changes = {f"rank__{key}": value for key, value in settings.items()}
    loaded = config.load(small(tmp_path, tiny_model, **changes))
    (rank,) = estimate.estimate(loaded, tmp_path / "no-run", ["rank"])["stages"]
    assert rank["calls"] == {"expected": 15 * calls[0], "at_most": 15 * calls[1]}
    # the template, 400 characters of prompt, half of 16 tokens of 4 characters an answer, 60 around each; 40 tokens out
    text = len(template_text(settings["strategy"], "text")) + 400 + 60 + (32 + 60) * answers_shown
    assert rank["prompt_tokens"]["expected"] == round(15 * calls[0] * text / 4)
    assert rank["completion_tokens"]["expected"] == 15 * calls[0] * 40


def test_answers_that_prompts_bring_are_ranked_and_not_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": row["prompt"], "split": row["split"], "answers": [{"answer": f"{n}", "model": "m"} for n in "ab"]}
        for row in prompt_rows()
    ]
    source = write_lines(tmp_path / "told.jsonl", rows)
    changes = {"sample__answers": 5, "sample__order": "source_first", "rank__strategy": "pointwise"}
    path = small(tmp_path, tiny_model, **changes)
    path.write_text(path.read_text().replace(str(tmp_path / "prompts.jsonl"), str(source)))
    root = tmp_path / "run"
    before = estimate.estimate(config.load(path), root, ["sample", "rank"])["stages"]
    # unread, prompts bring nothing as far as is known: the four generators answer, the fourth is `far`
    assert [part["calls"]["expected"] for part in before] == [15, 15 * 4]
    assert cli.main(["run", str(path), "--run", str(root), "--until", "prompts"]) == 0
    after = estimate.estimate(config.load(path), root, ["sample", "rank"])["stages"]
    # two come with each prompt, so that the first three generators fill up to five
    assert [part["calls"]["expected"] for part in after] == [0, 15 * 5]


def test_the_ranks_that_came_with_answers_cost_nothing_and_looks_ask_evaluates_judge(
    tiny_model: Path, tmp_path: Path
) -> None:
    path = small(tmp_path, tiny_model, evaluate__judge="judge")
    loaded = config.load(path, ["sample.generators=[]", "rank.judge=source"])
    found = estimate.estimate(loaded, tmp_path / "no-run")
    assert [(part["stage"], part["endpoint"]) for part in found["stages"]] == [("tune", "judge"), ("evaluate", "judge")]
    assert found["free"] == []


def test_a_judge_that_rewards_is_asked_for_it(tiny_model: Path, tmp_path: Path) -> None:
    calls = []
    for rewards in ("model", "judge"):
        path = small(tmp_path, tiny_model, tune__algorithm="rloo", tune__rewards=rewards)
        (tune,) = estimate.estimate(config.load(path), tmp_path / "no-run", ["tune"])["stages"]
        calls.append(tune["calls"]["expected"])
    # 3 steps are looked at once each, 3 prompts a look; rewards: 3 steps of 4 prompts, while ranked ones are known
    assert calls == [9, 9 + 12]
