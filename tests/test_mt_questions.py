"""The questions that `--data` means: official, a file or folder, our own."""

from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from small_road import write_lines

from starling.benches import mt_questions
from starling.errors import CallError, UsageError

SHARED = Path(__file__).parents[2] / "shared" / "data" / "mt_bench"


def test_a_folder_has_its_references_beside_it_and_of_several_gpt_4s_are_taken(tmp_path: Path) -> None:
    write_lines(tmp_path / "question.jsonl", [{"question_id": 1, "category": "math", "turns": ["a"]}])
    (tmp_path / "reference_answer").mkdir()
    for name in ("a", "b"):
        write_lines(
            tmp_path / "reference_answer" / f"{name}.jsonl", [{"question_id": 1, "choices": [{"turns": [name]}]}]
        )
    with pytest.raises(UsageError, match=r"holds 2 files and no gpt-4\.jsonl"):
        mt_questions.find(str(tmp_path))
    (tmp_path / "reference_answer" / "b.jsonl").rename(tmp_path / "reference_answer" / "gpt-4.jsonl")
    assert mt_questions.find(str(tmp_path))[0].questions[0].references == ("b",)
    assert mt_questions.find(str(tmp_path / "question.jsonl"))[0] == mt_questions.find(str(tmp_path))[0]


def test_our_own_questions_are_two_turns_in_eight_categories_with_references_where_one_can_check() -> None:
    found, name = mt_questions.find("builtin")
    assert name == "builtin" and found.left_out == []
    kinds = [question.category for question in found.questions]
    assert len(kinds) >= 16 and len(set(kinds)) == 8 and {len(question.turns) for question in found.questions} == {2}
    for question in found.questions:
        assert bool(question.references) == (question.category in ("math", "coding", "reasoning")), question.id


def test_where_the_official_questions_cannot_be_fetched_the_way_out_is_told() -> None:
    with pytest.raises(CallError, match="--data builtin for our own questions"):
        mt_questions.find("")


def test_a_network_that_fails_is_no_missing_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetch(_space: str, name: str, repo_type: str) -> str:
        if "reference" in name:
            raise LocalEntryNotFoundError("no connection")
        return str(tmp_path / name)

    monkeypatch.setattr(mt_questions, "hf_hub_download", fetch)
    with pytest.raises(CallError, match=r"cannot be fetched .no connection."):
        mt_questions.find("")


@pytest.mark.skipif(not SHARED.exists(), reason="the official questions are not in ../shared/data/mt_bench")
def test_the_official_questions_are_read_with_gpt_4s_references() -> None:
    found, _ = mt_questions.find(str(SHARED))
    assert (len(found.questions), len(found.left_out)) == (80, 0)
    assert sum(bool(question.references) for question in found.questions) == 30
    by_heat = {heat: sum(question.temperature == heat for question in found.questions) for heat in (0.0, 0.1, 0.7)}
    assert by_heat == {0.0: 40, 0.1: 20, 0.7: 20}
