"""The published "soft prompt": an adapter on the embedding output, trained on the taught half.

A projection of every token asks 15 learned vectors by one-head attention; what they answer is added
to the token's embedding, clipped to a norm (section 8.5). It has about five times the square of the
model's width as weights and sees every token, so it is closer to fine-tuning than to a prompt. An
option beside `soft_prompt`, which is the default.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lib.attacks.lesson import Lesson, teach
from lib.attacks.target import ReadOut, Target
from lib.config.blocks import Teaching
from lib.config.errors import Count, Positive
from lib.model.hooks import after, hooked
from lib.model.packing import Pack
from lib.model.runner import Runner

SEES = "gradients with respect to its own weights; true answers of the taught half, retained facts"
BUDGET = "steps"
ORACLE = False


class Settings(Teaching):
    """memory: learned vectors; radius: largest norm of what is added (published: 6); lr: of AdamW
    (published: 1e-5, 128 steps of 16 facts)."""

    memory: Count
    radius: Positive


class Adapter(nn.Module):
    """What is added to embeddings (1, T, width); nothing at first, the output starts at zero."""

    def __init__(self, width: int, memory: int, radius: float):
        super().__init__()
        self.memory = nn.Parameter(torch.randn(1, memory, width) / width**0.5)
        self.ask = nn.Linear(width, width)
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)
        nn.init.zeros_(self.attention.out_proj.weight)
        self.radius = radius

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings with the adapter's answer added."""
        asked = self.ask(embedding)
        added, _ = self.attention(asked, self.memory, self.memory, need_weights=False)
        size = added.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return embedding + added * (self.radius / size).clamp(max=1)


class Adapted(Runner):
    """A Runner whose embeddings pass through an adapter first."""

    def __init__(self, model, adapter: Adapter):
        super().__init__(model)
        self.adapter = adapter

    def hidden(self, pack: Pack, rows: Tensor) -> Tensor:
        """As `Runner.hidden`, with gradients with respect to the adapter."""

        def adapt(module, args, output):
            return self.adapter(output.float()).to(output.dtype)

        with hooked(after(self.model.get_input_embeddings(), adapt)):
            return super().hidden(pack, rows)


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """An adapter that learns the taught half's answers and keeps retained ones."""
    model = target.loaded.model
    torch.manual_seed(target.seed)
    width = model.get_input_embeddings().weight.shape[1]
    adapter = Adapter(width, settings.memory, settings.radius).to(model.device)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=settings.lr)
    lesson = Lesson.of(target, "half", settings)
    yield from teach(target, Adapted(model, adapter), lesson, optimizer, settings)
