"""Layer scores, rankings and their stability."""

from __future__ import annotations

import numpy
import pandas
import pytest

from lib.components import Component
from lib.localize.scores import attributed, effects, layer_scores, ranking, stability, traced

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


def test_clear_scores_are_stable_and_noise_is_not():
    rng = numpy.random.default_rng(0)
    gaps = [1.0] * 40
    clear = rng.normal(0, 0.01, (40, 6)) + numpy.array([0.6, 0.5, 0.1, 0.1, 0.1, 0.1])
    noise = rng.normal(0, 1, (40, 6))

    def choose(effect):
        return ranking(layer_scores(effect, SIZES))[:2]

    for values, low, high in ((clear, 1.0, 1.0), (noise, 0.0, 0.8)):
        found = numpy.mean(stability(*traced(rows(values, gaps), 0.05), choose))
        assert low <= found <= high
