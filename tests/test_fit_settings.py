"""fit reads its settings: what they are is what is done, not only what is written down."""

from pathlib import Path
from typing import Any

import pytest
from made_rankings import ranking, rankings

from starling import metrics, uncertainty
from starling.config import FitTable
from starling.metrics import Recorder
from starling.stages import fit


def fitted(base: Path, folder: Path, held_out: Any = (), **settings: Any) -> dict:
    recorder = Recorder(folder / "metrics.jsonl", "fit")
    return fit.fit(FitTable(**settings), str(base), rankings(7), held_out, folder, recorder, seed=1)


def test_the_rate_that_is_logged_is_the_one_that_is_taken(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict] = []
    step = fit._step

    def noted(cfg, objective, network, optimiser, *rest):
        seen.append(dict(optimiser.param_groups[0]))
        return step(cfg, objective, network, optimiser, *rest)

    monkeypatch.setattr(fit, "_step", noted)
    settings = {"learning_rate": 1e-3, "warmup": 0.5, "schedule": "linear", "weight_decay": 0.03}
    fitted(tiny_model, tmp_path, prompts_per_step=2, **settings)
    # 7 rankings, 2 a step: up over half of 4 steps, then down in a line
    rates = [0.5e-3, 1e-3, 2e-3 / 3, 1e-3 / 3]
    assert [group["lr"] for group in seen] == pytest.approx(rates)
    assert {group["weight_decay"] for group in seen} == {0.03}
    logged = [line["fit/learning_rate"] for line in metrics.read(tmp_path / "metrics.jsonl")]
    assert logged == pytest.approx(rates)


def test_the_prior_of_the_uncertainty_is_the_settings_own(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    priors = []
    found = uncertainty.fit

    def noted(model, examples, prior, *rest):
        priors.append(prior)
        return found(model, examples, prior, *rest)

    monkeypatch.setattr(uncertainty, "fit", noted)
    fitted(tiny_model, tmp_path, laplace_prior=3.0)
    assert priors == [3.0]


def test_held_out_answers_that_are_too_long_are_left_out_as_others_are(tiny_model: Path, tmp_path: Path) -> None:
    held_out = [ranking("h", ["wet", "dry", "rain " * 600], [1, 2, 3])]
    facts = fitted(tiny_model, tmp_path, held_out, too_long="drop")
    assert facts["answers_left_out"] == {"too long": 1}
    assert facts["held_out"]["scores"][0]["n"] == 1  # pair
