"""Gaussian noise on the weights: does a small random change bring the old answer back?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from lib.attacks.perturb import levels
from lib.attacks.target import ReadOut, Target
from lib.config.errors import Block, Positive, Some

SEES = "all weights"
BUDGET = "standard deviation of the noise, in those of each matrix"
ORACLE = False


class Settings(Block):
    """sizes: of the noise, one read-out each."""

    sizes: Some[Positive]


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """One read-out per size, always with the same directions."""

    def shaking(size: float):
        return partial(shaken, size=size, generator=torch.Generator().manual_seed(target.seed))

    return levels(target, {size: shaking(size) for size in settings.sizes})


def shaken(weight: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """`weight` with noise of `size` times its own standard deviation."""
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    return weight + size * weight.std() * noise
