"""Soft prompt: a few free vectors before every prompt, trained on the taught half.

A true soft prompt (section 8.5): the model is frozen, only the vectors learn, on true answers of
the taught half and of retained facts. The published attack, an adapter on the embedding with many
more numbers, is `prompt_adapter`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lib.attacks.inserted import Inserted, longer
from lib.attacks.lesson import Lesson, cosine, teach
from lib.attacks.target import ReadOut, Target
from lib.config.blocks import Teaching
from lib.config.errors import Count

SEES = "gradients with respect to its own vectors; true answers of the taught half, retained facts"
BUDGET = "steps"
ORACLE = False


class Settings(Teaching):
    """vectors: how many; lr: of Adam, in units of the embedding's mean size."""

    vectors: Count


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """Vectors that start as embeddings of random words and learn the taught half's answers."""
    model, tokenizer = target.loaded.model, target.loaded.tokenizer
    lesson = Lesson.of(target, "half", settings)
    generator = torch.Generator().manual_seed(target.seed)
    words = torch.randint(len(tokenizer), (settings.vectors,), generator=generator)
    vectors = model.get_input_embeddings()(words.to(model.device)).detach().float()
    size = vectors.norm(dim=1).mean() / vectors.shape[1] ** 0.5
    vectors.requires_grad_(True)
    optimizer = torch.optim.Adam([vectors], lr=settings.lr * size.item())
    runner = Inserted(target.loaded, tuple(words.tolist()), vectors)
    lesson = lesson.asking(longer(lesson.prompts, runner.tokens, runner.bos))
    yield from teach(target, runner, lesson, optimizer, settings, cosine(settings.steps))
