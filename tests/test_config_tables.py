"""Panels and benchmarks in a configuration: by name, or as tables of their own."""

from pathlib import Path

import pytest
from recipe_files import toml

from starling import config
from starling.errors import UsageError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rank.judges=[]"], r"\[rank\] judges = \[\]: .*two or more, not 0; name a single one in judge"),
        (['evaluate.judges=["rubric"]'], r"\[evaluate\] judges: .*two or more, not 1; name a single one in judge"),
        (['rank.judges=["m", "rubric", "m"]'], r"\[rank\] judges: .*two of them are kwise:m; name each once"),
        (['rank.judges=["rubric", {judge="rubric", strategy="direct"}]'], r"two of them are rubric"),
        (["rank.judge=m", 'rank.judges=["rubric", "n"]'], r"judge = 'm' stands beside them; .* say 'panel'"),
        (["rank.judge=panel"], r"judges = None: .*judge = 'panel' stands for several; name them here"),
        (['rank.judges=["rubric", "panel"]'], r"each of them needs a judge, and none is a panel itself"),
        (['rank.judges=["rubric", "source"]'], r"source passes on ranks and sits on no panel; name it alone"),
        (['evaluate.judges=["rubric", "source"]'], r"source passes on ranks and sits on no panel; name it alone"),
        (['rank.judges=["rubric", {strategy="direct"}]'], r"two of them are rubric|each of them needs a judge"),
        (['rank.judges=["a", {judge="b", deadline_seconds=3}]'], r"deadline_seconds is the stage's"),
        (["rank.key_env=KEY", 'rank.judges=["a", "b"]'], r"key_env is each judge's own"),
        (['rank.judges=["a", {judge="b", strtegy="kwise"}]'], r"\[rank.judges.1\] has no key 'strtegy'; .*'strategy'"),
        (['rank.judges=["a", {judge="b", strategy="kwis"}]'], r"\[rank.judges.1\] strategy = 'kwis': .*'kwise'"),
        (["rank.judges=3"], r"\[rank\] judges = 3: "),
    ],
)
def test_a_panel_that_is_none_fails_in_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as failed:
        config.load(toml(tmp_path), overrides)
    assert "\n" not in str(failed.value) and len(str(failed.value)) < 350


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluate.benchmarks=['ifevl']"], r"\[evaluate.benchmarks.0\] name = 'ifevl': .*did you mean 'ifeval'"),
        (["evaluate.benchmarks=[{name='ifeval', dta='x'}]"], r"\[evaluate.benchmarks.0\] has no key 'dta'; .*'data'"),
        (["evaluate.benchmarks=[{data='x'}]"], r"\[evaluate.benchmarks.0\] lacks 'name'"),
        (
            ["evaluate.benchmarks=['ifeval', 'ifeval']"],
            r"two of them go into the folder 'ifeval'; give each a `folder`",
        ),
        (["evaluate.benchmarks=[{name='ifeval', folder='../x'}]"], r"\[evaluate.benchmarks.0\] folder = '../x'"),
        (["evaluate.benchmarks=7"], r"\[evaluate\] benchmarks = 7: "),
    ],
)
def test_a_benchmark_that_is_none_fails_in_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as failed:
        config.load(toml(tmp_path), overrides)
    assert "\n" not in str(failed.value) and len(str(failed.value)) < 350


def test_a_benchmark_is_its_name_or_a_table_with_a_judge_or_several(tmp_path: Path) -> None:
    text = '[[evaluate.benchmarks]]\nname = "safety"\n[[evaluate.benchmarks]]\nname = "mt_bench"\njudge = "j"\n'
    loaded = config.load(toml(tmp_path, text)).evaluate.benchmarks
    assert [(one.name, one.judge) for one in loaded] == [("safety", ()), ("mt_bench", ("j",))]
    short = config.load(toml(tmp_path), ["evaluate.benchmarks=['safety', {name='mt_bench', judge=['j', 'k']}]"])
    assert short.evaluate.benchmarks[0] == loaded[0] and short.evaluate.benchmarks[1].judge == ("j", "k")
    path = tmp_path / "resolved.toml"
    path.write_text(config.dump(short))
    assert config.load(path) == short
    assert config.load(toml(tmp_path)).evaluate.benchmarks == ()


def test_a_panels_judge_has_the_stages_values_for_what_it_does_not_name(tmp_path: Path) -> None:
    text = '[rank]\nrepeats = 2\nconcurrency = 3\n[[rank.judges]]\njudge = "rubric"\n[[rank.judges]]\njudge = "m"\n'
    loaded = config.load(toml(tmp_path, text + 'strategy = "direct"\nrepeats = 3\nkey_env = "KEY"\n'))
    assert loaded.rank.judge == "panel"
    first, second = loaded.rank.judges or ()
    assert (first.repeats, first.strategy, first.concurrency, first.key_env) == (2, "kwise", 3, "")
    assert (second.repeats, second.strategy, second.concurrency, second.key_env) == (3, "direct", 3, "KEY")


def test_the_resolved_panel_loads_again_and_takes_a_new_value_of_the_stage(tmp_path: Path) -> None:
    loaded = config.load(toml(tmp_path), ['rank.judges=["rubric", {judge="m", attempts=5}]', "rank.concurrency=3"])
    path = tmp_path / "resolved.toml"
    path.write_text(config.dump(loaded))
    assert config.load(path).settled() == loaded.settled()
    later = config.load(path, ["rank.concurrency=7", "rank.deadline_seconds=60"])
    assert [one.concurrency for one in later.rank.judges or ()] == [7, 7]
    assert later.settled() == loaded.settled()  # a run that is under way may go on with it
    other = config.load(path, ["rank.attempts=9"])
    assert [one.attempts for one in other.rank.judges or ()] == [9, 5]
    assert other.settled() != loaded.settled()


def test_a_line_of_a_panels_judge_is_named(tmp_path: Path) -> None:
    text = '[[rank.judges]]\njudge = "rubric"\n[[rank.judges]]\njudge = "m"\nstrategy = "vote"\n'
    with pytest.raises(UsageError, match=r"\[rank.judges.1\] strategy = 'vote': .*mine.toml:5"):
        config.load(toml(tmp_path, text))


def test_a_recipe_with_one_judge_is_resolved_as_before_there_were_panels() -> None:
    assert "judges" not in config.dump(config.load(config.find_recipe("smollm2")))
