"""What an attacker teaches, in batches, and the training loop that all such attackers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from tqdm.auto import tqdm

from lib.attacks.target import ReadOut, Target
from lib.edit.losses import Sampler, Step, losses, make_step
from lib.facts.formats import encode
from lib.model.packing import Pack, Prompts
from lib.model.runner import Runner


@dataclass(frozen=True)
class Lesson:
    """What an attacker trains on, in batches.

    prompts: taught facts, then facts kept as they are, None where only text is taught; targets:
    (n_prompts,) true answers; batches: what a step takes of the three, drawn by samplers; taught:
    are there taught facts among them?
    """

    prompts: Prompts | None
    targets: torch.Tensor
    samplers: tuple[Sampler, Sampler, Sampler]
    batches: tuple[int, int, int]
    taught: bool

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
        sizes = ("batch_facts", "batch_retain", "batch_passages")
        batches = tuple(getattr(settings, size, 0) for size in sizes)
        return Lesson(prompts, targets, samplers, batches, n > 0)

    def asking(self, prompts: Prompts) -> Lesson:
        """The same with other wordings of its prompts."""
        return replace(self, prompts=prompts)

    def step(self) -> Step:
        """The next batch."""
        drawn = [draw(size) for draw, size in zip(self.samplers, self.batches)]
        if self.prompts is None:
            return Step(Pack(None, tuple(drawn[2])), self.targets, 0)
        return make_step(self.prompts, drawn[0], drawn[1], self.targets, drawn[2])


def teach(
    target: Target,
    runner: Runner,
    lesson: Lesson,
    optimizer: torch.optim.Optimizer,
    settings,
    factor: Callable[[int], float] = lambda step: 1.0,
) -> Iterator[ReadOut]:
    """Train the optimizer's weights on the lesson: one read-out after each step of
    `settings.read_at`, the last after `settings.steps` or where the attacker has `enough`.

    factor: of the learning rate, by step. Gradients are clipped at norm 1.
    """
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    spent = {"trained": sum(w.numel() for w in weights), "taught": lesson.taught}
    for step in tqdm(range(settings.steps + 1), desc="teaching", leave=False):
        if step in settings.read_at:
            rows = target.read(runner)
            yield ReadOut(rows, step, steps=step, **spent)
        if step == settings.steps or step in settings.read_at and step and _enough(rows, settings):
            return
        with target.work.step():
            _dropout(runner.model, True)
            loss = sum(losses(runner, lesson.step()).values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            _dropout(runner.model, False)


def _enough(rows, settings) -> bool:
    """Is as much of the taught half answered correctly as the attacker wants?"""
    taught = rows[rows.split == "forget_train"]
    right = (taught.answer == taught.true).mean()
    return settings.enough is not None and bool(right >= settings.enough)


def cosine(steps: int):
    """Learning-rate factor by step: from 1 to 0 along half a cosine, no warm-up (section 8.4)."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))


def _dropout(model, on: bool) -> None:
    """Switch the adapters' dropout only: the model itself stays in evaluation mode."""
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train(on)
