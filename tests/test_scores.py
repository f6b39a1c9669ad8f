"""Layer scores, rankings and their stability."""

from __future__ import annotations

import numpy
import pandas
import pytest

from lib.localize.scores import (
    attributed,
    chance_jaccard,
    effects,
    first_layers,
    jaccard,
    layer_scores,
    over_halves,
    over_repeats,
    pooled,
    ranking,
    stability,
    traced,
)
from lib.model.components import Component

EFFECT = pandas.DataFrame(
    {
        "kind": ["head", "head", "mlp", "head"],
        "layer": [0, 0, 0, 1],
        "head": [0, 1, -1, 0],
        "effect": [0.5, -0.4, 0.3, 0.2],
    }
)
ATTENTION, MLP, LATER = Component("attention", 0), Component("mlp", 0), Component("attention", 1)
SIZES = {ATTENTION: 100, MLP: 10, LATER: 100}


def test_raw_scores_add_sizes_of_effects():
    found = layer_scores(EFFECT, SIZES)
    assert found == pytest.approx({ATTENTION: 0.9, MLP: 0.3, LATER: 0.2})
    assert ranking(found) == [ATTENTION, MLP, LATER]


def test_published_scores_cancel_inside_a_layer():
    found = layer_scores(EFFECT, SIZES, "published")
    assert found == pytest.approx({ATTENTION: 0.1, MLP: 0.3, LATER: 0.2})


def test_scores_per_weight_favour_small_layers():
    assert ranking(layer_scores(EFFECT, SIZES, "per-weight"))[0] == MLP


def test_an_unknown_rule_is_refused(refuses):
    with refuses(ValueError, "unknown rule 'loudest'", "raw-sum"):
        layer_scores(EFFECT, SIZES, "loudest")


def test_ties_are_broken_by_component():
    assert ranking({LATER: 1.0, ATTENTION: 1.0}) == [ATTENTION, LATER]


def rows(changes, gaps) -> pandas.DataFrame:
    """Facts x nodes of restored probabilities as tidy rows; p_corrupt is 0.1."""
    return pandas.DataFrame(
        {
            "id": f"fact {i}",
            "kind": "mlp",
            "layer": layer,
            "head": -1,
            "p_clean": 0.1 + gap,
            "p_corrupt": 0.1,
            "p_restored": 0.1 + change,
        }
        for i, (facts, gap) in enumerate(zip(changes, gaps))
        for layer, change in enumerate(facts)
    )


def test_effects_are_ratios_of_means():
    change, gap = traced(rows([[0.1, 0.4], [0.3, 0.2]], [0.2, 0.6]), 0.05)
    found = effects(change, gap).set_index("layer")
    assert found.effect.tolist() == pytest.approx([0.5, 0.75])
    assert (found.low <= found.effect + 1e-12).all() and (found.effect <= found.high + 1e-12).all()


def test_facts_that_noise_does_not_hurt_are_left_out():
    change, gap = traced(rows([[0.1], [0.3]], [0.01, 0.6]), 0.05)
    assert list(change.index) == ["fact 1"] and len(gap) == 1


def test_no_fact_hurt_is_an_error(refuses):
    with refuses(ValueError, "hurts no fact", "raise the noise"):
        traced(rows([[0.1]], [0.01]), 0.05)


def test_corrupt_prompts_that_do_better_are_left_out(refuses):
    table = pandas.DataFrame(
        {"id": ["a", "b"], "kind": "mlp", "layer": 0, "head": -1, "score": [-1.0, -2.0]}
    ).assign(ld_clean=[2.0, 1.0], ld_corrupt=[0.0, 1.5])
    change, gap = attributed(table)
    assert list(change.index) == ["a"] and gap.tolist() == [2.0]
    with refuses(ValueError, "told apart"):
        attributed(table.assign(ld_corrupt=5.0))


# --- repeats, halves and their overlap -------------------------------------------------------


def test_pooled_rows_are_means_over_repeats():
    parts = [rows([[0.1 * k, 0.4], [0.3, 0.2 * k]], [0.2, 0.6]).assign(repeat=k) for k in (1, 3)]
    found = pooled(pandas.concat(parts))
    assert "repeat" not in found and len(found) == 4
    assert found.id.tolist() == ["fact 0", "fact 0", "fact 1", "fact 1"]
    assert found.p_restored.tolist() == pytest.approx([0.3, 0.5, 0.4, 0.5])
    assert found.p_clean.tolist() == pytest.approx([0.3, 0.3, 0.7, 0.7])


@pytest.mark.parametrize("column", ["place", "receiver"])
def test_pooling_keeps_places_and_receivers_apart(column):
    base = rows([[0.1], [0.3]], [0.2, 0.6])
    parts = [base.assign(**{column: v, "repeat": k}) for v in (3, 5) for k in range(2)]
    found = pooled(pandas.concat(parts))
    assert len(found) == 4 and sorted(found[column]) == [3, 3, 5, 5]


