"""How much of a mechanism is trained: counted in weights, against what chance would give."""

from __future__ import annotations

import numpy
import pytest

from lib.config.blocks import LocalizationSettings
from lib.localize.overlap import overlap, overlap_table, trained_share
from lib.localize.select import select
from lib.model.components import Component, Localization, unit_sizes
from lib.model.nodes import Node

HEADS, LAYERS = 4, 6
MLPS = [Node("mlp", 1), Node("mlp", 2)]
READERS = [Node("head", 3, 0), Node("head", 3, 2), Node("head", 4, 1)]


@pytest.fixture(scope="module")
def weights(loaded):
    return unit_sizes(loaded.model)


def localization(weights, *components: Component) -> Localization:
    return Localization("mine", components, sum(weights[c] for c in components), 0)


def mlp(layer: int) -> Component:
    return Component("mlp", layer)


def attention(layer: int) -> Component:
    return Component("attention", layer)


def test_a_group_that_is_trained_whole_is_trained_whole(weights):
    assert overlap(localization(weights, mlp(1), mlp(2)), MLPS, weights, HEADS) == (1, 1)


def test_nothing_of_a_group_elsewhere_is_trained(weights):
    chosen = localization(weights, mlp(3), attention(1), attention(2))
    assert overlap(chosen, MLPS, weights, HEADS) == (0, 0)
    assert overlap(chosen, [Node("head", 3, 0)], weights, HEADS) == (0, 0)


def test_both_shares_are_counted_in_weights(weights):
    chosen = localization(weights, mlp(1), mlp(4), attention(5))
    of_group, of_trained = overlap(chosen, MLPS, weights, HEADS)
    assert of_group == pytest.approx(0.5)
    assert of_trained == pytest.approx(weights[mlp(1)] / chosen.weights)


def test_a_head_counts_as_its_share_of_the_attention_layer(weights):
    chosen = localization(weights, attention(3))
    of_group, of_trained = overlap(chosen, READERS[:1], weights, HEADS)
    assert of_group == 1 and of_trained == pytest.approx(1 / HEADS)
    of_group, of_trained = overlap(chosen, READERS, weights, HEADS)
    assert of_group == pytest.approx(2 / 3) and of_trained == pytest.approx(2 / HEADS)


def test_all_heads_of_a_layer_are_the_layer(weights):
    chosen = localization(weights, attention(3), mlp(1))
    group = [Node("head", 3, h) for h in range(HEADS)]
    found = overlap(chosen, group, weights, HEADS)
    assert found == pytest.approx((1, weights[attention(3)] / chosen.weights))


def test_a_group_may_hold_heads_and_mlps(weights):
    chosen = localization(weights, mlp(1))
    head, whole = weights[attention(3)] / HEADS, weights[mlp(1)]
    found = overlap(chosen, [Node("mlp", 1), Node("head", 3, 1)], weights, HEADS)
    assert found == pytest.approx((whole / (whole + head), 1))


def test_single_matrices_count_as_their_share_of_the_layer(weights):
    layers = [1, 2, 3]
    parts = sorted(c for c in weights if c.matrix and c.layer in layers and c.kind == "mlp")
    one = parts[0]
    chosen = localization(weights, one)
    assert trained_share(chosen, weights) == {mlp(1): weights[one] / weights[mlp(1)]}
    of_group, of_trained = overlap(chosen, MLPS, weights, HEADS)
    both = weights[mlp(1)] + weights[mlp(2)]
    assert of_group == pytest.approx(weights[one] / both) and of_trained == pytest.approx(1)
    every = localization(weights, *parts)
    assert trained_share(every, weights) == pytest.approx({mlp(i): 1 for i in layers})
    assert overlap(every, MLPS, weights, HEADS) == pytest.approx((1, 2 / 3))


def drawn(weights, draw: int) -> Localization:
    settings = LocalizationSettings(method="random", draw=draw)
    return select("random", settings, weights, [1, 2], 0)


def test_random_matrices_train_something_of_a_wide_group_and_not_all(weights):
    group = [Node("mlp", layer) for layer in range(LAYERS)]
    group += [Node("head", layer, h) for layer in range(LAYERS) for h in range(HEADS)]
    for draw in range(3):
        chosen = drawn(weights, draw)
        of_group, of_trained = overlap(chosen, group, weights, HEADS)
        every = sum(n for c, n in weights.items() if not c.matrix)
        assert 0 < of_group < 1 and of_group == pytest.approx(chosen.weights / every)
        assert of_trained == pytest.approx(1)


def test_random_matrices_train_what_is_expected_on_average(weights):
    sets = {str(draw): drawn(weights, draw) for draw in range(300)}
    groups = {"lookup MLPs": MLPS, "extraction heads": READERS}
    rows = overlap_table(sets, groups, weights, HEADS)
    for _, mine in rows.groupby("mechanism"):
        error = mine.of_mechanism.std() / numpy.sqrt(len(mine))
        assert mine.of_mechanism.between(0, 1 + 1e-9).all() and mine.of_mechanism.nunique() > 2
        assert mine.of_mechanism.mean() == pytest.approx(mine.expected.mean(), abs=4 * error)


def test_an_empty_group_is_refused(weights, refuses):
    with refuses(ValueError, "mechanism is empty", "threshold"):
        overlap(localization(weights, mlp(1)), [], weights, HEADS)


def test_the_table_holds_every_set_with_every_group_but_the_empty(weights):
    sets = {
        "lookup": localization(weights, mlp(1), mlp(2)),
        "everything": localization(weights, *(c for c in weights if not c.matrix)),
    }
    groups = {"lookup MLPs": MLPS, "writing MLPs": [], "extraction heads": READERS}
    rows = overlap_table(sets, groups, weights, HEADS)
    pairs = [(s, m) for s in sets for m in ("lookup MLPs", "extraction heads")]
    assert list(zip(rows.localization, rows.mechanism)) == pairs
    for row in rows.itertuples():
        found = overlap(sets[row.localization], groups[row.mechanism], weights, HEADS)
        assert (row.of_mechanism, row.of_trained) == found
    every = sets["everything"].weights
    expected = [2 * weights[mlp(1)] / every] * 2 + [1.0] * 2
    assert rows.expected.tolist() == pytest.approx(expected)
    assert rows.of_mechanism.tolist() == pytest.approx([1, 0, 1, 1])


def test_a_table_without_any_mechanism_keeps_its_columns(weights):
    rows = overlap_table(
        {"mine": localization(weights, mlp(1))}, {"lookup MLPs": []}, weights, HEADS
    )
    assert rows.empty and "of_mechanism" in rows
