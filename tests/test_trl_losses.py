"""Our losses against TRL's own code on the same tensors: its trainers' loss functions, without a model."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tolerances import CLOSE
from trl_batch import OURS, TRL, B, Batch, T, batch, told

from starling.losses import masked
from starling.losses.masked import Loss

trl = pytest.importorskip("trl", reason="trl is not installed: pip install '.[test]'")


class OneProcess:
    """The part of accelerate's Accelerator that the losses ask for."""

    num_processes = 1
    device = torch.device("cpu")

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def gather_for_metrics(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def reduce(self, value: torch.Tensor, reduction: str) -> torch.Tensor:
        return value


def bare(trainer: type, **settings: Any) -> Any:
    """A trainer that was never set up, with what its loss reads: as `logprob` says, instead of a model's output."""

    class Bare(trainer):
        def __init__(self) -> None:
            self.accelerator = OneProcess()
            self.model = SimpleNamespace(training=True)
            self.aux_loss_enabled = False
            self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
            for name, value in settings.items():
                setattr(self, name, value)

        def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple:
            return self.logprob, torch.zeros_like(self.logprob), None

    return Bare()


def inputs_of(advantage: torch.Tensor, mask: torch.Tensor, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = torch.zeros(B, T, dtype=torch.long)
    prompt = {"prompt_ids": ids, "prompt_mask": torch.ones_like(ids)}
    return prompt | {"completion_ids": ids, "completion_mask": mask.long(), "advantages": advantage} | more


def agree(name: str, expected: torch.Tensor, found: Batch) -> Loss:
    """TRL gives what is written down of it, and ours is the same, with its gradient; returns ours."""
    assert told(expected, found) == pytest.approx(TRL[name], abs=CLOSE)
    loss = OURS[name](found)
    assert loss.value.item() == pytest.approx(expected.item(), abs=CLOSE)
    gradients = [torch.autograd.grad(value, found.logprob_BT, retain_graph=True)[0] for value in (loss.value, expected)]
    assert gradients[1].abs().max().item() > 0
    assert torch.allclose(*gradients, atol=CLOSE, rtol=0)
    return loss


@pytest.mark.parametrize("normaliser", ["grpo", "dr_grpo", "dapo"])
def test_grpo_is_trls(normaliser: str) -> None:
    found = batch()
    logprob, old, advantage, mask = found
    trainer = bare(
        trl.GRPOTrainer,
        logprob=logprob,
        loss_type=normaliser,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        epsilon_low=0.2,
        epsilon_high=0.28,
        use_vllm=False,
        max_completion_length=T,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        use_adaptive_entropy=False,
    )
    counted = {"old_per_token_logps": old, "num_items_in_batch": mask.sum()}
    expected = trainer._compute_loss(trainer.model, inputs_of(advantage, mask, **counted))
    ours = agree(normaliser, expected, found)
    share = trainer._metrics["train"]["clip_ratio/region_mean"][0]
    assert ours.metrics["clip_fraction"].item() == pytest.approx(share, abs=CLOSE)
    assert share > 0
    if normaliser == "dapo":
        trainer.epsilon_high = 0.2
        expected = trainer._compute_loss(trainer.model, inputs_of(advantage, mask, **counted))
        agree("dapo, clipped alike", expected, found)


def test_rloo_is_trls() -> None:
    found = batch()
    logprob, old, advantage, mask = found
    trainer = bare(trl.RLOOTrainer, logprob=logprob, epsilon_low=0.2, epsilon_high=0.2)
    inputs = inputs_of(advantage, mask, old_logps=masked.sums(old, mask))
    expected = trainer._compute_loss(trainer.model, inputs)
    ours = agree("rloo", expected, found)
    share = trainer._metrics["train"]["clip_ratio/region_mean"][0]
    assert ours.metrics["clip_fraction"].item() == pytest.approx(share, abs=CLOSE)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_dpo_and_ipo_are_trls(kind: str) -> None:
    found = batch()
    logprob, ref, _, mask = found  # three better answers, then the three worse
    mask_BL = torch.cat([torch.zeros(B, 1, dtype=torch.bool), mask], 1)  # a prompt of one token before the answers
    zeros, logprob_BT, ref_BT = torch.zeros(B, T), logprob * mask, ref * mask

    class Outputs(torch.nn.Module):
        is_gradient_checkpointing = False

        def __init__(self, logprob_BT: torch.Tensor) -> None:
            super().__init__()
            rest = {"entropy": zeros, "mean_logits": zeros, "is_top1": zeros.bool()}
            self.found = SimpleNamespace(log_probs=logprob_BT, **rest)

        def forward(self, **inputs: Any) -> SimpleNamespace:
            return self.found

    trainer = bare(
        trl.DPOTrainer, beta=0.3, loss_types=[kind], loss_weights=[1.0], ld_alpha=None, use_weighting=False,
        f_divergence_type="reverse_kl", precompute_ref_logps=False, ref_model=Outputs(ref_BT),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None), _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(B, T + 1, dtype=torch.long),
        "attention_mask": torch.ones(B, T + 1, dtype=torch.long),
        "completion_mask": mask_BL.long(),
    }
    trainer.model = Outputs(logprob_BT)
    expected = trainer._compute_loss(trainer.model, inputs, return_outputs=False)
    ours = agree("ipo" if kind == "ipo" else "dpo", expected, found)
    for name, theirs in (("accuracy", "rewards/accuracies"), ("margin", "rewards/margins")):
        if kind != "ipo":
            assert ours.metrics[name].item() == pytest.approx(trainer._metrics["train"][theirs][0], abs=CLOSE)
