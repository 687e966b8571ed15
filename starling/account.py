"""On whose account the calls of a benchmark go where a run asks for it: the run's endpoints, ledger and budget."""

from dataclasses import dataclass
from pathlib import Path

from starling.config import Config
from starling.limits import Allowance


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """`config` names endpoints, `name` stands in the ledger before what a call is for.

    No call leaves that `allowance` does not cover; without one nothing is asked, as in an estimate.
    """

    config: Config
    ledger: Path
    name: str
    allowance: Allowance | None = None

    def stage(self, purpose: str) -> str:
        """Under what the ledger has calls for this purpose."""
        return f"{self.name} {purpose}"
