"""Interpolation with the unedited model: how far back until the old answer returns?

No attacker has the unedited weights, so this is a measurement and enters no worst case.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from lib.attacks.target import ReadOut, Target
from lib.config.errors import Block, Some
from lib.model.weights import kept, put

SEES = "the unedited model"
BUDGET = "share of the way back"
ORACLE = True


class Settings(Block):
    """shares: of the way from edited to unedited weights, one read-out each."""

    shares: Some[Annotated[float, Field(ge=0, le=1)]]


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """One read-out per share."""
    parameters = dict(target.loaded.model.named_parameters())
    with kept({n: parameters[n] for n in target.unedited}) as edited:
        for share in settings.shares:
            put(parameters, {n: edited[n].lerp(target.unedited[n], share) for n in edited})
            yield ReadOut(target.read(), share)
