"""Weight masks: how few weights must be set to zero until facts are forgotten (section 6)?

Every weight w0 of a localization gets a score s, 1 at first, and the model computes with m * w0,
where the mask m is s between 0 and 1. Scores follow the gradient of the objective of `train`, each
in proportion to what moving its weight towards zero brings (dL/dm = w0 * dL/dw), with a momentum
and a step length in units of the first gradient: steps shrink as the objective is met. Only the
order of the scores is kept: the k weights of lowest score become zero and all others stay, which
gives forgetting against the number of weights removed. Departs from the paper, which trained the
weights themselves under a clamp and a penalty on their size: that order starts with weights that
are merely small.
"""

from __future__ import annotations

import pandas
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.config.blocks import WeightMasks
from lib.edit.losses import Sampler, forgetting, make_step, mean, term_nll
from lib.edit.train import EditData
from lib.facts.formats import Format
from lib.facts.records import FactRecord
from lib.measure.answers import score_in_formats
from lib.model.components import Localization
from lib.model.runner import Runner
from lib.model.weights import kept, trainable


def learn(
    model, localization: Localization, data: EditData, settings: WeightMasks, seed: int
) -> dict[str, Tensor]:
    """{matrix: scores of its shape}; the model is left as it was, bit for bit."""
    weights = trainable(model, localization)
    scores = {name: torch.ones_like(w) for name, w in weights.items()}
    moving = {name: torch.zeros_like(w) for name, w in weights.items()}
    runner = Runner(model, localization.first_layer)
    changed, others = range(data.n_changed), range(data.n_changed, len(data.prompts))
    samplers = (Sampler(changed, seed), Sampler(others, seed + 1), Sampler(data.passages, seed + 2))
    sizes = settings.batch_facts, settings.batch_retain, settings.batch_passages
    with kept(weights) as old:
        unit = 0.0
        for parameter in weights.values():
            parameter.requires_grad_(True)
        for _ in tqdm(range(settings.steps), desc=f"masks of {localization.name}"):
            edit, retain, texts = (draw(size) for draw, size in zip(samplers, sizes))
            step = make_step(data.prompts, edit, retain, data.targets, texts)
            slopes = _slopes(runner, step, data.forget, settings.weight_edit, weights)
            with torch.no_grad():
                slopes = [g * w for g, w in zip(slopes, old.values())]
                length = torch.sqrt(sum(g.pow(2).sum() for g in slopes)).item()
                unit = unit or length
                for name, slope in zip(weights, slopes):
                    moving[name].mul_(settings.momentum).add_(slope / max(length, unit))
                    scores[name].sub_(settings.step_length * moving[name])
                    weights[name].copy_(scores[name].clamp(0, 1) * old[name])
    return scores


def _slopes(runner: Runner, step, forget: bool, weight_edit: float, weights: dict) -> tuple:
    """Gradients of the objective with respect to the weights."""
    nll = term_nll(runner, step)
    if forget:
        nll["edit"] = forgetting(nll["edit"])
    loss = weight_edit * mean(nll["edit"]) + mean(nll["retain"]) + mean(nll["text"])
    return torch.autograd.grad(loss, list(weights.values()))


def removed(scores: dict[str, Tensor], old: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """{matrix: True where a weight is set to zero}: the `count` lowest scores below 1 of weights
    that are not zero anyway, fewer if there are fewer."""
    flat = torch.cat([s.flatten() for s in scores.values()])
    alive = torch.cat([old[name].flatten() != 0 for name in scores])
    order = torch.where(alive & (flat < 1), flat, torch.inf)
    count = min(count, int(torch.isfinite(order).sum()))
    chosen = torch.zeros_like(alive)
    chosen[torch.argsort(order, stable=True)[:count]] = True
    parts = chosen.split([s.numel() for s in scores.values()])
    return {name: part.view_as(s) for part, (name, s) in zip(parts, scores.items())}


@torch.no_grad()
def set_to_zero(weights: dict[str, Tensor], where: dict[str, Tensor]) -> None:
    """Remove weights in place; where: see `removed`."""
    for name, gone in where.items():
        weights[name][gone] = 0


def read_removals(
    loaded,
    orders: dict[str, tuple[Localization, dict[str, Tensor]]],
    counts: list[int],
    forms: dict[str, dict[str, Format]],
    facts: list[FactRecord],
) -> pandas.DataFrame:
    """Per-fact rows (see `answers.score_facts`) with columns localization and count: what is
    answered when the `count` weights of lowest score are zero; orders: {name: (set, scores)};
    forms: {format: {relation: format}}. The model is left as it was."""

    def ask() -> pandas.DataFrame:
        return score_in_formats(Runner(loaded.model), loaded.tokenizer, forms, facts)

    parts, unedited = [], ask()
    for name, (localization, scores) in orders.items():
        weights = trainable(loaded.model, localization)
        for count in tqdm(counts, desc=name):
            with kept(weights) as old:
                set_to_zero(weights, removed(scores, old, count))
                rows = ask() if count else unedited
            parts.append(rows.assign(localization=name, count=count))
    return pandas.concat(parts, ignore_index=True)