def test_pooling_one_repeat_changes_nothing():
    base = rows([[0.1, 0.4], [0.3, 0.2]], [0.2, 0.6])
    keys = ["id", "kind", "layer", "head"]
    found = pooled(base.assign(repeat=0)).set_index(keys)
    pandas.testing.assert_frame_equal(found, base.set_index(keys))


def test_overlap_is_shared_over_joint():
    assert jaccard([1, 2, 3], [2, 3, 4]) == 0.5
    assert jaccard([1], [2]) == 0 and jaccard([1], [1]) == 1
    assert jaccard([1, 1, 2], [2]) == 0.5


def test_empty_sets_agree_with_each_other_only():
    assert jaccard([], []) == 1 and jaccard([], [1]) == 0


@pytest.mark.parametrize(("size", "total"), [(1, 6), (3, 6), (5, 6), (4, 36), (8, 36)])
def test_chance_overlap_equals_a_simulation(size, total):
    rng = numpy.random.default_rng(0)
    draws = rng.random((2, 20_000, total)).argsort(-1)[..., :size]
    shared = (draws[0][:, :, None] == draws[1][:, None, :]).sum((1, 2))
    simulated = shared / (2 * size - shared)
    error = simulated.std() / numpy.sqrt(len(simulated))
    assert chance_jaccard(size, total) == pytest.approx(simulated.mean(), abs=5 * error)


@pytest.mark.parametrize("total", [1, 6, 36])
def test_sets_of_all_there_is_agree_by_chance(total):
    assert chance_jaccard(total, total) == pytest.approx(1)


def test_sets_of_nothing_agree_by_chance():
    """As `jaccard` has it: two empty sets agree."""
    assert chance_jaccard(0, 6) == jaccard([], []) == 1


IDS = [f"fact {i}" for i in range(21)]


def test_a_planted_choice_is_the_same_in_every_half():
    assert over_halves(IDS, lambda half: [2, 3]) == [1.0] * 20
    assert over_halves(IDS, lambda half: []) == [1.0] * 20


def test_choosing_the_facts_themselves_never_overlaps():
    """Halves share no fact, hold each once, are equally large, and differ between draws."""
    seen = []

    def choose(half):
        seen.append(tuple(half))
        return half

    assert over_halves(IDS, choose, draws=5) == [0.0] * 5
    assert len(set(seen)) == 10
    for one, other in zip(seen[::2], seen[1::2]):
        assert sorted(one + other) == sorted(IDS) and len(other) - len(one) == 1


def test_halves_depend_on_their_seed_alone():
    def halves(seed):
        seen = []
        over_halves(IDS, lambda half: seen.append(tuple(half)) or [], draws=3, seed=seed)
        return seen

    assert halves(0) == halves(0) != halves(1)


def test_every_two_repeats_are_compared():
    assert over_repeats([[1, 2], [1, 2], [2, 3]]) == pytest.approx([1, 1 / 3, 1 / 3])
    assert over_repeats([[1], [1]]) == [1.0]


def test_stability_summarizes_both_kinds_of_overlap():
    found = stability([0.0, 0.5, 1.0], [1.0, 1.0], 2, 6, 0.5)
    assert list(found.columns) == ["over", "value", "low", "high", "chance"]
    assert found.over.tolist() == ["halves of the facts", "random numbers"]
    assert found.value.tolist() == pytest.approx([0.5, 1])
    assert found.low.tolist() == pytest.approx([0.25, 1])
    assert found.high.tolist() == pytest.approx([0.75, 1])
    assert found.chance.tolist() == [chance_jaccard(2, 6)] * 2


def test_first_layers_are_the_head_of_the_ranking():
    change, gap = traced(rows([[0.1, 0.4, -0.5], [0.3, 0.2, -0.7]], [0.2, 0.6]), 0.05)
    weights = {Component("mlp", i): 10 for i in range(3)}
    order = ranking(layer_scores(effects(change, gap), weights))
    for count in (1, 2, 3):
        assert first_layers(change, gap, weights, count) == order[:count]
    assert order[0] == Component("mlp", 2)


def test_clear_scores_are_stable_and_noise_is_not():
    rng = numpy.random.default_rng(0)
    gaps, weights = [1.0] * 40, {Component("mlp", i): 10 for i in range(6)}
    clear = rng.normal(0, 0.01, (40, 6)) + numpy.array([0.6, 0.5, 0.1, 0.1, 0.1, 0.1])
    noise = rng.normal(0, 1, (40, 6))

    for values, low, high in ((clear, 1.0, 1.0), (noise, 0.0, 0.8)):
        change, gap = traced(rows(values, gaps), 0.05)

        def choose(half, change=change, gap=gap):
            return first_layers(change.loc[half], gap[half], weights, 2)

        found = numpy.mean(over_halves(list(gap.index), choose))
        assert low <= found <= high
