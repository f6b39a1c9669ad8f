"""Magnitude pruning: the smallest weights of every matrix become zero."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from lib.attacks.perturb import levels
from lib.attacks.target import ReadOut, Target
from lib.config.errors import Block, Share, Some

SEES = "all weights"
BUDGET = "share of weights removed"
ORACLE = False


class Settings(Block):
    """shares: of every matrix, one read-out each."""

    shares: Some[Share]


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """One read-out per share."""
    return levels(target, {s: partial(pruned, share=s) for s in settings.shares})


def pruned(weight: Tensor, share: float) -> Tensor:
    """`weight` with its smallest entries, a `share` of all, set to zero."""
    count = int(share * weight.numel())
    if not count:
        return weight
    size = weight.abs()
    return torch.where(size <= size.flatten().kthvalue(count).values, 0.0, weight)
