"""Choosing components: exact budgets, repeatable draws, controls that are what they claim."""

from __future__ import annotations

import pytest

from lib.components import Component, sizes
from lib.config import LocalizationSettings
from lib.localize.select import DEPTH_TOLERANCE, MAX_OVERLAP, fill, jaccard, mean_depth, select

N_LAYERS = 18
LOOKUP = [2, 3, 4, 5]
EVEN = {Component("mlp", i): 100 for i in range(N_LAYERS)}
EVEN |= {Component("attention", i): 30 for i in range(N_LAYERS)}
# A model whose layers grow: equal numbers of layers are not equal numbers of weights.
UNEVEN = {c: n + 10 * c.layer for c, n in EVEN.items()}
MATCHED = {
    "fact-lookup": {},
    "random-mlps": {},
    "depth-matched-mlps": {},
    "mlp-window": {"start": 9},
}


def chosen(method: str, weights=EVEN, lookup=LOOKUP, seed=0, **more):
    settings = LocalizationSettings(method=method, **more)
    return select(method, settings, weights, lookup, seed)


@pytest.mark.parametrize("weights", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", MATCHED)
def test_the_budget_is_never_undershot(method, seed, weights):
    found = chosen(method, weights, seed=seed, **MATCHED[method])
    budget = sum(weights[Component("mlp", i)] for i in LOOKUP)
    assert found.budget == budget
    assert found.weights == sum(weights[c] for c in found.components) >= budget
    assert found.overshoot == pytest.approx(found.weights / budget - 1)


@pytest.mark.parametrize("method", ["random-mlps", "mlp-window"])
def test_the_overshoot_is_less_than_one_layer(method):
    found = chosen(method, UNEVEN, **MATCHED[method])
    largest = max(UNEVEN[c] for c in found.components)
    assert 0 < found.overshoot < largest / found.budget


def test_fact_lookup_is_its_own_budget():
    found = chosen("fact-lookup")
    assert found.layers("mlp") == LOOKUP and not found.layers("attention")
    assert (found.budget, found.weights, found.overshoot) == (400, 400, 0)


@pytest.mark.parametrize("method", ["random-mlps", "depth-matched-mlps"])
def test_draws_repeat_and_differ(method):
    first = chosen(method, draw=0)
    assert chosen(method, draw=0) == first
    sets = {chosen(method, seed=s, draw=d).components for s in range(3) for d in range(3)}
    assert len(sets) > 5


@pytest.mark.parametrize("method", ["random-mlps", "depth-matched-mlps"])
def test_a_draw_does_not_depend_on_its_name(method):
    settings = LocalizationSettings(method=method, draw=1)
    one, two = (select(name, settings, EVEN, LOOKUP, 0).components for name in ("x", "y"))
    assert one == two


@pytest.mark.parametrize("method", MATCHED)
def test_matched_sets_are_mlps_without_repetition(method):
    found = chosen(method, **MATCHED[method])
    assert not found.layers("attention")
    assert len(set(found.components)) == len(found.components) == len(LOOKUP)


@pytest.mark.parametrize("lookup", [[2, 3, 4, 5], [0, 1, 2], [9, 10], [6]])
@pytest.mark.parametrize("seed", range(4))
def test_depth_matched_sets_are_as_deep_and_elsewhere(lookup, seed):
    found = chosen("depth-matched-mlps", lookup=lookup, seed=seed)
    reference = [Component("mlp", i) for i in lookup]
    distance = mean_depth(found.components, N_LAYERS) - mean_depth(reference, N_LAYERS)
    assert abs(distance) <= DEPTH_TOLERANCE
    overlap = jaccard(found.components, reference)
    assert overlap <= MAX_OVERLAP or "no set overlaps less" in found.note


def test_depth_matched_says_so_where_no_other_set_exists():
    found = chosen("depth-matched-mlps", lookup=[0])
    assert found.layers("mlp") == [0]
    assert "no set overlaps less than 1.00" in found.note


@pytest.mark.parametrize("start", [0, 7, N_LAYERS - len(LOOKUP)])
def test_windows_are_contiguous(start):
    found = chosen("mlp-window", start=start)
    assert found.layers("mlp") == list(range(start, start + len(LOOKUP)))


@pytest.mark.parametrize("start", [15, 18, 40])
def test_a_window_that_does_not_fit_says_where_it_could_start(start, refuses):
    with refuses(ValueError, "'mlp-window'", "at layer 14 at the latest", "correct its `start`"):
        chosen("mlp-window", start=start)


def test_all_mlps_hold_every_mlp_weight_of_the_model(loaded):
    found = chosen("all-mlps", sizes(loaded.model), [1, 2])
    counted = [
        p.numel() for n, p in loaded.model.named_parameters() if ".mlp." in n and p.ndim == 2
    ]
    assert found.weights == sum(counted)
    assert found.budget == 0


def test_nonlocalized_holds_every_matrix_but_the_embeddings(loaded):
    found = chosen("nonlocalized", sizes(loaded.model), [1, 2])
    everything = loaded.model.num_parameters()
    small = sum(p.numel() for p in loaded.model.parameters() if p.ndim < 2)
    model = loaded.model
    outside = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    if loaded.name == "gpt2":
        outside.add(model.base_model.wpe.weight)
    assert found.weights == everything - small - sum(p.numel() for p in outside)
    assert found.budget == 0


def test_literal_sets_are_what_params_list():
    found = chosen("literal", mlps=[5, 1], attention=[2])
    assert found.layers("mlp") == [1, 5] and found.layers("attention") == [2]
    assert (found.weights, found.budget) == (230, 0)


def test_a_literal_layer_the_model_lacks_is_refused(refuses):
    with refuses(ValueError, "'literal'", "layer 18", "correct it"):
        chosen("literal", mlps=[1, 18])


def test_fill_stops_at_the_budget():
    order = [Component("mlp", i) for i in (3, 1, 2)]
    assert fill(order, EVEN, 200) == (Component("mlp", 1), Component("mlp", 3))
    assert len(fill(order, EVEN, 201)) == 3


def test_fill_refuses_a_budget_out_of_reach(refuses):
    with refuses(ValueError, "3 components hold 300 weights", "budget of 301"):
        fill([Component("mlp", i) for i in range(3)], EVEN, 301)


def test_depth_runs_from_zero_to_one():
    assert mean_depth([Component("mlp", 0)], N_LAYERS) == 0
    assert mean_depth([Component("mlp", 17)], N_LAYERS) == 1
    assert mean_depth([Component("mlp", 0), Component("mlp", 17)], N_LAYERS) == 0.5


def test_overlap_is_shared_over_joint():
    assert jaccard([1, 2, 3], [2, 3, 4]) == 0.5
    assert jaccard([1], [2]) == 0 and jaccard([1], [1]) == 1
