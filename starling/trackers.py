"""TensorBoard, trackio and wandb as mirrors of `metrics.jsonl`: files in the run's `trackers/`, nothing leaves it.

Each is made anew from the lines that stand when a stage begins or goes on, so a resumed run has every step once.
"""

import contextlib
import importlib
import importlib.util
import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from starling.errors import StarlingError, UsageError, explained
from starling.metrics import Mirror

_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID")  # with these trackio would send what it gets


class _TensorBoard:
    def __init__(self, folder: Path, run: str, stage: str) -> None:
        self._folder = folder / stage

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        _clear(self._folder)
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(self._folder))
        for line in lines:
            self.show(line)

    def show(self, line: Mapping[str, Any]) -> None:
        for name, value in _values(line).items():
            self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()


class _Trackio:
    """A project for each stage, since the steps of each begin anew."""

    def __init__(self, folder: Path, run: str, stage: str) -> None:
        self._folder, self._run, self._stage = folder.resolve(), run, stage

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        os.environ["TRACKIO_DIR"] = str(self._folder)
        trackio = importlib.import_module("trackio")
        if self._folder != trackio.utils.TRACKIO_DIR:
            raise StarlingError(
                f"trackio writes to {trackio.utils.TRACKIO_DIR} for as long as this process lives; start another "
                f"process for {self._folder}"
            )
        for old in self._folder.glob(f"{self._stage}.*"):
            old.unlink()
        elsewhere = {name: os.environ.pop(name) for name in _REMOTE if name in os.environ}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._shown = trackio.init(
                    project=self._stage, name=self._run, embed=False, auto_log_gpu=False, auto_log_cpu=False
                )
        finally:
            os.environ |= elsewhere
        for line in lines:
            self.show(line)

    def show(self, line: Mapping[str, Any]) -> None:
        self._shown.log(_values(line), step=line["step"])

    def end(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module("trackio").finish()  # the run's own would be said again as the process ends


class _Wandb:
    """An offline run, which `wandb sync` uploads for those who want that; of machine and code nothing is noted."""

    def __init__(self, folder: Path, run: str, stage: str) -> None:
        self._folder, self._run, self._stage = folder / stage, run, stage

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        _clear(self._folder)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb = importlib.import_module("wandb")
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True,
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
        )  # fmt: skip
        self._shown = wandb.init(
            mode="offline",
            dir=str(self._folder),
            project="starling",
            group=self._run,
            name=f"{self._run}-{self._stage}",
            settings=settings,
        )
        for line in lines:
            self.show(line)

    def show(self, line: Mapping[str, Any]) -> None:
        self._shown.log(_values(line), step=line["step"])

    def end(self) -> None:
        self._shown.finish()


_KINDS: Mapping[str, type[_TensorBoard] | type[_Trackio] | type[_Wandb]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _Wandb,
}


def refuse_missing(names: Sequence[str]) -> None:
    """Stop where a tracker's package is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(missing)
        raise UsageError(
            f"run: run.trackers names {', '.join(missing)}, not installed: "
            f"`pip install '.[{extras}]'` in Starling's folder, or leave it out"
        )


@contextlib.contextmanager
def opened(root: Path, names: Sequence[str], stage: str) -> Iterator[Sequence[Mirror]]:
    """The trackers of a stage, which begin as its recorder rewinds; closed however the stage ends."""
    folder, run = root / "trackers", root.resolve().name
    mirrors = [_Started(_KINDS[name](folder / name, run, stage)) for name in dict.fromkeys(names)]
    try:
        yield mirrors
    finally:
        for mirror in mirrors:
            mirror.end()


class _Started:
    """A tracker that is ended where it was begun, also before it begins anew."""

    def __init__(self, tracker: _TensorBoard | _Trackio | _Wandb) -> None:
        self._tracker = tracker
        self._begun = False

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self.end()
        self._tracker.begin(lines)
        self._begun = True

    def show(self, line: Mapping[str, Any]) -> None:
        self._tracker.show(line)

    def end(self) -> None:
        if self._begun:
            self._begun = False
            self._tracker.end()


def _values(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in ("stage", "step")}


def _clear(folder: Path) -> None:
    with explained(f"making {folder}"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
