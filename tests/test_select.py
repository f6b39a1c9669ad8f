"""Choosing components: exact budgets, repeatable draws, controls that are what they claim."""

from __future__ import annotations

import pandas
import pytest
import torch
from conftest import edit_settings

from lib.config.blocks import METHODS, LocalizationSettings
from lib.edit.train import EditData, train
from lib.localize.scores import jaccard
from lib.localize.select import (
    DEPTH_TOLERANCE,
    MAX_OVERLAP,
    RANKED,
    UNMATCHED,
    fill,
    last_mlps,
    mean_depth,
    select,
    select_all,
)
from lib.model.components import Component, Localization, single_matrices, unit_sizes
from lib.model.weights import trainable

N_LAYERS = 18
LOOKUP = [2, 3, 4, 5]
EVEN = {Component("mlp", i): 100 for i in range(N_LAYERS)}
EVEN |= {Component("attention", i): 30 for i in range(N_LAYERS)}
# A model whose layers grow: equal numbers of layers are not equal numbers of weights.
UNEVEN = {c: n + 10 * c.layer for c, n in EVEN.items()}
# Every layer of UNEVEN in parts of different size, as `components.unit_sizes` gives them.
PARTS = {
    "mlp": {"gate": 0.3, "up": 0.3, "down_proj": 0.4},
    "attention": {"q": 0.4, "k": 0.1, "v": 0.1, "o": 0.4},
}
UNITS = UNEVEN | {
    Component(c.kind, c.layer, name): round(n * share)
    for c, n in UNEVEN.items()
    for name, share in PARTS[c.kind].items()
}
MATCHED = {
    "fact-lookup": {},
    "random-mlps": {},
    "depth-matched-mlps": {},
    "mlp-window": {"start": 9},
}


def chosen(method: str, weights=EVEN, lookup=LOOKUP, seed=0, swapped=None, effects=None, **more):
    settings = LocalizationSettings(method=method, **more)
    return select(method, settings, weights, lookup, seed, effects, swapped)


@pytest.mark.parametrize("weights", [EVEN, UNEVEN, UNITS], ids=["even", "uneven", "units"])
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
    found = chosen("all-mlps", unit_sizes(loaded.model), [1, 2])
    counted = [
        p.numel() for n, p in loaded.model.named_parameters() if ".mlp." in n and p.ndim == 2
    ]
    assert found.weights == sum(counted)
    assert found.budget == 0


def test_nonlocalized_holds_every_matrix_but_the_embeddings(loaded):
    found = chosen("nonlocalized", unit_sizes(loaded.model), [1, 2])
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


@pytest.mark.parametrize("method", [*MATCHED, "all-mlps", "nonlocalized"])
def test_single_matrices_do_not_change_the_choice_of_layers(method):
    """Sizes with and without single matrices: only `random` looks at them."""
    one, two = (chosen(method, w, **MATCHED.get(method, {})) for w in (UNEVEN, UNITS))
    assert one == two and not any(c.matrix for c in one.components)


# --- layers ranked by effect -----------------------------------------------------------------


def effect_rows() -> pandas.DataFrame:
    """Two heads and an MLP per layer; attention 7 and MLPs 9, 3 and 12 have the largest effects."""
    large = {("head", 7): 5.0, ("mlp", 9): -4.0, ("mlp", 3): 3.0, ("mlp", 12): 2.0, ("mlp", 0): 1.0}
    rows = [
        {"kind": kind, "layer": layer, "head": head, "effect": large.get((kind, layer), 0.01)}
        for layer in range(N_LAYERS)
        for kind, head in (("head", 0), ("head", 1), ("mlp", -1))
    ]
    return pandas.DataFrame(rows)


@pytest.mark.parametrize("method", RANKED)
def test_ranked_sets_take_the_largest_effects_until_the_budget(method):
    rows = effect_rows()
    effects = {m: rows if m == method else rows.assign(effect=0.0) for m in RANKED}
    found = chosen(method, UNITS, effects=effects)
    assert found.layers("attention") == [7]
    assert found.layers("mlp") == [3, 9, 12]
    only = chosen(method, UNITS, effects=effects, mlps_only=True)
    assert only.layers("mlp") == [3, 9, 12] and not only.layers("attention")
    for s in (found, only):
        assert s.weights >= s.budget == sum(UNEVEN[Component("mlp", i)] for i in LOOKUP)


