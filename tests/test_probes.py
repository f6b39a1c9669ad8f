"""Probes find a planted lookup and nothing else; the rise rule reads curves as it says."""

from __future__ import annotations

import numpy
import pytest
import torch

from lib.components import blocks
from lib.localize.probes import Site, features, probe_accuracy, rise_rule, sensitivity, sites
from lib.packing import Runner

LABELS = ["a", "b", "c"] * 40
SETTINGS = dict(splits=4, test_share=0.3, regularization=0.01, seed=0)
PLANTED = 3
N_LAYERS = 6

# Probe accuracy on the name alone by layer, and the MLP layers chosen by eye (arXiv:2410.12949).
PUBLISHED = {
    "gemma-7b": ([0.44, 0.48, 0.63, 0.85, 0.97, 0.97, 1.0], range(2, 8)),
    "gemma-2-9b": ([0.50, 0.57, 0.73, 0.97, 0.99, 1.0], range(2, 7)),
    "llama-3-8b": ([0.42, 0.63, 0.92, 1.0], range(1, 5)),
}


@pytest.fixture(scope="module")
def planted():
    """Noise, with the label written into the stream by MLP number PLANTED."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * N_LAYERS + 1, len(LABELS), 16, generator=generator)
    direction = 4 * torch.eye(3, 16)
    written = torch.stack([direction["abc".index(name)] for name in LABELS])
    x[2 * PLANTED + 2 :] += written
    return x


@pytest.fixture(scope="module")
def curve(planted):
    return numpy.nanmean(probe_accuracy(planted, LABELS, **SETTINGS), axis=1)


def test_probes_find_the_planted_layer(curve):
    after = sites(N_LAYERS).index(Site("post", PLANTED))
    assert curve[after:].min() > 0.9
    assert curve[:after].max() < 0.55


def test_the_rise_rule_finds_the_planted_layer(curve):
    rise = rise_rule(list(curve[2::2]), curve[0], 1 / 3, 1 / 3, 0.75)
    assert rise.layers == [PLANTED]


def test_shuffled_labels_stay_near_chance(planted):
    order = numpy.random.default_rng(0).permutation(len(LABELS))
    shuffled = [LABELS[i] for i in order]
    accuracy = numpy.nanmean(probe_accuracy(planted, shuffled, **SETTINGS), axis=1)
    assert accuracy.max() < 0.55
    assert abs(accuracy.mean() - 1 / 3) < 0.1


def test_the_same_seed_gives_the_same_accuracy(planted):
    few = planted[-2:]
    first, again = (probe_accuracy(few, LABELS, **SETTINGS) for _ in range(2))
    other = probe_accuracy(few, LABELS, **SETTINGS | {"seed": 1})
    numpy.testing.assert_array_equal(first, again)
    assert not numpy.array_equal(numpy.isnan(first), numpy.isnan(other))


def test_a_subject_never_held_out_is_nan(planted):
    accuracy = probe_accuracy(planted[-1:], LABELS, **SETTINGS | {"splits": 2})
    missing = numpy.isnan(accuracy[0])
    assert 0.3 < missing.mean() < 0.7  # 0.7 ** 2 of the subjects are in no test set
    assert set(numpy.unique(accuracy[0][~missing])) <= {0.0, 0.5, 1.0}


def test_sites_come_in_the_order_of_the_stream():
    found = sites(2)
    kinds = ["embedding", "mid", "post", "mid", "post"]
    assert [s.kind for s in found] == kinds
    assert [s.layer for s in found] == [-1, 0, 0, 1, 1]


@pytest.mark.parametrize("name", ["training", "sentence"])
def test_features_are_the_stream_at_the_subjects_last_token(loaded, formats, table, name):
    form = next(f for f in formats.formats if f.name == name)
    subjects = [*table.subject[::5], "Giannis Antetokounmpo", "J.J. Watt"]
    found = features(Runner(loaded.model), loaded.tokenizer, form, subjects)
    assert found.shape[:2] == (2 * len(blocks(loaded.model)) + 1, len(subjects))
    for i, subject in enumerate(subjects):
        start = form.template.index("{subject}") + len(subject)
        encoded = loaded.tokenizer(form.prompt(subject), return_offsets_mapping=True)
        last = next(t for t, (_, end) in enumerate(encoded.offset_mapping) if end == start)
        ids = torch.tensor([encoded.input_ids])
        states = loaded.model(ids, output_hidden_states=True).hidden_states
        expected = torch.stack([s[0, last] for s in states[:-1]])
        torch.testing.assert_close(found[:-1:2, i], expected, atol=1e-4, rtol=1e-4)


def test_features_keep_the_order_of_subjects_over_packs(llama, formats, table):
    subjects = [*table.subject[:6], "Giannis Antetokounmpo", "J.J. Watt", *table.subject[6:9]]
    form = formats.training
    one = features(Runner(llama.model, max_tokens=10_000), llama.tokenizer, form, subjects)
    many = features(Runner(llama.model, max_tokens=45), llama.tokenizer, form, subjects)
    torch.testing.assert_close(one, many, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_rule_agrees_with_the_published_choice(model):
    """It starts where the authors started, and ends inside their range."""
    curve, published = PUBLISHED[model]
    rise = rise_rule(curve, 0.0, 0.374, 1 / 3, 0.75)
    assert rise.start == published.start
    assert set(rise.layers) <= set(published)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.5, 0.75, 0.75, 1.0], (1, 3)),  # exactly on a threshold counts
        ([0.5, 0.5, 1.0, 1.0], (2, 2)),  # a step
        ([1.0, 1.0, 1.0], (0, 0)),  # there from the first block
        ([0.5, 0.8, 0.6, 1.0], (1, 3)),  # a dip on the way
        ([0.5, 1.0, 0.5, 0.5], (1, 1)),  # a peak
    ],
)
def test_hand_made_curves(curve, expected):
    rise = rise_rule(curve, 0.5, 0.3, 0.5, 0.9)
    assert (rise.start, rise.end) == expected
    assert rise.layers == list(range(expected[0], expected[1] + 1))


def test_the_base_is_the_larger_of_embedding_and_majority():
    curve = [0.5, 0.6, 0.7, 0.9]
    assert rise_rule(curve, 0.5, 0.4, 0.3, 0.75) == rise_rule(curve, 0.4, 0.5, 0.3, 0.75)
    assert rise_rule(curve, 0.5, 0.4, 0.3, 0.75).base == 0.5


def test_the_end_never_lies_before_the_start():
    rise = rise_rule([0.4, 0.6, 0.8, 1.0], 0.2, 0.2, 0.9, 0.1)
    assert (rise.start, rise.end) == (3, 3)


@pytest.mark.parametrize("curve", [[0.5, 0.4, 0.5], [0.2, 0.3, 0.1]])
def test_accuracy_that_never_rises_is_refused(curve, refuses):
    with refuses(ValueError, "never rises", "0.50", "use more known facts or a larger model"):
        rise_rule(curve, 0.5, 0.4, 1 / 3, 0.75)


def test_sensitivity_holds_the_rule_at_every_pair_of_fractions():
    curve = PUBLISHED["gemma-7b"][0]
    table = sensitivity(curve, 0.0, 0.374)
    assert len(table) == 9
    for row in table.itertuples():
        rise = rise_rule(curve, 0.0, 0.374, row.start_fraction, row.end_fraction)
        assert (row.start, row.end) == (rise.start, rise.end)
