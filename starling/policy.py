"""The policy that is tuned: a frozen trunk that runs once, and what branches from it.

        ids -> trunk (frozen blocks) -+-> top (trained copy of the last n blocks) -> logits -> logprobs
                                      +-> reference (the same blocks as they were at first) -> ref_logprobs
                                                                                        +-> critic -> values

The critic reads the reference's hidden states, which never move, so that its values need not chase the policy.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from starling import adapters, decoder_parts, device, heads, models, packing
from starling.adapters import Lora
from starling.config import Config
from starling.heads import ValueHead
from starling.losses import kl
from starling.losses.logprobs import ROWS, head_logprobs, token_logprobs
from starling.models import Model
from starling.packing import Packed
from starling.tune_settings import as_read

PROBE_TOKENS = 16  # on which trunk and top have to say what the whole decoder says


class Features(NamedTuple):
    """What is the same for every update on a packed batch: trunk states (1, T, H), and at each of the N answer tokens,
    in packed order, the reference's hidden states (N, H) and logprobs (N,); without the reference those of none."""

    trunk_1TH: Tensor
    ref_hidden_NH: Tensor
    ref_logprob_N: Tensor


class Policy:
    """A causal LM whose last `layers` blocks and final norm are trained in float32; the LM head stays.

    With `lora` only adapters on those blocks are trained; the reference's weights are then the ones beside them. Else,
    where the network has fewer bits, an update multiplies with the network's own weights, unless they are kept `apart`:
    so that the network can sample while the trained weights move.

    All logprobs are those of the distribution at `temperature`, the one that rollouts are sampled from.
    """

    def __init__(
        self, model: Model, layers: int, temperature: float = 1.0, lora: Lora | None = None, *, apart: bool = False
    ) -> None:
        self.network = model.network.requires_grad_(False)
        self.tokenizer = model.tokenizer
        self.temperature = temperature
        decoder = self.network.get_decoder()
        self._trunk = decoder_parts.trunk_of(decoder, layers)
        self._lora = lora
        if lora is None:
            self._reference = decoder_parts.reference_of(decoder, layers)
            self.top = decoder_parts.top_of(decoder, layers).requires_grad_(True)
        else:
            self._reference = decoder_parts.top_of(decoder, layers).requires_grad_(False)
            self.top = adapters.adapted(self._reference, lora)
        self.trained = decoder_parts.trainable(self.top)
        is_exact = self.network.dtype == torch.float32
        self._rounded = self.top if apart or lora or is_exact else decoder_parts.rounded_of(decoder, self.top)
        tokens = [token % self.network.config.vocab_size for token in range(PROBE_TOKENS)]
        decoder_parts.require_apart(decoder, self._trunk, self._reference, packing.pack([(tokens, [])]))
        self.critic = ValueHead(self.network.config.hidden_size).to(self.network.device)

    @property
    def trunk_blocks(self) -> int:
        """How many blocks are frozen."""
        blocks: Any = self._trunk.layers
        return len(blocks)

    @torch.no_grad()
    def features(self, packed: Packed, trunk_1TH: Tensor | None = None, *, reference: bool = True) -> Features:
        """Run the frozen parts once; the trunk only where its states are not known from sampling."""
        trunk_1TH = self._through_trunk(packed) if trunk_1TH is None else trunk_1TH
        if not reference:
            return Features(trunk_1TH, trunk_1TH[0, :0], torch.zeros(0, device=trunk_1TH.device))
        with self._autocast():
            hidden_TH = packing.hidden_states(self._reference, packed, trunk_1TH)
        ref_hidden_NH = hidden_TH[predicting_positions(packed)]
        return Features(trunk_1TH, ref_hidden_NH, self._logprobs(ref_hidden_NH, packed, self.temperature))

    def logprobs(self, packed: Packed, features: Features) -> Tensor:
        """The policy's logprob of every answer token, in packed order: (N,)."""
        with self._autocast():
            hidden_TH = packing.hidden_states(self._multiplied(), packed, features.trunk_1TH)
        return self._logprobs(hidden_TH[predicting_positions(packed)], packed, self.temperature)

    def ref_logprobs(self, packed: Packed, features: Features, temperature: float) -> Tensor:
        """The reference's logprob of every answer token at a temperature that rollouts need not have: (N,)."""
        return self._logprobs(features.ref_hidden_NH, packed, temperature)

    @torch.no_grad()
    def kl(self, packed: Packed, trunk_1TH: Tensor | None = None) -> Tensor:
        """KL(policy || reference) of what may follow, over the whole vocabulary at temperature 1, at every answer
        token: (N,); the trunk runs only where its states are not known from sampling."""
        trunk_1TH = self._through_trunk(packed) if trunk_1TH is None else trunk_1TH
        positions = predicting_positions(packed)
        with self._autocast():
            own_NH, ref_NH = (
                packing.hidden_states(part, packed, trunk_1TH)[positions] for part in (self.top, self._reference)
            )
            return torch.cat(
                [
                    kl.exact(heads.logits(self.network, own).float(), heads.logits(self.network, ref).float())
                    for own, ref in zip(own_NH.split(ROWS), ref_NH.split(ROWS), strict=True)
                ]
            )

    def values(self, features: Features) -> Tensor:
        """The critic's expected return before each answer token is chosen: (N,)."""
        return self.critic(features.ref_hidden_NH)

    def sync(self, share: float = 1.0) -> None:
        """Write the trained blocks into the network that samples: `share` of their weights, the rest as at first."""
        decoder_parts.copy_top_into(self.network.get_decoder(), self.top, self._reference, share)

    @property
    def has_adapters(self) -> bool:
        return self._lora is not None

    def weights(self) -> dict[str, Tensor]:
        """The trained weights as they are now, by name."""
        return {name: weight.detach() for name, weight in self.trained.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Write these values over the trained weights."""
        decoder_parts.write_over(self.trained, weights)

    def take_over(self, network: Any) -> None:
        """Write the last blocks and the final norm of another network of this shape over the trained ones."""
        blocks: Any = self.top.layers
        self.top.load_state_dict(decoder_parts.top_of(network.get_decoder(), len(blocks)).state_dict())

    def save(self, folder: Path) -> None:
        """Write the network that samples in the layout that `from_pretrained` reads, its weights as they are."""
        models.save(Model(self.network, self.tokenizer), folder)

    def save_adapter(self, folder: Path, base: str, share: float = 1.0) -> None:
        """Write `share` of what the adapters add in PEFT's layout; `base` is what the initial policy is loaded by."""
        assert self._lora is not None
        adapters.save(self.top, folder, self._lora, network=self.network, base=base, share=share)

    def fingerprint(self) -> str:
        """A hash of the weights that it began with; to be taken before any is trained."""
        return models.weights_hash(self.network.parameters())

    @contextmanager
    def blended(self, share: float) -> Iterator[None]:
        """For as long as it lasts, `share` of the trained weights in the top, without gradients; the rest as at first.

        After that the trained weights are there again, bit for bit.
        """
        first = dict(self._reference.named_parameters())
        trained = {name: weight.clone() for name, weight in self.weights().items()}
        with torch.no_grad():
            for name, weight in self.trained.items():
                if not self.has_adapters:
                    weight.copy_(torch.lerp(first[name].to(weight.dtype), weight, share))
                elif ".lora_B." in name:  # what an adapter adds is linear in B, and 0 at first
                    weight.mul_(share)
            try:
                yield
            finally:
                self.load(trained)

    def _through_trunk(self, packed: Packed) -> Tensor:
        return packing.hidden_states(self._trunk, packed)[None]

    def _multiplied(self) -> PreTrainedModel:
        """The top as it is multiplied with, rounded anew: a fused optimiser leaves no trace on the weights it moves."""
        if self._rounded is not self.top:
            self.sync()
        return self._rounded

    def _autocast(self) -> torch.autocast:
        return device.autocast(self.network.device, self.network.dtype)

    def _logprobs(self, hidden_NH: Tensor, packed: Packed, temperature: float) -> Tensor:
        token_N = answer_tokens(packed).to(hidden_NH.device)
        if heads.has_linear_logits(self.network):
            weight_VH = self.network.get_output_embeddings().weight
            return head_logprobs(hidden_NH, weight_VH, token_N, temperature / heads.logit_scale(self.network.config))
        logprobs = [
            token_logprobs(self._logits(hidden), token, temperature)
            for hidden, token in zip(hidden_NH.split(ROWS), token_N.split(ROWS), strict=True)
        ]
        return torch.cat(logprobs)

    def _logits(self, hidden_NH: Tensor) -> Tensor:
        with self._autocast():
            return heads.logits(self.network, hidden_NH).float()


def initial_policy(config: Config) -> Policy:
    """The policy of these settings before its first update, with adapters where they ask for them."""
    cfg = config.tune
    seed = device.seed_for(config.run.seed, "tune", "lora")
    lora = Lora(cfg.lora_rank, cfg.lora_alpha, seed) if cfg.lora_rank else None
    network = models.load_policy(config.run.model)
    return Policy(network, cfg.layers, as_read(cfg).temperature, lora, apart=cfg.overlap)


def predicting_positions(packed: Packed) -> list[int]:
    """For every answer token the packed position whose hidden state predicts it: the one before it in its answer,
    and the prompt's last for the first."""
    return [
        position
        for prompt, answer in packing.spans(packed.blocks)
        for position in [prompt.stop - 1, *range(answer.start, answer.stop - 1)]
    ]


def answer_tokens(packed: Packed) -> Tensor:
    """The answers' token ids in packed order: (N,)."""
    return torch.cat([packed.ids_1T[0, answer.start : answer.stop] for _, answer in packing.spans(packed.blocks)])


def pad(value_N: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Values in packed order -> (B, T) right-padded with 0, and the mask of what counts."""
    value_BT = torch.nn.utils.rnn.pad_sequence(list(value_N.split(list(lengths))), batch_first=True)
    length_B1 = torch.tensor(lengths, device=value_N.device)[:, None]
    mask_BT = torch.arange(value_BT.shape[1], device=value_N.device) < length_B1
    return value_BT, mask_BT
