"""What answers are rewarded by."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf_models
import pytest
import torch
from tolerances import CLOSE

import starling
from starling import models, rewards
from starling.errors import StarlingError, UsageError
from starling.generate import Sampled
from starling.judges import rubric
from starling.judges.protocol import Judged
from starling.records import Candidate, Message, Prompt
from starling.rewards import Rewards, by_function, by_judge, by_rubric
from starling.rollout import Group, score_texts
from starling.tune_settings import Reward

ASKED = Prompt(
    id="p", messages=[Message(role="user", content="?")], checks=[{"check": "lowercase"}, {"check": "no_commas"}]
)
TEXTS = ("the", "a, dog", "hello there")


def group(*texts: str) -> Group:
    answers = tuple(Sampled(ids=[7], finished=True) for _ in texts)
    return Group(prompt=ASKED, prompt_ids=(5,), answers=answers, texts=texts)


class Scripted:
    """A judge that gives these ranks, prompt by prompt."""

    name, template_hash = "scripted", ""

    def __init__(self, *ranks: Sequence[float] | None) -> None:
        self._ranks = ranks
        self.seen: list[list[str]] = []

    def rank(self, items: Sequence[tuple[Prompt, Sequence[Candidate]]]) -> list[Judged]:
        self.seen += [[answer.answer for answer in answers] for _prompt, answers in items]
        return [Judged(ranks=ranks, reason="" if ranks else "no verdict") for ranks in self._ranks]


def test_a_function_is_called_by_its_path_for_each_prompt() -> None:
    (row,) = by_function("rewarding:letters")([(ASKED, TEXTS, (True, True, True))])
    # all of "the"; " " of "a, dog" is 1 of 6; "he" and " the" and "e" of "hello there" are 7 of 11
    assert row == pytest.approx([1.0, 1 / 6, 7 / 11], abs=CLOSE)


def test_a_function_is_looked_for_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_this_folder.py").write_text("def two(prompt, texts, finished):\n    return [2.0] * len(texts)\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert by_function("of_this_folder:two")([(ASKED, TEXTS, (True, True, True))]) == [[2.0] * 3]
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def brief(", "cannot be imported: SyntaxError: "),
        ("raise ValueError('no\\nway')", "cannot be imported: ValueError: no way$"),
        ("other = 1", "cannot be imported: AttributeError: "),
        ("brief = 1", f"failed on prompt {ASKED.id}: TypeError: .* gives a list of floats"),
        ("def brief(*_):\n    return None", f"failed on prompt {ASKED.id}: TypeError: .* gives a list of floats"),
        (
            "def brief(*_):\n    return 1 / 0",
            f"failed on prompt {ASKED.id}: ZeroDivisionError: division by zero; it is",
        ),
    ],
    ids=["syntax", "raises", "no name", "no function", "nothing", "fails"],
)
def test_a_function_that_fails_is_told_in_a_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"failing_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(StarlingError, match=rf"^tune: reward '{name}:brief' {message}"):
        by_function(f"{name}:brief")([(ASKED, TEXTS, (True, True, True))])


def test_the_judge_rewards_the_share_that_an_answer_beats(capsys: pytest.CaptureFixture[str]) -> None:
    assert rewards.shares_beaten([1, 2, 3]) == [1.0, 0.5, 0.0]
    assert rewards.shares_beaten([1, 1, 3]) == [0.75, 0.75, 0.0]  # beats one and ties with one: (1 + 1/2) / 2
    assert rewards.shares_beaten([2, 2]) == [0.5, 0.5]
    judge = Scripted([2, 1, 3], None)
    shown = [(ASKED, TEXTS, (True, False, True))] * 2
    assert by_judge(judge)(shown) == [[0.5, 1.0, 0.0], [0.5, 0.5, 0.5]]  # what cannot be read prefers none
    assert judge.seen == [list(TEXTS)] * 2
    assert "rankings of 1 of 2 prompts could not be read" in " ".join(capsys.readouterr().out.split())


def test_a_judge_that_cannot_be_read_at_all_stops_the_stage() -> None:
    with pytest.raises(StarlingError, match=r"^tune: the judge's ranking could be read for none of 2 prompts, first: "):
        by_judge(Scripted(None, None))([(ASKED, TEXTS, (True,) * 3)] * 2)


def test_the_rubric_rewards_without_held_out_checks() -> None:
    (row,) = by_rubric([(ASKED, TEXTS, (True, True, False))])
    assert row == [rubric.assess(ASKED, text, finished=end).score for text, end in zip(TEXTS, (1, 1, 0), strict=True)]
    without = Prompt(id="p", messages=ASKED.messages, checks=[{"check": "lowercase"}])  # `no_commas` is held out
    assert by_rubric([(without, TEXTS, (True, True, False))]) == [row]


def test_rewards_are_added_up_by_weight_and_each_mean_is_told() -> None:
    def one(shown: Any) -> list[list[float]]:
        return [[1.0, 2.0] for _ in shown]

    def other(shown: Any) -> list[list[float]]:
        return [[10.0, 0.0] for _ in shown]

    rows, means = Rewards({"one": (2.0, one), "other": (-0.5, other)})([group("a", "b")])
    assert rows == [[2 * 1 - 0.5 * 10, 2 * 2 - 0.5 * 0]]
    assert means == {"rewards/one/mean": 1.5, "rewards/other/mean": 5.0}
    assert Rewards({"one": (1.0, one)})([group("a", "b")]) == ([[1.0, 2.0]], {})


def test_the_reward_model_scores_as_it_does_alone(reward_model) -> None:
    made = rewards.make([Reward(name="model")], reward_model, Scripted(), 2048)
    rows, _ = made([group(*TEXTS)])
    assert rows == score_texts(reward_model, [(ASKED, TEXTS, (True,) * 3)], 2048)


@pytest.mark.usefixtures("float32_products")
def test_a_reward_model_of_another_family_and_tokenizer_reads_the_text_in_its_own_template(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    gguf_models.make("qwen2", folder, tiny_model)
    tokenizer = gguf_models.tokenizer("llama-bpe", tiny_model)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|im_end|>{% endfor %}"
    tokenizer.save_pretrained(folder)
    made: Any = models.new_reward_model(str(folder))
    torch.nn.init.normal_(made.network.score.weight)
    models.save(made, tmp_path / "reward-model")
    read = models.load_reward_model(str(tmp_path / "reward-model"), torch.float32)
    asked = [group("the rain", "in spain, it's 12345"), group("a", "the plain")]  # ids are the policy's: of no use here
    found, _means = rewards.make((Reward(name="model"),), read, Scripted(), 2048)(asked)
    reward_model = starling.load_reward_model(str(tmp_path / "reward-model"))
    texts = [one.prompt.messages[-1]["content"] for one in asked]
    expected = reward_model.score(texts, [list(one.texts) for one in asked])
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-4)
        assert abs(row[0] - row[1]) > 1e-3


def test_the_reward_model_is_loaded_only_where_it_is_asked_for() -> None:
    names = ("rubric", "judge", "rewarding:letters")
    made = rewards.make([Reward(name=name) for name in names], None, Scripted([1, 2, 3]), 2048)
    _, means = made([group(*TEXTS)])
    assert set(means) == {f"rewards/{name}/mean" for name in names}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("rewarding:sometimes_nan", "gave nan for an answer to prompt p; rewards must be numbers"),
        ("rewarding:one_too_few", "gave 2 values for 3 answers to prompt p; it must give one for each"),
    ],
)
def test_what_is_no_reward_stops_the_stage(name: str, line: str) -> None:
    with pytest.raises(StarlingError, match=f"^tune: reward '{name}' {line}$"):
        Rewards({name: (1.0, by_function(name))})([group(*TEXTS)])


@pytest.mark.parametrize("path", ["nowhere:letters", "rewarding:nothing"])
def test_a_function_that_is_not_there_is_said(path: str) -> None:
    with pytest.raises(UsageError, match=f"^tune: reward '{path}' cannot be imported: "):
        by_function(path)
    with pytest.raises(UsageError, match=f"^tune: reward '{path}' cannot be imported: "):
        rewards.refuse_unready([Reward(name="rubric"), Reward(name=path)])
    rewards.refuse_unready([Reward(name="model"), Reward(name="rewarding:one_too_few")])
