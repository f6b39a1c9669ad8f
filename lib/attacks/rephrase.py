"""Asking in another wording: every format of the task, one after the other.

The attacker needs no training and no facts, only another wording. Whether a format counts is
decided on the unedited model (`formats.answerable`).
"""

from __future__ import annotations

from collections.abc import Iterator

from lib.attacks.target import ReadOut, Target
from lib.config.blocks import AttackFormats

SEES = "prompts"
BUDGET = "formats tried"
ORACLE = False
Settings = AttackFormats


def attack(target: Target, settings: AttackFormats) -> Iterator[ReadOut]:
    """One read-out per format, the training format first."""
    for i, name in enumerate(target.formats.kinds):
        rows = target.read(form=name)
        if len(rows):
            yield ReadOut(rows, i, name)
