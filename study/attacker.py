"""Experiment 5: an attacker who tries out on half of what it was told, then attacks for good.

The attacker knows the true answers of one half of the fold. It teaches eight of these with every
variant, looks what comes back of the other eight at every read-out, and takes the variant and the
number of steps that bring back most (ties: the first). Then it teaches all sixteen in that way. The
scored half enters nowhere before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pandas
import torch

from lib.attacks import relearn
from lib.attacks.lesson import Lesson, cosine, teach
from lib.attacks.target import ReadOut, Target
from lib.config.blocks import Relearn
from lib.model.components import Localization
from lib.model.runner import Runner
from lib.model.weights import kept, trainable
from study import design

EDITED = "edited-layers"  # the variant that trains only what the edit trained


@dataclass(frozen=True)
class Choice:
    """What the attacker settles on, and the share of its own eight that came back then."""

    variant: str
    steps: int
    back: float


def variants(base: Relearn) -> dict[str, Relearn]:
    """{name: settings of the attack}; attackers do not stop early, they choose the step."""
    listed = design.params()["attacker"]["variants"]
    return {name: base.but(enough=None, **changes) for name, changes in listed.items()}


def attack(target: Target, place: Localization, name: str, how: Relearn) -> Iterator[ReadOut]:
    """One variant's read-outs; afterwards the model is as before."""
    if name != EDITED:
        yield from relearn.attack(target, how)
        return
    model = target.loaded.model
    with _only(trainable(model, place)) as weights:
        lesson = Lesson.of(target, how.teach, how)
        optimizer = torch.optim.AdamW(weights, lr=how.lr, weight_decay=0.0)
        yield from teach(target, Runner(model), lesson, optimizer, how, cosine(how.steps))


@contextmanager
def _only(matrices: dict[str, torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    with kept(matrices):
        yield [parameter.requires_grad_(True) for parameter in matrices.values()]


def choose(target: Target, place: Localization, every: dict[str, Relearn], least: float) -> Choice:
    """The variant and the number of steps that bring back most in the rehearsal, among read-outs
    that leave an accuracy of at least `least` on retained facts; the first one if none does."""
    own, found = target.rehearsal(), []
    for name, how in every.items():
        for out in attack(own, place, name, how):
            if out.budget:
                spared = share(out.rows, "retain_test") >= least
                choice = Choice(name, int(out.budget), share(out.rows, "forget_heldout"))
                found.append((spared, choice.back, choice))
    return max(found, key=lambda each: each[:2])[2]  # max keeps the first of equals


def adapted(
    target: Target, place: Localization, every: dict[str, Relearn], least: float
) -> tuple[Choice, pandas.DataFrame]:
    """(what was chosen, rows of the final attack) against an edit that is on the model; the final
    attack stops at the chosen step, with the learning rate of the rehearsal."""
    found = choose(target, place, every, least)
    with closing(attack(target, place, found.variant, every[found.variant])) as outs:
        rows = next(out.rows for out in outs if out.budget == found.steps)
    return found, rows.assign(budget=found.steps)


def share(rows: pandas.DataFrame, split: str) -> float:
    """Share of the facts of a split that get their true answer."""
    mine = rows[rows.split == split]
    return float((mine.answer == mine.true).mean())
