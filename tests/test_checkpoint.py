"""The state of a training loop on disk."""

import time
from pathlib import Path

import pytest
import torch

from starling import checkpoint, device
from starling.checkpoint import Checkpoint
from starling.errors import DataError, StarlingError


class Unknown:
    """An object of a class that no checkpoint may bring along."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pt"


def test_a_saved_state_comes_back_exactly(path: Path) -> None:
    state = {"step": 3, "scale": [0.5, 1.25], "weights": {"a": torch.randn(3, 4), "b": torch.randn(2).bfloat16()}}
    Checkpoint(path, 0).save(state)
    found = Checkpoint(path, 0).load()
    assert found is not None
    assert (found["step"], found["scale"]) == (3, [0.5, 1.25])
    for name, weight in state["weights"].items():
        assert found["weights"][name].dtype == weight.dtype
        assert torch.equal(found["weights"][name], weight)


def test_an_optimisers_state_comes_back(path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.AdamW([weight], lr=0.1, fused=True)
    weight.square().sum().backward()
    optimiser.step()
    Checkpoint(path, 0).save({"optimiser": optimiser.state_dict()})
    again = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=0.1, fused=True)
    again.load_state_dict((Checkpoint(path, 0).load() or {})["optimiser"])
    for name, value in optimiser.state_dict()["state"][0].items():
        assert torch.equal(again.state_dict()["state"][0][name], value)


def test_where_nothing_was_saved_there_is_nothing(path: Path) -> None:
    assert Checkpoint(path, 0).load() is None


def test_saving_replaces_the_state_and_leaves_nothing_else(path: Path) -> None:
    checkpoint = Checkpoint(path, 0)
    for step in (1, 2):
        checkpoint.save({"step": step})
    assert checkpoint.load() == {"step": 2}
    assert list(path.parent.iterdir()) == [path]


def test_a_save_is_due_once_the_seconds_have_passed_and_not_again_at_once(path: Path) -> None:
    checkpoint = Checkpoint(path, 0.05)
    assert not checkpoint.due
    time.sleep(0.06)
    assert checkpoint.due
    checkpoint.save({})
    assert not checkpoint.due


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_a_damaged_file_is_a_plain_error_that_says_what_to_do(path: Path, damage: str) -> None:
    Checkpoint(path, 0).save({"weights": torch.randn(100)})
    whole = path.read_bytes()
    path.write_bytes({"text": b"not a checkpoint", "cut": whole[: len(whole) // 2], "empty": b""}[damage])
    with pytest.raises(DataError, match=r"checkpoint\.pt: not a checkpoint \(.*\); delete it to begin anew$"):
        Checkpoint(path, 0).load()


def test_a_file_that_brings_code_is_refused(path: Path) -> None:
    torch.save({"trap": Unknown()}, path)
    with pytest.raises(DataError, match="not a checkpoint"):
        Checkpoint(path, 0).load()


def test_a_place_that_cannot_be_written_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(StarlingError, match=r"writing .* failed"):
        Checkpoint(tmp_path / "nowhere" / "checkpoint.pt", 0).save({})


def test_a_full_disk_is_a_plain_error_and_leaves_the_old_state(path: Path) -> None:
    checkpoint = Checkpoint(path, 0)
    checkpoint.save({"step": 1})
    path.with_name("checkpoint.pt.partial").symlink_to("/dev/full")
    with pytest.raises(StarlingError, match=r"writing .* failed: No space left"):
        checkpoint.save({"step": 2, "weights": torch.randn(100_000)})
    assert checkpoint.load() == {"step": 1}


def test_what_another_version_saved_is_refused_and_kept(path: Path) -> None:
    torch.save({"starling": "0.0.1", "state": {"step": 2}}, path)
    with pytest.raises(DataError, match=r"was saved by starling 0\.0\.1, this is .*; use that version, or delete it"):
        Checkpoint(path, 0).load()
    assert path.exists()


BEGAN = {"settings": "1a", "rankings": "2b"}


def test_a_state_comes_back_to_what_it_began_with(path: Path) -> None:
    Checkpoint(path, 0, BEGAN).save({"step": 1})
    assert Checkpoint(path, 0, dict(BEGAN)).load() == {"step": 1}


@pytest.mark.parametrize(
    ("began_with", "other"),
    [
        ({"settings": "1a", "rankings": "9z"}, "rankings"),
        ({"settings": "9z", "rankings": "9z"}, "settings and rankings"),
        ({"rankings": "2b"}, "settings"),
        (None, "settings and rankings"),
    ],
    ids=["one", "both", "not said", "nothing said"],
)
def test_what_began_with_something_else_is_refused_by_name_and_kept(path: Path, began_with, other: str) -> None:
    Checkpoint(path, 0, began_with).save({"step": 1})
    with pytest.raises(DataError, match=rf"checkpoint\.pt: was saved with other {other}; bring them back, or"):
        Checkpoint(path, 0, BEGAN).load()
    assert path.exists()


@pytest.mark.parametrize("content", [{"step": 2}, [1]], ids=["other keys", "list"])
def test_a_file_of_tensors_that_is_no_checkpoint_is_refused(path: Path, content: object) -> None:
    torch.save(content, path)
    with pytest.raises(DataError, match="not a checkpoint"):
        Checkpoint(path, 0).load()


def test_a_state_in_another_form_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(checkpoint, "FORMAT", checkpoint.FORMAT - 1)
        Checkpoint(path, 0).save({"step": 1})
    with pytest.raises(DataError, match=r"checkpoint.pt: was saved in form 5, this starling has form 6; use the one"):
        Checkpoint(path, 0).load()


def test_another_number_of_threads_is_told_and_the_state_is_taken_up(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoint(path, 0).save({"step": 3})
    assert Checkpoint(path, 0).load() == {"step": 3}
    assert capsys.readouterr().out == ""
    here = device.arithmetic()
    monkeypatch.setattr(device, "arithmetic", lambda: here | {"threads": "77"})
    assert Checkpoint(path, 0).load() == {"step": 3}
    said = f"was saved with threads {here['threads']}, now 77: what follows is not bit for bit"
    assert said in " ".join(capsys.readouterr().out.split())
