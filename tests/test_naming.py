"""What a judge's name tells."""

import pytest

from starling.judges import naming, several

OURS = naming.by_reward("runs/one/fit/model", "0123456789abcdef")


def test_a_reward_model_is_named_by_model_and_weights() -> None:
    assert OURS == "reward:runs/one/fit/model#0123456789ab"


@pytest.mark.parametrize(
    ("judge", "by_reward", "alone"),
    [
        (OURS, True, True),
        ("rubric", False, True),
        ("kwise:reward@127.0.0.1:8000", False, False),
        (several.title(["rubric", OURS]), False, True),
        (several.title(["rubric", OURS, "direct:m@a"]), False, False),
    ],
)
def test_only_a_judge_that_is_asked_sees_an_order(judge: str, by_reward: bool, alone: bool) -> None:
    assert (naming.is_by_reward(judge), naming.reads_alone(judge)) == (by_reward, alone)