# --- single matrices at random ---------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_random_draws_single_matrices_just_past_the_budget(seed):
    found = chosen("random", UNITS, seed=seed)
    assert all(c.matrix for c in found.components)
    assert len(set(found.components)) == len(found.components)
    assert found.budget == sum(UNEVEN[Component("mlp", i)] for i in LOOKUP)
    assert found.weights == sum(UNITS[c] for c in found.components)
    assert 0 <= found.weights - found.budget < max(UNITS[c] for c in found.components)


def test_random_draws_in_a_model_are_one_matrix_over_at_most(loaded):
    weights = unit_sizes(loaded.model)
    for draw in range(5):
        found = chosen("random", weights, [1, 2], draw=draw)
        assert set(found.components) <= set(single_matrices(loaded.model))
        over = found.weights - found.budget
        assert 0 <= over < max(weights[c] for c in found.components)


def test_every_kind_of_matrix_and_every_layer_is_drawn():
    """The gate too, which the published code never drew."""
    drawn = [c for d in range(30) for c in chosen("random", UNITS, draw=d).components]
    for kind, names in PARTS.items():
        assert {c.matrix for c in drawn if c.kind == kind} == set(names)
        assert {c.layer for c in drawn if c.kind == kind} == set(range(N_LAYERS))


def test_random_matrices_favour_no_kind():
    draws = [chosen("random", UNITS, draw=d).components for d in range(200)]
    count = pandas.Series([c.matrix for components in draws for c in components]).value_counts()
    assert set(count.index) == {n for names in PARTS.values() for n in names}
    assert count.max() / count.min() < 1.4


def test_random_draws_depend_on_seed_and_draw_alone():
    first = chosen("random", UNITS)
    mixed = dict(reversed(UNITS.items()))
    settings = LocalizationSettings(method="random")
    assert select("random", settings, mixed, LOOKUP, 0) == first
    assert select("other", settings, UNITS, LOOKUP, 0).components == first.components
    sets = {chosen("random", UNITS, seed=s, draw=d).components for s in range(3) for d in range(3)}
    assert len(sets) == 9


def changed_by(model, localization: Localization, data: EditData) -> set[str]:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, localization, data, edit_settings(max_steps=2), seed=0)
    return {n for n, p in model.named_parameters() if not torch.equal(before[n], p)}


@pytest.mark.parametrize("draw", [0, 1])
def test_training_a_random_set_changes_its_matrices_only(family, fresh, data, draw):
    model = fresh(family).model
    found = chosen("random", unit_sizes(model), [1], draw=draw)
    expected = {n for c in found.components for n in single_matrices(model)[c]}
    assert len(expected) == len(found.components)
    weights = trainable(model, found)
    assert set(weights) == expected
    assert sum(p.numel() for p in weights.values()) == found.weights
    assert changed_by(model, found, data) == expected


def test_a_layer_and_a_single_matrix_train_side_by_side(fresh, data):
    model = fresh("llama").model
    pair = (Component("mlp", 4), Component("attention", 2, "v_proj"))
    weights = sum(unit_sizes(model)[c] for c in pair)
    names = {f"model.layers.4.mlp.{m}_proj.weight" for m in ("gate", "up", "down")}
    names.add("model.layers.2.self_attn.v_proj.weight")
    assert changed_by(model, Localization("pair", pair, weights, 0), data) == names


# --- another task's layers -------------------------------------------------------------------


@pytest.mark.parametrize("swapped", [[7, 8], [0], [9, 10, 11, 12, 13, 14]])
def test_swapped_layers_are_taken_as_they_are(swapped):
    found = chosen("fact-lookup-swapped", UNITS, swapped=swapped)
    assert found.components == tuple(Component("mlp", i) for i in swapped)
    assert found.weights == sum(UNEVEN[Component("mlp", i)] for i in swapped)
    assert (found.budget, found.overshoot) == (0, 0)


@pytest.mark.parametrize("method", METHODS)
def test_sets_have_a_budget_unless_they_are_known_to_have_none(method):
    more = {"mlp-window": {"start": 3}, "literal": {"mlps": [3]}}.get(method, {})
    effects = dict.fromkeys(RANKED, effect_rows())
    found = chosen(method, UNITS, swapped=[7, 8], effects=effects, **more)
    assert (found.budget == 0) == (method in UNMATCHED)
    assert found.note and found.components == tuple(sorted(found.components))


