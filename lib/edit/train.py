"""The one trainer: change some facts by training only a localization's matrices, to a matched
strength.

Every localization is trained with the same settings until the new answer has a mean probability
of at least `strength` on the facts to change, or the step limit is reached; that makes edits
comparable (section 5.4). The learning rate is constant: a schedule that ends at zero (as
published) would stop slow localizations before they get there. The layers below the first trained
one never change, so each fact's and passage's way through them is computed once. After training,
every weight outside the localization is asserted to be bit-identical.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.config.blocks import Edit
from lib.edit.losses import Sampler, Step, forgetting, make_step, mean, term_nll
from lib.facts.formats import Format, encode
from lib.facts.records import FactRecord
from lib.measure.answers import option_tokens
from lib.model.components import Localization
from lib.model.packing import Prompts
from lib.model.runner import Runner
from lib.model.weights import nothing_else_changes, trainable


@dataclass(frozen=True)
class EditData:
    """What an edit is trained on.

    prompts: facts to change, then facts to keep, in one wording or several; targets: (n_prompts,)
    answer tokens (of the first n_changed prompts the new answers, or with `forget` the true ones,
    which are made improbable); passages: training text as token ids.
    """

    prompts: Prompts
    targets: Tensor
    n_changed: int
    passages: list[tuple[int, ...]]
    forget: bool = False

    @staticmethod
    def of(
        tokenizer,
        changed: list[FactRecord],
        kept: list[FactRecord],
        passages: list[tuple[int, ...]],
        forget: bool = False,
        wordings: tuple[dict[str, Format], ...] = (),
    ) -> EditData:
        """Give `changed` facts their new answers (or take the true ones away) and let `kept` ones
        keep theirs, in the training format and in other `wordings`, each {relation: format}."""
        texts, targets, number = [], [], 0
        for facts in (changed, kept):
            wanted = "edit" if facts is changed and not forget else "true"
            texts += [f.prompt for f in facts]
            targets += [getattr(f, f"{wanted}_token") for f in facts]
            for forms in wordings:
                options = option_tokens(tokenizer, forms, facts)
                asked = [(f, tokens) for f, tokens in zip(facts, options) if tokens]
                texts += [forms[f.relation].ask(f) for f, _ in asked]
                targets += [tokens[getattr(f, wanted)] for f, tokens in asked]
            number = number or len(texts)
        prompts = encode(tokenizer, texts)
        return EditData(prompts, torch.tensor(targets), number, passages, forget)


@dataclass(frozen=True)
class EditResult:
    """How an edit went.

    log: one row per step; steps: how many were taken; strength at the end (see `strength_of`);
    reached: whether that is at least the strength asked for.
    """

    log: pandas.DataFrame
    steps: int
    strength: float
    reached: bool


def train(model, localization: Localization, data: EditData, settings: Edit, seed: int, *how):
    """Edit `model` in place; only the localization's matrices change (asserted). Arguments and
    result: see `fit`."""
    with nothing_else_changes(model, trainable(model, localization)):
        return fit(model, localization, data, settings, seed, *how)


def fit(
    model,
    localization: Localization,
    data: EditData,
    settings: Edit,
    seed: int,
    watch=lambda runner, step, strength: None,
    runner: Runner | None = None,
) -> EditResult:
    """Train until the strength or the step limit is reached.

    watch: called with the runner, the number of steps taken and the strength, whenever that is
    checked; runner: one that knows what lies below the localization's first layer already.
    """
    weights = list(trainable(model, localization).values())
    runner = runner or Runner(model, localization.first_layer)
    draw = _batches(data, settings, seed)
    for parameter in weights:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=0.0)
    whole = settings.batch_facts >= data.n_changed  # then every step sees the strength for free
    log, strength = [], 0.0
    bar = tqdm(total=settings.max_steps, desc=localization.name)
    while True:
        step, last = draw(), len(log) == settings.max_steps
        nll = term_nll(runner, step) if whole else None
        if whole or last or len(log) % settings.check_every == 0:
            strength = strength_of(nll["edit"], data) if whole else mean_strength(runner, data)
            bar.set_postfix(strength=f"{strength:.2f}")
            watch(runner, len(log), strength)
            if log:
                log[-1]["strength"] = strength
            if last or strength >= settings.strength:
                break
        terms = _update(optimizer, weights, nll or term_nll(runner, step), data.forget, settings)
        log.append({"step": len(log) + 1} | terms)
        bar.update()
    bar.close()
    for parameter in weights:
        parameter.requires_grad_(False)
    table = pandas.DataFrame(log, columns=["step", "edit", "retain", "text", "strength"])
    return EditResult(table, len(log), strength, strength >= settings.strength)


def _batches(data: EditData, settings: Edit, seed: int):
    """Draws the next training step."""
    changed, kept = range(data.n_changed), range(data.n_changed, len(data.prompts))
    samplers = (Sampler(changed, seed), Sampler(kept, seed + 1), Sampler(data.passages, seed + 2))
    sizes = settings.batch_facts, settings.batch_retain, settings.batch_passages

    def draw() -> Step:
        edit, retain, texts = (sampler(size) for sampler, size in zip(samplers, sizes))
        return make_step(data.prompts, edit, retain, data.targets, texts)

    return draw


def _update(optimizer, weights, nll: dict[str, Tensor], forget: bool, settings: Edit) -> dict:
    """One step down the objective; returns its terms before the step, in nats."""
    if forget:
        nll["edit"] = forgetting(nll["edit"])
    terms = {name: mean(part) for name, part in nll.items()}
    loss = sum(getattr(settings, f"weight_{name}") * term for name, term in terms.items())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    return {name: term.item() for name, term in terms.items()}


def mean_strength(runner: Runner, data: EditData) -> float:
    """Strength of the edit over all facts to change."""
    changed = range(data.n_changed)
    nll = runner.answer_nll(data.prompts.take(changed), data.targets[: data.n_changed])
    return strength_of(nll, data)


def strength_of(nll: Tensor, data: EditData) -> float:
    """Mean probability of the new answers over the whole vocabulary, or of anything but the true
    ones where these are to be forgotten; nll: -log p of the targets."""
    p = (-nll.detach()).exp().mean().item()
    return 1 - p if data.forget else p
