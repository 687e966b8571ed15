"""The built-in model, for tests that need a real one."""

from pathlib import Path

import pytest
import torch

from starling import models
from starling.errors import StarlingError
from starling.policy import Policy


def fetched() -> str:
    """Its folder; where it is neither here nor to be had, the test is skipped."""
    try:
        return models.resolve("smollm2")
    except StarlingError as error:
        pytest.skip(f"the model cannot be fetched: {error}")


def tuned(folder: Path) -> str:
    """As `tune` leaves it, in `folder`: its last blocks moved, saved from the network that samples."""
    policy = Policy(models.load_policy(fetched(), torch.bfloat16), 6)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in policy.trained.values():
            weight += 0.1 * weight.std() * torch.randn_like(weight)
    policy.sync()
    policy.save(folder)
    return str(folder)
