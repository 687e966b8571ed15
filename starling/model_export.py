"""What of `starling export` is a model: as one file, merged, or as it stands; with its card, and to the Hub."""

from pathlib import Path
from typing import Any, Literal

from starling import gguf_file, hub, merging, policy_card, progress
from starling.errors import ModelError, UsageError
from starling.gguf_file import Dtype
from starling.model_card import CARD
from starling.store import Run, is_run
from starling.writing import write_atomically

How = Literal["gguf", "merged", "as it stands"]
_CONFIGS = ("config.json", "adapter_config.json")  # one of them stands in every folder of a model or of adapters


def export(source: Path, out: Path, how: How, dtype: Dtype, licence: str) -> dict[str, Any]:
    """Write the model of `source`, a run or a MODEL, to `out`; what is merged of a run gets the policy's card."""
    if how == "gguf":
        return gguf_file.export(source, out, dtype, licence)
    _refuse_licence(source, licence)
    facts = merging.export(source, out)
    if is_run(source):
        write_atomically(out / CARD, policy_card.text(Run.read(source), licence=_chosen(licence)))
    return facts


def push(source: Path, out: Path | None, how: How, name: str, *, licence: str, public: bool) -> dict[str, Any]:
    """Upload what was written to `out`, or the model as it stands, as `name`; with the policy's card where it is a
    run's, else with the card that the folder has."""
    if how == "as it stands":
        _refuse_licence(source, licence)
    files: dict[str, Path | str] = {}
    if how == "gguf":
        assert out is not None, "it was written there"
        folder, beside = out.parent, out.with_suffix(".Modelfile")
        files |= {out.name: out, beside.name: beside}
    else:
        folder = out or _folder(source)
        files |= hub.files_of(folder)
    if is_run(source):
        gguf = out.name if out is not None and how == "gguf" else ""
        files[CARD] = policy_card.text(Run.read(source), licence=_chosen(licence), gguf=gguf)
    address = hub.push(files, name, folder, kind="model", public=public)
    progress.say(f"export: pushed to {address}")
    return {"source": str(source), "pushed_to": address}


def _folder(source: Path) -> Path:
    """The folder of the model that is meant: a run's policy, or a MODEL's own."""
    if is_run(source):
        run = Run.read(source)
        run.facts("tune")
        run.refuse_damage(["tune"])
        return run.policy_path
    if not any((source / name).is_file() for name in _CONFIGS):
        raise ModelError(f"export: {source} is neither a run nor a folder with a model ({' or '.join(_CONFIGS)})")
    return source


def _refuse_licence(source: Path, licence: str) -> None:
    if licence != "other" and not is_run(source):
        raise UsageError("export: --license goes into a run's card or a GGUF file; this model keeps the card it has")


def _chosen(licence: str) -> str:
    return "" if licence == "other" else licence
