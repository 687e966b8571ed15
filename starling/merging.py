"""`starling export --merge`: LoRA adapters and the model that they are of, as one plain model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftModelForCausalLM
from safetensors import SafetensorError

from starling import adapters, models, progress
from starling.errors import ModelError, UsageError, explained
from starling.models import Model
from starling.store import Run, is_run
from starling.writing import replace_folder


def export(source: Path, out: Path) -> dict[str, Any]:
    """Write the model to the folder `out`, say so, and return what was merged.

    `source` is a folder in PEFT's layout, of a policy or of a reward model, or a run that tuned adapters.
    """
    folder = _adapters(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"export: --out {out} holds something already; choose another folder")
    with _readable(folder):
        config = PeftConfig.from_pretrained(str(folder))
    base = str(config.base_model_name_or_path)
    is_reward_model = config.task_type == "SEQ_CLS"
    model = models.new_reward_model(base) if is_reward_model else models.load_policy(base, torch.float32)
    with adapters.quiet(), _readable(folder):
        adapted: Any = PeftModel.from_pretrained(model.network, str(folder))
    merged = adapted.merge_and_unload()
    if isinstance(adapted, PeftModelForCausalLM):
        merged = merged.to(models.load_config(base).dtype or torch.float32)
    with explained(f"making {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{out.name}.partial-", dir=out.parent) as work:
        models.save(Model(merged, model.tokenizer), Path(work) / "model")
        replace_folder(Path(work) / "model", out)
    kind = "reward model" if is_reward_model else "policy"
    progress.say(f"export: {folder} merged into {base}: a {kind} -> {out}")
    return {"adapters": str(folder), "base": base, "kind": kind, "out": str(out)}


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """What is wrong with the files of adapters, in one line."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"export: the adapters in {folder} cannot be read: {said}") from error


def _adapters(source: Path) -> Path:
    """The folder of adapters that is meant; safetensors only."""
    folder = source
    if is_run(source):
        run = Run.read(source)
        run.facts("tune")
        run.refuse_damage(["tune"])
        folder = source / "tune" / "adapter"
        if not folder.is_dir():
            raise ModelError(f"export: {source} tuned no adapters (tune.lora_rank = 0); its policy is plain as it is")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(f"export: {folder} holds no {name}, so it is no folder of adapters that can be merged")
    return folder
