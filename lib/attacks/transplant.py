"""Transplant: put activations of the unedited model into the edited one, layer by layer.

Where a transplant at the name's last token brings the old answer back, the layers above would still
act on the old fact; where it no longer does, they have been changed, or have read the name before.
At the prompt's last token it shows from which layer on the answer is decided. No attacker has the
unedited model, so this is a measurement and enters no worst case.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lib.attacks.target import NEVER_KNOWN, ReadOut, Target
from lib.config.errors import Block, Count
from lib.facts.formats import encode
from lib.facts.records import FORGET
from lib.model import unembed
from lib.model.anatomy import blocks
from lib.model.nodes import PatchRunner
from lib.model.packing import Prompts

SEES = "the unedited model"
BUDGET = "layer"
ORACLE = True
ROLES = (*FORGET, NEVER_KNOWN)


class Settings(Block):
    """every: layers from one transplant to the next."""

    every: Count


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """One read-out per layer and token: `subject` (the name's last) and `answer` (the prompt's
    last)."""
    model = target.loaded.model
    asked = [f for facts in target.asked(ROLES).values() for f in facts]
    ids = target.loaded.tokenizer([f.prompt for f in asked]).input_ids
    last = {tuple(i): f.subject_positions[-1] for i, f in zip(ids, asked)}
    runner = Transplanting(model, last)
    with target.without_edit():
        prompts = encode(target.loaded.tokenizer, [f.prompt for f in asked])
        runner.remember(prompts, "donor")
    runner.remember(prompts, "receiver")
    for runner.where in ("subject", "answer"):
        for runner.layer in range(0, len(blocks(model)), settings.every):
            yield ReadOut(target.read(runner, roles=ROLES), runner.layer, runner.where)


class Transplanting(PatchRunner):
    """A Runner whose residual stream after block `layer` has the donor's values at one token of
    every prompt; last: {tokens of a prompt: position of the name's last}."""

    def __init__(self, model, last: dict[tuple[int, ...], int]):
        super().__init__(model)
        self.last, self.states = last, {"donor": {}, "receiver": {}}
        self.layer, self.where = 0, "subject"

    def remember(self, prompts: Prompts, who: str) -> None:
        """Keep the residual stream of every layer that the model, as it is, now has."""
        for _, pack in self.packs(prompts):
            self.states[who][pack.prompts] = self.read(pack).after

    @torch.no_grad()
    def answer_logits(self, prompts: Prompts, tokens: list[int] | None = None) -> Tensor:
        """As `Runner.answer_logits`, with the transplant; only for prompts it remembers."""
        found = []
        for _, pack in self.packs(prompts):
            rows = self._rows(pack).to(self.device)
            donor, receiver = (self.states[who][pack.prompts] for who in ("donor", "receiver"))
            hidden = receiver[self.layer].clone()
            hidden[rows] = donor[self.layer][rows]
            found.append(self.from_block(pack, self.layer + 1, hidden, pack.answer_rows))
        return unembed.logits(self.model, torch.cat(found), tokens).float().cpu()

    def _rows(self, pack) -> Tensor:
        if self.where == "answer":
            return pack.answer_rows
        whole = [pack.prompts.prefix + suffix for suffix in pack.prompts.suffixes]
        return pack.position_rows([self.last[tokens] for tokens in whole])
