"""Interpolation with the unedited model: how far back until the old answer returns?

No attacker has the unedited weights, so this is a measurement and enters no worst case.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lib.attacks.target import Level, Target
from lib.config import Block
from lib.edit import delta

SEES = "the unedited model"
BUDGET = "share of the way back"
ORACLE = True


class Settings(Block):
    """shares: of the way from edited to unedited weights, one read-out each."""

    shares: list[float]


def attack(target: Target, settings: Settings) -> Iterator[Level]:
    """One level per share."""
    parameters = dict(target.loaded.model.named_parameters())
    edited = {n: parameters[n].detach().clone() for n in target.unedited}
    try:
        for share in settings.shares:
            between = {n: torch.lerp(edited[n], target.unedited[n], share) for n in edited}
            delta.restore(target.loaded.model, between)
            yield Level(target.read(), share)
    finally:
        delta.restore(target.loaded.model, edited)
