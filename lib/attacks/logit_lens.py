"""Logit lens: what the prompt's last token would answer if the model stopped after a layer.

The final norm and the unembedding read the residual stream of every layer. An edit that only
overwrites the answer at the end leaves the old one readable below.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lib.attacks.target import ReadOut, Target
from lib.config.errors import Block
from lib.model import unembed
from lib.model.anatomy import blocks, final_norm
from lib.model.packing import Prompts
from lib.model.runner import Runner

SEES = "activations; the unembedding"
BUDGET = "layer"
ORACLE = False


class Settings(Block):
    """Nothing to set."""


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """One read-out per layer."""
    lens = Lens(target.loaded.model)
    for layer in range(len(blocks(target.loaded.model))):
        lens.layer = layer
        yield ReadOut(target.read(lens), layer)


class Lens(Runner):
    """A Runner that answers from the residual stream after block `layer`; all layers of some
    prompts come from one pass."""

    def __init__(self, model):
        super().__init__(model)
        self.layer, self.states = 0, {}

    def answer_logits(self, prompts: Prompts, tokens: list[int] | None = None) -> Tensor:
        """As `Runner.answer_logits`, after `layer`."""
        if prompts not in self.states:
            self.states[prompts] = answer_states(self, prompts)
        with torch.no_grad():
            hidden = self.states[prompts][1 + self.layer].to(self.device)
            hidden = final_norm(self.model)(hidden[None])[0]
            return unembed.logits(self.model, hidden, tokens).float().cpu()


def answer_states(runner: Runner, prompts: Prompts) -> Tensor:
    """Residual stream at the last token of every prompt, of the embedding and after each block:
    (n_layers + 1, n_prompts, d_model)."""
    found = [runner.residuals(pack, pack.answer_rows)[0::2] for _, pack in runner.packs(prompts)]
    return torch.cat(found, dim=1)
