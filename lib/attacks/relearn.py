"""Relearning: fine-tune the edited model and watch whether the old answers come back.

What is taught: half of the edited facts with their *true* answers (`half`), facts of the same kind
that were never edited (`related`), or plain text (`text`, what anybody may do to a model without
meaning harm). What is trained: low-rank adapters (LoRA) on every linear layer of the blocks, or,
with `rank` null, all their weights. If the other half comes back too, the edit only masked it. An
attack that teaches counts only if it succeeded (section 8.4, `score_card.gates`); a failed attack
is no sign of resistance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from tqdm.auto import tqdm

from lib.attacks.target import Level, Target
from lib.components import blocks, matrices
from lib.config import Relearn
from lib.edit.losses import Sampler, Step, losses, make_step
from lib.facts.formats import encode
from lib.packing import Pack, Prompts, Runner

SEES = "all weights; true answers of the taught half, retained facts, text"
BUDGET = "steps"
ORACLE = False
Settings = Relearn


@dataclass(frozen=True)
class Lesson:
    """What an attacker trains on, in batches.

    prompts: taught facts, then facts kept as they are, None where only text is taught; targets:
    (n_prompts,) true answers; batches: what a step takes of the three, drawn by samplers.
    """

    prompts: Prompts | None
    targets: torch.Tensor
    samplers: tuple[Sampler, Sampler, Sampler]
    batches: tuple[int, int, int]

    @staticmethod
    def of(target: Target, teach: str, settings) -> Lesson:
        """AssertionError if a new answer entered what is taught; settings: with batch_facts,
        batch_retain and, if text is used, batch_passages."""
        taught = target.taught if teach == "half" else []
        kept = [target.facts[i] for i in target.split.retain_train] if teach != "text" else []
        text = target.other_text if teach == "text" else target.passages
        targets = torch.tensor([f.true_token for f in taught + kept], dtype=torch.long)
        assert not any(f.edit_token == t for f, t in zip(taught, targets)), (
            "edit target in the attack's data"
        )
        facts = taught + kept
        prompts = encode(target.loaded.tokenizer, [f.prompt for f in facts]) if facts else None
        n, seed = len(taught), target.seed
        samplers = (
            Sampler(range(n), seed),
            Sampler(range(n, len(facts)), seed + 1),
            Sampler(text, seed + 2),
        )
        batches = (settings.batch_facts, settings.batch_retain)
        return Lesson(
            prompts, targets, samplers, (*batches, getattr(settings, "batch_passages", 0))
        )

    def asking(self, prompts: Prompts) -> Lesson:
        """The same with other wordings of its prompts."""
        return replace(self, prompts=prompts)

    def step(self) -> Step:
        """The next batch."""
        drawn = [draw(size) for draw, size in zip(self.samplers, self.batches)]
        if self.prompts is None:
            return Step(Pack(None, tuple(drawn[2])), self.targets, 0)
        return make_step(self.prompts, drawn[0], drawn[1], self.targets, drawn[2])


def attack(target: Target, settings: Relearn) -> Iterator[Level]:
    """One level per read-out step; the model is as before when the attack is over."""
    model, runner = target.loaded.model, Runner(target.loaded.model)
    lesson = Lesson.of(target, settings.teach, settings)
    with trained_weights(model, settings, target.seed) as weights:
        optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(settings.steps))
        size = sum(w.numel() for w in weights)
        for step in tqdm(range(settings.steps + 1), desc="relearning", leave=False):
            if step in settings.read_at:
                spent = {"trained": size, "steps": step, "taught": settings.teach == "half"}
                yield Level(target.read(runner), step, **spent)
            if step == settings.steps:
                return
            _dropout(model, True)
            loss = sum(losses(runner, lesson.step()).values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            _dropout(model, False)


@contextmanager
def trained_weights(model, settings: Relearn, seed: int) -> Iterator[list[torch.nn.Parameter]]:
    """Weights to train: new adapters, or with rank null all matrices of the blocks; undone at the
    end."""
    if settings.rank is not None:
        with adapters(model, settings, seed) as weights:
            yield weights
        return
    weights = [p for parameters in matrices(model).values() for p in parameters.values()]
    before = [w.detach().clone() for w in weights]
    try:
        yield [w.requires_grad_(True) for w in weights]
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before):
                weight.requires_grad_(False).copy_(value)
                weight.grad = None


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


def cosine(steps: int):
    """Learning-rate factor by step: from 1 to 0 along half a cosine, no warm-up (section 8.4)."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))


def _dropout(model, on: bool) -> None:
    """Switch the adapters' dropout only: the model itself stays in evaluation mode."""
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train(on)
