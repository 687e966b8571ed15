"""Reinforcement learning from AI feedback: rank answers, fit a K-wise reward model, tune a policy, measure it."""

__version__ = "0.1.0"
