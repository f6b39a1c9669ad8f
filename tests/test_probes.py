"""Probes find a planted lookup and nothing else; the rise rule reads curves as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import torch

from lib.facts.formats import subject_positions
from lib.localize.probes import (
    Rise,
    Site,
    features,
    most_frequent,
    pooled,
    probe_accuracy,
    probeable,
    rise,
    rise_rule,
    sensitivity,
    sites,
)
from lib.model.anatomy import blocks
from lib.model.runner import Runner

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
def correct(planted):
    return probe_accuracy(planted, LABELS, **SETTINGS)


def test_probes_find_the_planted_layer(correct):
    curve = numpy.nanmean(correct, axis=1)
    after = sites(N_LAYERS).index(Site("post", PLANTED))
    assert curve[after:].min() > 0.9
    assert curve[:after].max() < 0.55


def test_the_rise_is_the_planted_layer(correct):
    assert rise(correct, LABELS, 1 / 3, 0.75).layers == [PLANTED]


def test_the_rise_reads_the_rule_off_the_stream(correct):
    """Accuracy after each block, against what the embedding and the majority give away."""
    curve = numpy.nanmean(correct, axis=1)
    expected = rise_rule(list(curve[2::2]), curve[0], 1 / 3, 1 / 3, 0.75)
    assert rise(correct, LABELS, 1 / 3, 0.75) == expected
    uneven = ["a"] * 80 + ["b"] * 40
    assert rise(correct, uneven, 1 / 3, 0.75).base == pytest.approx(2 / 3)


def test_the_rise_of_some_subjects_uses_them_alone(correct):
    half = [i for i in range(0, len(LABELS), 2)]
    found = rise(correct[:, half], [LABELS[i] for i in half], 1 / 3, 0.75)
    assert found.layers == [PLANTED]
    assert found.top == pytest.approx(numpy.nanmean(correct[:, half], axis=1)[2::2].max())


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


def test_pooled_correctness_is_the_mean_over_repeats():
    nan = numpy.nan
    repeats = [numpy.array([[1.0, 0.0, nan, nan]]), numpy.array([[0.0, 0.5, 1.0, nan]])]
    numpy.testing.assert_array_equal(pooled(repeats), [[0.5, 0.25, 1.0, nan]])
    numpy.testing.assert_array_equal(pooled(repeats[:1]), repeats[0])


def test_pooling_other_splits_holds_out_more_subjects(planted):
    few = planted[-1:]
    repeats = [probe_accuracy(few, LABELS, **SETTINGS | {"splits": 2, "seed": k}) for k in (0, 1)]
    missing = [numpy.isnan(r).mean() for r in (*repeats, pooled(repeats))]
    assert missing[2] < min(missing[:2])
    assert numpy.nanmean(pooled(repeats)) > 0.9


def test_the_relation_with_most_facts_is_probed_by_default(records):
    facts = [*records[:4], *(replace(f, relation="other") for f in records[4:10])]
    assert most_frequent(facts) == "other"
    assert most_frequent(facts[:6]) == records[0].relation


def test_only_labels_that_enough_facts_share_can_be_probed(records):
    mine = sorted(records, key=lambda f: f.true)
    labels = [f.true for f in mine]
    rare = [f for f in mine if f.true == labels[0]][:4]
    common = [f for f in mine if f.true == labels[-1]][:6]
    others = [replace(f, relation="other") for f in common]
    facts = [*rare, *others, *common]
    assert probeable(facts, records[0].relation, 4) == [*rare, *common]
    assert probeable(facts, records[0].relation, 5) == [], "one label is nothing to tell apart"
    assert probeable(facts, "other", 5) == []
    assert probeable(facts, "none", 1) == []


def test_sites_come_in_the_order_of_the_stream():
    found = sites(2)
    kinds = ["embedding", "mid", "post", "mid", "post"]
    assert [s.kind for s in found] == kinds
    assert [s.layer for s in found] == [-1, 0, 0, 1, 1]


@pytest.fixture(scope="module")
def facts(records, formats, llama):
    """Some facts, two of them with names of many tokens."""

    def named(fact, subject):
        fact = replace(fact, subject=subject, prompt=formats.training.prompt(subject))
        where = subject_positions(llama.tokenizer, formats.training, fact)
        return replace(fact, subject_positions=where)

    long = [named(records[0], n) for n in ("Giannis Antetokounmpo", "J.J. Watt")]
    return [*records[:6], *long, *records[6::6]]


@pytest.mark.parametrize("name", ["training", "sentence"])
def test_features_are_the_stream_at_the_subjects_last_token(loaded, formats, facts, name):
    form = next(f for f in formats.formats if f.name == name)
    facts = [
        replace(
            f,
            prompt=form.prompt(f.subject),
            subject_positions=subject_positions(loaded.tokenizer, form, f),
        )
        for f in facts
    ]
    found = features(Runner(loaded.model), loaded.tokenizer, facts)
    assert found.shape[:2] == (2 * len(blocks(loaded.model)) + 1, len(facts))
    for i, fact in enumerate(facts):
        start = form.template.index("{subject}") + len(fact.subject)
        encoded = loaded.tokenizer(fact.prompt, return_offsets_mapping=True)
        last = next(t for t, (_, end) in enumerate(encoded.offset_mapping) if end == start)
        ids = torch.tensor([encoded.input_ids])
        states = loaded.model(ids, output_hidden_states=True).hidden_states
        expected = torch.stack([s[0, last] for s in states[:-1]])
        torch.testing.assert_close(found[:-1:2, i], expected, atol=1e-4, rtol=1e-4)


def test_features_keep_the_order_of_subjects_over_packs(llama, facts):
    one = features(Runner(llama.model, max_tokens=10_000), llama.tokenizer, facts)
    many = features(Runner(llama.model, max_tokens=45), llama.tokenizer, facts)
    torch.testing.assert_close(one, many, atol=1e-4, rtol=1e-4)


def test_features_of_several_relations_read_each_in_its_own_prompt(llama, formats, facts):
    """Prompts of two formats share less of a beginning; the numbers stay those of each alone."""
    form = next(f for f in formats.formats if f.name == "sentence")
    asked = [replace(f, relation="other", prompt=form.prompt(f.subject)) for f in facts[:4]]
    asked = [
        replace(f, subject_positions=subject_positions(llama.tokenizer, form, f)) for f in asked
    ]
    runner = Runner(llama.model)
    both = features(runner, llama.tokenizer, [*facts[4:8], *asked])
    alone = [features(runner, llama.tokenizer, part) for part in (facts[4:8], asked)]
    torch.testing.assert_close(both, torch.cat(alone, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_rule_agrees_with_the_published_choice(model):
    """It starts where the authors started, and ends inside their range."""
    curve, published = PUBLISHED[model]
    layers = rise_rule(curve, 0.0, 0.374, 1 / 3, 0.75).layers
    assert layers[0] == published.start
    assert set(layers) <= set(published)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.5, 0.75, 0.75, 1.0], [1, 2, 3]),  # exactly on a threshold counts
        ([0.5, 0.5, 1.0, 1.0], [2]),  # a step
        ([1.0, 1.0, 1.0], [0]),  # there from the first block
        ([0.5, 0.8, 0.6, 1.0], [1, 2, 3]),  # a dip on the way
        ([0.5, 1.0, 0.5, 0.5], [1]),  # a peak
    ],
)
def test_hand_made_curves(curve, expected):
    assert rise_rule(curve, 0.5, 0.3, 0.5, 0.9) == Rise(expected, 0.5, 1.0)


def test_the_base_is_the_larger_of_embedding_and_majority():
    curve = [0.5, 0.6, 0.7, 0.9]
    assert rise_rule(curve, 0.5, 0.4, 0.3, 0.75) == rise_rule(curve, 0.4, 0.5, 0.3, 0.75)
    assert rise_rule(curve, 0.5, 0.4, 0.3, 0.75).base == 0.5


def test_the_end_never_lies_before_the_start():
    assert rise_rule([0.4, 0.6, 0.8, 1.0], 0.2, 0.2, 0.9, 0.1).layers == [3]


@pytest.mark.parametrize("curve", [[0.5, 0.4, 0.5], [0.2, 0.3, 0.1]])
def test_accuracy_that_never_rises_gives_no_layers(curve):
    assert rise_rule(curve, 0.5, 0.4, 1 / 3, 0.75) == Rise([], 0.5, max(curve))


def of_curve(embedding: float, *curve: float) -> numpy.ndarray:
    """Correctness of 100 subjects whose means are `curve` after each block."""
    means = [embedding, *(m for m in curve for _ in range(2))]
    return numpy.stack([numpy.arange(100) < round(m * 100) for m in means]).astype(float)


HALVES = ["a", "b"] * 50


@pytest.mark.parametrize(
    ("curve", "number", "expected"),
    [
        ((0.5, 0.5, 0.6, 0.9, 1.0, 1.0), 1, [2]),
        ((0.5, 0.5, 0.75, 1.0, 1.0, 1.0), 2, [1, 2]),
        ((0.5, 0.5, 0.5, 0.8, 1.0, 1.0), 2, [2, 3]),
        ((0.5, 0.5, 0.6, 0.9, 1.0, 1.0), 3, [1, 2, 3]),
        ((0.2, 0.9, 1.0, 1.0, 1.0, 1.0), 1, [0]),  # from what the name gives away
        ((0.5, 0.5, 0.5, 0.5, 0.6, 1.0), 2, [3, 4]),  # up to the last layer
        ((0.5, 0.75, 0.5, 0.75, 0.75, 1.0), 1, [0]),  # of equals the first
        ((0.5, 0.9, 0.6, 0.9, 0.9, 0.9), 5, [0, 1, 2, 3, 4]),
    ],
)
def test_so_many_layers_lie_where_accuracy_rises_most(curve, number, expected):
    correct = of_curve(*curve)
    found = rise(correct, HALVES, 1 / 3, 0.75, number)
    assert found.layers == expected
    plain = rise(correct, HALVES, 1 / 3, 0.75)
    assert (found.base, found.top) == (plain.base, plain.top)


def test_without_a_number_the_rule_decides():
    correct = of_curve(0.5, 0.5, 0.6, 0.9, 1.0)
    plain = rise(correct, HALVES, 1 / 3, 0.75)
    assert rise(correct, HALVES, 1 / 3, 0.75, None) == plain and plain.layers == [2]


def test_a_number_of_layers_is_not_taken_where_nothing_rises():
    assert rise(of_curve(0.5, 0.4, 0.5, 0.3), HALVES, 1 / 3, 0.75, 2).layers == []


def test_the_steepest_window_holds_the_planted_layer(correct):
    assert rise(correct, LABELS, 1 / 3, 0.75, 1).layers == [PLANTED]
    assert PLANTED in rise(correct, LABELS, 1 / 3, 0.75, 2).layers


def test_sensitivity_holds_the_rule_at_every_pair_of_fractions():
    """The published curve as the correctness of many subjects."""
    n, curve = 1000, PUBLISHED["gemma-7b"][0]
    labels = ["a"] * 374 + [f"rare {i}" for i in range(n - 374)]
    means = [0.0, *(m for m in curve for _ in range(2))]
    correct = numpy.stack([numpy.arange(n) < round(m * n) for m in means]).astype(float)
    table = sensitivity(correct, labels)
    assert len(table) == 9 and table.layers.nunique() > 3
    for row in table.itertuples():
        expected = rise_rule(curve, 0.0, 0.374, row.start_fraction, row.end_fraction)
        assert row.layers.split() == [str(layer) for layer in expected.layers]


def test_sensitivity_of_accuracy_that_never_rises_is_empty_everywhere():
    table = sensitivity(numpy.zeros((5, 4)), ["a", "a", "b", "b"])
    assert len(table) == 9 and set(table.layers) == {""}
