"""Rounding the weights: an edit smaller than a rounding step may vanish, the old answer may return.

Symmetric round-to-nearest in groups, each with its own largest weight as scale. Nobody needs to
mean harm for this: it is how models are shipped to small machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lib.attacks.perturb import levels
from lib.attacks.target import ReadOut, Target
from lib.config.errors import Block, Count, Some

SEES = "all weights"
BUDGET = "bits"
ORACLE = False


class Settings(Block):
    """bits: per weight, one read-out each; group: weights that share a scale."""

    bits: Some[Annotated[int, Field(ge=2, le=16)]]
    group: Count


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """One read-out per number of bits."""
    return levels(
        target, {b: partial(rounded, bits=b, group=settings.group) for b in settings.bits}
    )


def rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    """The nearest of 2^bits - 1 evenly spaced values, symmetric around 0, in every group of
    neighbours of a row (the last group of a row may be smaller)."""
    return torch.cat([_rounded(part, bits) for part in weight.split(group, dim=1)], dim=1)


def _rounded(part: Tensor, bits: int) -> Tensor:
    scale = part.abs().amax(1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
    return (part / scale).round() * scale
