"""Our losses against the values that TRL's own loss functions gave for the same batch."""

import pytest
from tolerances import CLOSE
from trl_batch import OURS, TRL, batch, told


@pytest.mark.parametrize("name", OURS)
def test_a_loss_and_its_gradient_are_trls(name: str) -> None:
    found = batch()
    assert told(OURS[name](found).value, found) == pytest.approx(TRL[name], abs=CLOSE)
