"""Our losses against TRL's own code on the same tensors: its trainers' loss functions, without a model."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tolerances import CLOSE

from starling.losses import masked
from starling.losses.dpo import dpo_loss
from starling.losses.grpo import grpo_loss
from starling.losses.ipo import ipo_loss
from starling.losses.ppo import clipped_policy_loss
from starling.losses.rloo import rloo_loss

trl = pytest.importorskip("trl", reason="TRL is not installed")

B, T = 6, 5


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


def random_batch() -> tuple[torch.Tensor, ...]:
    old, noise = torch.randn(2, B, T)
    mask = torch.arange(T) < torch.tensor([5, 1, 3, 2, 4, 5])[:, None]
    return (old + 0.3 * noise).requires_grad_(), old, torch.randn(B), mask


def inputs_of(advantage: torch.Tensor, mask: torch.Tensor, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = torch.zeros(B, T, dtype=torch.long)
    prompt = {"prompt_ids": ids, "prompt_mask": torch.ones_like(ids)}
    return prompt | {"completion_ids": ids, "completion_mask": mask.long(), "advantages": advantage} | more


def agree(found: torch.Tensor, expected: torch.Tensor, logprob: torch.Tensor) -> None:
    assert found.item() == pytest.approx(expected.item(), abs=CLOSE)
    gradients = [torch.autograd.grad(value, logprob, retain_graph=True)[0] for value in (found, expected)]
    assert gradients[1].abs().max().item() > 0
    assert torch.allclose(*gradients, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("normaliser", ["grpo", "dr_grpo", "dapo"])
def test_grpo_is_trls(normaliser: str) -> None:
    logprob, old, advantage, mask = random_batch()
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
    advantage_BT = advantage[:, None].expand(B, T)
    found = grpo_loss(logprob, old, advantage_BT, mask, clip_low=0.2, clip_high=0.28, normaliser=normaliser)
    agree(found.value, expected, logprob)
    share = trainer._metrics["train"]["clip_ratio/region_mean"][0]
    assert found.metrics["clip_fraction"].item() == pytest.approx(share, abs=CLOSE)
    assert share > 0
    if normaliser == "dapo":
        trainer.epsilon_high = 0.2
        expected = trainer._compute_loss(trainer.model, inputs_of(advantage, mask, **counted))
        agree(clipped_policy_loss(logprob, old, advantage_BT, mask, clip=0.2).value, expected, logprob)


def test_rloo_is_trls() -> None:
    logprob, old, advantage, mask = random_batch()
    trainer = bare(trl.RLOOTrainer, logprob=logprob, epsilon_low=0.2, epsilon_high=0.2)
    inputs = inputs_of(advantage, mask, old_logps=masked.sums(old, mask))
    expected = trainer._compute_loss(trainer.model, inputs)
    found = rloo_loss(logprob, old, advantage, mask, clip=0.2)
    agree(found.value, expected, logprob)
    share = trainer._metrics["train"]["clip_ratio/region_mean"][0]
    assert found.metrics["clip_fraction"].item() == pytest.approx(share, abs=CLOSE)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_dpo_and_ipo_are_trls(kind: str) -> None:
    logprob, ref, _, mask = random_batch()  # three better answers, then the three worse
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
    new, old = (masked.sums(part, mask).view(2, B // 2).T for part in (logprob, ref))  # (3, better and worse)
    if kind == "ipo":
        length = mask.sum(1).view(2, B // 2).T
        agree(ipo_loss(new / length, old / length, tau=0.3).value, expected, logprob)
        return
    found = dpo_loss(new, old, beta=0.3)
    agree(found.value, expected, logprob)
    for ours, theirs in (("accuracy", "rewards/accuracies"), ("margin", "rewards/margins")):
        assert found.metrics[ours].item() == pytest.approx(trainer._metrics["train"][theirs][0], abs=CLOSE)
