"""The coefficient of the KL in the reward, fixed or steered (Ziegler et al. 2019, arXiv:1909.08593, section 2.2)."""

from typing import NamedTuple

MAX_ERROR = 0.2  # of the KL's relative error, per update
LEAST = 0.1  # of the coefficient that one update leaves: with many answers to a horizon it would pass 0


class KLControl(NamedTuple):
    """A coefficient and how it answers to the KL that was measured; `_asdict()` is all of its state.

    `target` is in nats an answer, `horizon` in answers. Without a target the coefficient is fixed.
    """

    coef: float
    target: float | None = None
    horizon: float = 10_000.0

    def after(self, kl: float, num_answers: float) -> "KLControl":
        """Having seen a mean KL of `kl` over `num_answers` answers:

            coef (1 + clip(kl / target - 1, -0.2, 0.2) num_answers / horizon)

        The paper's rule with K_beta = num_answers / horizon, as in its published code; but never less than a tenth.
        """
        if self.target is None:
            return self
        error = min(max(kl / self.target - 1, -MAX_ERROR), MAX_ERROR)
        return self._replace(coef=self.coef * max(1 + error * num_answers / self.horizon, LEAST))
