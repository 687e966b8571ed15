"""AlpacaEval: annotations in, figures out; the published ones come out as published."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import EXACT

from starling.benches import alpaca_annotations, length_control
from starling.errors import DataError

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data" / "alpaca_eval"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published annotations are not here (../shared/data)"
)


def annotation(instruction: str, preference: Any, **fields: Any) -> dict[str, Any]:
    return {
        "instruction": instruction, "output_1": "rival's answer", "generator_1": "rival", "output_2": "answer",
        "generator_2": "model", "annotator": "judge", "preference": preference, **fields,
    }  # fmt: skip


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scored(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return alpaca_annotations.score(alpaca_annotations.read_annotations([written(path, rows)]))[0]


def test_the_win_rate_is_the_mean_preference_with_draws_as_halves(tmp_path: Path) -> None:
    found = scored(tmp_path / "a.json", [annotation(str(at), said) for at, said in enumerate([2, 2, 1, 1.5, 0, 1.25])])
    # probabilities 1, 1, 0, 1/2, 1/2, 1/4: mean 3.25 / 6
    assert found["win_rate"] == pytest.approx(100 * 3.25 / 6, abs=1e-9)
    # squares about the mean: 2 - ... = 1 + 1 + 0 + .25 + .25 + .0625 - 6 (3.25 / 6)^2 = 0.8020833; / 5 / 6, root
    assert found["standard_error"] == pytest.approx(100 * (0.80208333333 / 30) ** 0.5, abs=1e-6)
    assert (found["n_wins"], found["n_wins_base"], found["n_draws"], found["n"]) == (2, 2, 2, 6)
    assert found["discrete_win_rate"] == pytest.approx(50, abs=EXACT)  # (2 + 2 / 2) / 6
    assert found["avg_length"] == len("answer")
    assert found["low"] < found["win_rate"] < found["high"]
    assert found["weights"]["difficulty"] is None  # one model alone


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, "without a preference"),
        (float("nan"), "without a preference"),
        (3, "not between 1 and 2"),
        (-1, "not between 1 and 2"),
        ("2", "no number"),
        (True, "no number"),
    ],
)
def test_a_preference_that_is_none_is_left_out_and_listed(tmp_path: Path, said: Any, reason: str) -> None:
    path = written(tmp_path / "a.jsonl", [annotation("one", 2), annotation("two", said)])
    (found,) = alpaca_annotations.read_annotations([path])
    assert list(found.found) == ["one"]
    assert [(left.item, reason in left.reason) for left in found.left_out] == [("model: two", True)]
    assert alpaca_annotations.score([found])[0]["n"] == 1


def test_a_doubled_instruction_counts_once_and_is_listed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [annotation("one", 2), annotation("one", 1)])
    (found,) = alpaca_annotations.read_annotations([path])
    assert found.found["one"].preference == 1.0
    assert [left.reason for left in found.left_out] == ["annotated again later"]


def test_a_folder_holds_models_and_files_without_names_are_called_after_themselves(tmp_path: Path) -> None:
    written(tmp_path / "other.jsonl", [{"instruction": "one", "len_1": 3, "len_2": 4, "preference": 1.5}])
    written(tmp_path / "a.json", [annotation("one", 2), annotation("one", 1, generator_2="second")])
    found = alpaca_annotations.read_annotations([tmp_path])
    assert [one.model for one in found] == ["model", "second", "other"]
    assert found[2].found["one"] == (4, 3, 0.5)
    assert (found[0].rival, found[0].judge) == ("rival", "judge")


def test_lengths_stand_on_the_right_sides(tmp_path: Path) -> None:
    """A judge that likes the longer output, whosever it is, and a model that is longer three times of four."""
    rival = len("rival's answer")
    rows = [
        annotation(str(at), 1.8 if at % 4 else 1.2, output_2="x" * (rival + (9 if at % 4 else -9))) for at in range(80)
    ]
    found = scored(tmp_path / "a.json", rows)
    assert found["win_rate"] == pytest.approx(100 * (0.75 * 0.8 + 0.25 * 0.2))  # 65
    assert found["weights"]["length"] < 0
    assert 45 < found["length_controlled_winrate"] < 57


def test_instructions_that_only_one_model_met_are_listed(tmp_path: Path) -> None:
    rows = [annotation("one", 2), annotation("two", 1), annotation("one", 1, generator_2="second")]
    models = alpaca_annotations.read_annotations([written(tmp_path / "a.json", rows)])
    assert [left.item for left in alpaca_annotations.gaps(models)] == ["second: two"]
    assert [row["n"] for row in alpaca_annotations.score(models)] == [2, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}', "a list of rows"),
        ("[1, 2]", "a row with fields"),
        ("[{", "cannot be read as JSON"),
        ('[{"preference": 1}]', "needs `instruction`"),
        ('[{"instruction": "one", "preference": 1}]', "needs `output_2`"),
        ("[]", "holds no annotations"),
        ('[{"instruction": "one", "preference": null}]', "no annotation can be scored"),
    ],
)
def test_what_is_no_annotation_file_is_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=said) as told:
        alpaca_annotations.score(alpaca_annotations.read_annotations([tmp_path / "a.json"]))
    assert "\n" not in str(told.value)


def leaderboard() -> dict[str, dict[str, str]]:
    with (PUBLISHED / "leaderboard.csv").open() as file:
        return {row[""]: row for row in csv.DictReader(file)}


@needs_published
def test_the_published_annotations_give_the_published_figures() -> None:
    board = leaderboard()
    rows = alpaca_annotations.score(alpaca_annotations.read_annotations([PUBLISHED / "annotations"]))
    rows = [row for row in rows if row["model"] in board]
    assert len(rows) == 5
    for row in rows:
        known = board[row["model"]]
        assert row["win_rate"] == pytest.approx(float(known["win_rate"]), abs=0.01)
        assert row["standard_error"] == pytest.approx(float(known["standard_error"]), abs=1e-3)
        assert row["discrete_win_rate"] == pytest.approx(float(known["discrete_win_rate"]), abs=1e-6)
        assert int(row["avg_length"]) == int(known["avg_length"])
        counts = [int(known[name]) for name in ("n_wins", "n_wins_base", "n_draws", "n_total")]
        assert [row["n_wins"], row["n_wins_base"], row["n_draws"], row["n"]] == counts
    ours = {row["model"]: row["length_controlled_winrate"] for row in rows}
    known_rates = {model: float(board[model]["length_controlled_winrate"]) for model in ours}
    assert sorted(ours, key=ours.__getitem__) == sorted(known_rates, key=known_rates.__getitem__)
    assert sum(abs(ours[model] - known_rates[model]) for model in ours) / len(ours) < 1.0


@needs_published
def test_with_more_models_to_tell_difficulty_from_the_rates_come_closer() -> None:
    models = alpaca_annotations.read_annotations([PUBLISHED / "annotations"])
    place = {instruction: at for at, instruction in enumerate(models[0].found)}
    rival_I = np.array([one.rival_length for one in models[0].found.values()], float)
    said: dict[str, dict[int, tuple[float, float]]] = {
        model.model: {place[key]: (one.preference, one.own_length) for key, one in model.found.items()}
        for model in models
    }
    with gzip.open(PUBLISHED.parent / "alpaca_rankings.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            for answer in row["answers"]:
                known = said.setdefault(answer["model"], {})
                known.setdefault(place[row["prompt"]], (answer["score"], len(answer["answer"])))
    assert len(said) == 25
    preference_MI, length_MI = np.zeros((2, 25, len(place)))
    mask_MI = np.zeros((25, len(place)), bool)
    for at, known in enumerate(said.values()):
        where = list(known)
        preference_MI[at, where], own_I = np.array(list(known.values())).T
        length_MI[at, where] = length_control.length_term(own_I, rival_I[where])
        mask_MI[at, where] = True
    difficulty_I = length_control.difficulties(preference_MI, length_MI, mask_MI)
    board = leaderboard()
    errors = [
        length_control.control(preference_MI[at], length_MI[at], difficulty_I).win_rate
        - float(board[model.model]["length_controlled_winrate"])
        for at, model in enumerate(models)
        if model.model in board
    ]
    assert np.abs(errors).mean() < 0.55


def test_annotations_that_are_not_there_are_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: there is no such file$"):
        alpaca_annotations.read_annotations([tmp_path / "gone"])