@pytest.mark.parametrize("start, layer", [(None, LOOKUP[len(LOOKUP) // 2]), (7, 7), (0, 0)])
def test_a_closed_form_edit_gets_one_output_matrix(start, layer):
    found = chosen("rome", UNITS, start=start)
    assert found.components == (Component("mlp", layer, "down_proj"),)
    assert found.weights == UNITS[found.components[0]] and found.budget == 0


def test_a_closed_form_edit_beyond_the_model_is_refused(refuses):
    with refuses(ValueError, "starts at layer 99", "correct it"):
        chosen("rome", UNITS, start=99)


# --- all of them -----------------------------------------------------------------------------

SETS = {
    "fact-lookup": {"method": "fact-lookup"},
    "window": {"method": "mlp-window", "start": LOOKUP[0]},  # the same layers
    "single": {"method": "literal", "mlps": [9]},
    "also-single": {"method": "literal", "mlps": [9]},
    "closed": {"method": "rome", "start": 9},
    "ranked": {"method": "causal-tracing"},
    "spare": {"method": "mlp-window", "start": LOOKUP[0]},
}


@pytest.fixture
def choose_all(settings):
    """Chooses SETS: choose_all(compare, of the sweep of each task) -> {name: localization}."""

    def run(compare, sweep, task="one", effects=None, **more):
        sweep = settings.sweep.model_copy(update={"localizations": sweep})
        blocks = {n: LocalizationSettings(**block) for n, block in (SETS | more).items()}
        changed = {"localizations": blocks, "compare": compare, "sweep": sweep}
        mine = settings.model_copy(update=changed)
        return select_all(mine, task, UNITS, LOOKUP, 0, effects or {}, None)

    return run


def equal(sets) -> dict[str, str]:
    return {name: chosen.equals for name, chosen in sets.items() if chosen.equals}


def test_an_edit_of_the_sweep_equals_one_that_is_compared(choose_all):
    assert equal(choose_all(["fact-lookup"], {"one": ["window"]})) == {"window": "fact-lookup"}
    assert equal(choose_all(["window"], {"one": ["fact-lookup"]})) == {"fact-lookup": "window"}


def test_edits_of_a_sweep_equal_each_other_in_its_order(choose_all):
    names = ["single", "window", "also-single", "closed"]
    found = equal(choose_all(["fact-lookup"], {"one": names}))
    assert found == {"window": "fact-lookup", "also-single": "single"}
    found = equal(choose_all(["fact-lookup"], {"one": names[::-1]}))
    assert found == {"window": "fact-lookup", "single": "also-single"}


def test_what_a_task_does_not_edit_equals_nothing(choose_all):
    sweep = {"one": ["single"], "other": ["window", "also-single"]}
    assert equal(choose_all(["fact-lookup"], sweep)) == {}
    assert equal(choose_all(["fact-lookup"], sweep, "other")) == {"window": "fact-lookup"}
    assert equal(choose_all(["fact-lookup"], sweep, "a task without a sweep")) == {}


def test_training_a_matrix_and_editing_it_in_closed_form_are_two_edits(choose_all, monkeypatch):
    matrix = (Component("mlp", 9, "down_proj"),)
    monkeypatch.setattr(
        "lib.localize.select.select", lambda name, *_: Localization(name, matrix, 1, 0)
    )
    more = {"twin": {"method": "rome", "start": 9}, "drawn": {"method": "random"}}
    found = choose_all(["closed", "twin"], {"one": ["drawn", "single"]}, **more)
    assert equal(found) == {"twin": "closed", "single": "drawn"}


def test_a_set_whose_ranking_is_missing_is_named_and_left_out(choose_all, capsys):
    found = choose_all(["fact-lookup", "ranked"], {"one": ["ranked"]})
    assert "ranked" not in found and list(found) == [n for n in SETS if n != "ranked"]
    assert "ranked is left out" in capsys.readouterr().out
    effects = dict.fromkeys(RANKED, effect_rows())
    assert "ranked" in choose_all(["fact-lookup"], {}, effects=effects)


@pytest.mark.parametrize("number", [1, 2, 6])
def test_the_last_mlps_are_those_below_the_output(loaded, number):
    found = last_mlps(loaded.model, number)
    assert found.layers("mlp") == list(range(6 - number, 6)) and not found.layers("attention")
    weights = sum(p.numel() for p in trainable(loaded.model, found).values())
    assert found.weights == weights > 0 == found.budget and found.first_layer == 6 - number


def test_layers_above_the_tenth_come_last_too(monkeypatch):
    monkeypatch.setattr("lib.localize.select.unit_sizes", lambda model: UNITS)
    assert last_mlps(None, 2).layers("mlp") == [16, 17]
