"""Relearning: fine-tune the edited model and watch whether the old answers come back.

What is taught: half of the edited facts with their *true* answers (`half`), facts of the same kind
that were never edited (`related`), or plain text (`text`, what anybody may do to a model without
meaning harm). What is trained: low-rank adapters (LoRA) on every linear layer of the blocks, or,
with `rank` null, all their weights. If the held-out half comes back too, the edit only masked it.
An attack that teaches counts only if it succeeded (section 8.4, `lib.analysis.edits.failed`); a
failed attack is no sign of resistance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lib.attacks.lesson import Lesson, cosine, teach
from lib.attacks.target import ReadOut, Target
from lib.config.blocks import Relearn
from lib.model.anatomy import blocks
from lib.model.runner import Runner
from lib.model.weights import block_matrices, kept

SEES = "all weights; true answers of the taught half, retained facts, text"
BUDGET = "steps"
ORACLE = False
Settings = Relearn


def attack(target: Target, settings: Relearn) -> Iterator[ReadOut]:
    """One read-out per step of `read_at`; afterwards the model is as before."""
    model = target.loaded.model
    lesson = Lesson.of(target, settings.teach, settings)
    with trained_weights(model, settings, target.seed) as weights:
        optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=0.0)
        factor = cosine(settings.steps)
        yield from teach(target, Runner(model), lesson, optimizer, settings, factor)


@contextmanager
def trained_weights(model, settings: Relearn, seed: int) -> Iterator[list[torch.nn.Parameter]]:
    """Weights to train: new adapters, or with rank null all matrices of the blocks; undone at the
    end."""
    if settings.rank is not None:
        with adapters(model, settings, seed) as weights:
            yield weights
        return
    weights = block_matrices(model)
    with kept(weights):
        yield [w.requires_grad_(True) for w in weights.values()]


@contextmanager
def adapters(model, settings: Relearn, seed: int) -> Iterator[list[torch.nn.Parameter]]:
    """Trainable LoRA adapters (peft) in every linear layer of the blocks, taken out at the end."""
    from peft import LoraConfig, inject_adapter_in_model

    layers = blocks(model)
    before = {
        f"{name}.{child}": module
        for name, parent in layers.named_modules()
        for child, module in parent.named_children()
    }
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model)
    model.eval()
    try:
        yield [p for p in model.parameters() if p.requires_grad]
    finally:
        for path, module in before.items():
            parent, child = path.rsplit(".", 1)
            setattr(layers.get_submodule(parent), child, module)
        del model.peft_config
