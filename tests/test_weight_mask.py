"""Masks: nothing removed is the model itself, and what is removed first matters most."""

from __future__ import annotations

import pandas
import pytest
import torch

from lib.config.blocks import WeightMasks
from lib.edit import weight_mask
from lib.edit.train import EditData, mean_strength
from lib.measure.answers import score_in_formats
from lib.model.components import Component, Localization
from lib.model.runner import Runner
from lib.model.weights import fingerprint, kept, trainable

EARLY = Localization("early", (Component("mlp", 0), Component("mlp", 1)), 1, 1)
SETTINGS = dict(tasks=[], compare=[], weight_edit=1.0, steps=10, step_length=3.0, momentum=0.9)
SETTINGS |= dict(batch_facts=12, batch_retain=12, batch_passages=1, counts=[0])
KEYS = ["localization", "count"]


def settings(**changes) -> WeightMasks:
    return WeightMasks(**SETTINGS | changes)


@pytest.fixture
def lesson(pupil, known, known_split):
    changed, kept = (
        [known[i] for i in ids] for ids in (known_split.forget, known_split.retain_train)
    )
    return pupil.model, EditData.of(pupil.tokenizer, changed, kept, [], forget=True)


def originals(model, localization) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainable(model, localization).items()}


def test_learning_masks_leaves_the_model_as_it_was(fresh, family, data):
    model = fresh(family).model
    before = fingerprint(model)
    masks = weight_mask.learn(model, EARLY, data, settings(steps=3), seed=0)
    assert fingerprint(model) == before
    assert not any(p.requires_grad for p in model.parameters())
    assert masks.keys() == trainable(model, EARLY).keys()
    assert any((m < 1).any() for m in masks.values())


def test_nothing_removed_is_the_model_itself(lesson):
    model, data = lesson
    masks = weight_mask.learn(model, EARLY, data, settings(), seed=0)
    before = fingerprint(model)
    weights = trainable(model, EARLY)
    weight_mask.set_to_zero(weights, weight_mask.removed(masks, weights, 0))
    assert fingerprint(model) == before


def test_removal_can_be_undone(lesson):
    model, data = lesson
    masks = weight_mask.learn(model, EARLY, data, settings(), seed=0)
    before = fingerprint(model)
    weights = trainable(model, EARLY)
    with kept(weights) as old:
        where = weight_mask.removed(masks, old, 50)
        weight_mask.set_to_zero(weights, where)
        changed = fingerprint(model)
        assert changed != before
        assert {n for n in before if changed[n] != before[n]} <= set(where)
    assert fingerprint(model) == before


@pytest.mark.parametrize("count", [1, 7, 100])
def test_as_many_weights_are_removed_as_asked_for(lesson, count):
    model, data = lesson
    masks = weight_mask.learn(model, EARLY, data, settings(), seed=0)
    old = originals(model, EARLY)
    where = weight_mask.removed(masks, old, count)
    assert sum(int(w.sum()) for w in where.values()) == count
    gone = max(masks[n][w].max() for n, w in where.items() if w.any())
    assert gone <= min(masks[n][~w].min() for n, w in where.items())


def test_zero_weights_and_untouched_scores_are_not_counted():
    masks = {"a": torch.tensor([[0.0, 0.5]]), "b": torch.tensor([[1.0, 0.2, 0.2]])}
    old = {"a": torch.tensor([[0.0, 3.0]]), "b": torch.tensor([[1.0, 1.0, -1.0]])}
    two = weight_mask.removed(masks, old, 2)
    assert two["a"].tolist() == [[False, False]] and two["b"].tolist() == [[False, True, True]]
    one = weight_mask.removed(masks, old, 1)
    assert one["b"].tolist() == [[False, True, False]]
    every = weight_mask.removed(masks, old, 99)
    assert every["a"].tolist() == [[False, True]] and every["b"].sum() == 2


def test_learned_masks_forget_more_than_random_ones(lesson):
    model, data = lesson
    weights = trainable(model, EARLY)
    masks = weight_mask.learn(model, EARLY, data, settings(steps=20), seed=0)
    generator = torch.Generator().manual_seed(0)
    chance = {n: torch.rand(m.shape, generator=generator) for n, m in masks.items()}
    found = {}
    for name, order in (("learned", masks), ("random", chance)):
        others = range(data.n_changed, len(data.prompts))
        with kept(weights) as old:
            weight_mask.set_to_zero(weights, weight_mask.removed(order, old, 1500))
            found[name] = mean_strength(Runner(model), data)
            targets = data.targets[data.n_changed :]
            nll = Runner(model).answer_nll(data.prompts.take(others), targets)
        assert name == "random" or (-nll).exp().mean() > 0.9
    assert found["learned"] > found["random"] + 0.4


def test_removals_are_read_beside_the_unedited_model(pupil, known, known_split, short_catalogue):
    asked = [known[i] for i in known_split.forget]
    forms = {"training": short_catalogue.forms(short_catalogue.training)}
    some = {n: torch.rand(p.shape) for n, p in trainable(pupil.model, EARLY).items()}
    before = fingerprint(pupil.model)
    plain = score_in_formats(Runner(pupil.model), pupil.tokenizer, forms, asked)
    orders = {"a": (EARLY, some), "b": (EARLY, some)}
    rows = weight_mask.read_removals(pupil, orders, [0, 5000], forms, asked)
    assert fingerprint(pupil.model) == before
    found = {k: g[plain.columns].reset_index(drop=True) for k, g in rows.groupby(KEYS)}
    assert found.keys() == {(n, k) for n in "ab" for k in (0, 5000)}
    for name in "ab":
        pandas.testing.assert_frame_equal(found[name, 0], plain)
        assert not found[name, 5000].p_true.equals(plain.p_true)
