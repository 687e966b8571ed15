"""Reinforcement learning from AI feedback: rank answers, fit a K-wise reward model, tune a policy, measure it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starling.reward import load_reward_model

__all__ = ["__version__", "load_reward_model"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for."""
    if name == "load_reward_model":
        from starling.reward import load_reward_model

        return load_reward_model
    raise AttributeError(f"module 'starling' has no attribute {name!r}")
