"""The closed-form edit: exact on its keys, least elsewhere, rank one for one fact."""

from __future__ import annotations

import pytest
import torch

from lib.config.blocks import Rome
from lib.edit import rome
from lib.edit.train import EditData, mean_strength
from lib.model.anatomy import OUTPUT_MATRICES
from lib.model.components import Component, Localization, single_matrices
from lib.model.runner import Runner

SETTINGS = dict(lr=0.3, steps=200, value_strength=0.9, decay=0.0, ridge=0.01, strength=0.8)


def settings(**changes) -> Rome:
    return Rome(**SETTINGS | changes)


def random(*shape, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(d: int) -> torch.Tensor:
    x = random(4 * d, d, seed=9)
    return x.T @ x / len(x)


def test_every_key_gets_what_is_to_be_added():
    keys, written = random(5, 12), random(5, 7, seed=1)
    change = rome.least_change(keys, written, moment(12))
    torch.testing.assert_close(keys @ change.T, written, atol=1e-4, rtol=1e-4)


def test_one_fact_gives_the_rank_one_edit():
    k, d, c = random(1, 12), random(1, 7, seed=1), moment(12)
    change = rome.least_change(k, d, c)
    direction = torch.linalg.solve(c, k[0])
    expected = torch.outer(d[0], direction) / (direction @ k[0])
    torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-5)
    assert torch.linalg.matrix_rank(change) == 1


def test_no_other_exact_edit_moves_other_keys_less():
    keys, written, c = random(3, 12), random(3, 7, seed=1), moment(12)
    change = rome.least_change(keys, written, c)
    cost = torch.trace(change @ c @ change.T)
    basis = torch.linalg.svd(keys).Vh[3:]  # directions that no key sees
    for seed in range(5):
        other = change + 0.1 * random(7, 9, seed=seed) @ basis
        torch.testing.assert_close(keys @ other.T, written, atol=1e-4, rtol=1e-4)
        assert torch.trace(other @ c @ other.T) > cost


def output_matrix(model, layer: int) -> Localization:
    found = [
        c
        for c in single_matrices(model)
        if (c.kind, c.layer) == ("mlp", layer) and c.matrix in OUTPUT_MATRICES
    ]
    assert len(found) == 1
    return Localization("rome", tuple(found), 1, 0)


@pytest.fixture
def lesson(pupil, known, known_split):
    changed = [known[i] for i in known_split.forget[:2]]
    kept = [known[i] for i in known_split.retain_train]
    data = EditData.of(pupil.tokenizer, changed, kept, [(2, 5, 6, 7), (2, 8, 9)])
    return data, [f.subject_positions[-1] for f in changed + kept]


def test_the_new_answer_is_given_after_one_change(pupil, lesson):
    data, subjects = lesson
    start = mean_strength(Runner(pupil.model), data)
    where = output_matrix(pupil.model, 0)
    before = {n: p.detach().clone() for n, p in pupil.model.named_parameters()}
    result = rome.edit(pupil.model, where, data, subjects, settings())
    assert start < 0.2 and result.strength > 0.8 and result.reached
    assert result.strength == pytest.approx(mean_strength(Runner(pupil.model), data), rel=1e-5)
    changed = {n for n, p in pupil.model.named_parameters() if not torch.equal(p, before[n])}
    assert len(changed) == 1 and ".0." in changed.pop()
    assert 0 < result.steps < 200 and result.log.strength.iloc[-1] > result.log.strength.iloc[0]


def test_the_change_has_as_many_ranks_as_facts(fresh, family, records):
    loaded = fresh(family)
    data = EditData.of(loaded.tokenizer, records[:2], records[5:15], [(1, 2, 3, 4, 5)])
    subjects = [f.subject_positions[-1] for f in records[:2] + records[5:15]]
    where = output_matrix(loaded.model, 2)
    (parameter,) = single_matrices(loaded.model)[where.components[0]].values()
    before = parameter.detach().clone()
    rome.edit(loaded.model, where, data, subjects, settings(steps=3))
    singular = torch.linalg.svdvals((parameter - before).double())
    assert singular[1] > 1e-9 and singular[2] < 1e-4 * singular[0]


def test_whole_layers_are_refused(fresh, middle, data, refuses):
    with refuses(ValueError, "'middle' is no single output matrix", "`method: rome`"):
        rome.edit(fresh("llama").model, middle, data, [0], settings())
    attention = Localization("odd", (Component("attention", 1, "o_proj"),), 1, 0)
    with refuses(ValueError, "'odd' is no single output matrix"):
        rome.edit(fresh("llama").model, attention, data, [0], settings())


def test_it_can_forget(pupil, known, known_split):
    changed = [known[i] for i in known_split.forget[:2]]
    kept = [known[i] for i in known_split.retain_train]
    data = EditData.of(pupil.tokenizer, changed, kept, [(2, 5, 6, 7)], forget=True)
    subjects = [f.subject_positions[-1] for f in changed + kept]
    start = mean_strength(Runner(pupil.model), data)
    result = rome.edit(pupil.model, output_matrix(pupil.model, 0), data, subjects, settings())
    assert start < 0.3 and result.strength > 0.8
