"""Causal tracing, attribution and path patching: exact, invariant, and right where the truth is
known."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pandas
import pytest
import torch
import toy

from bench import plain
from lib.components import Component, sizes
from lib.facts.formats import answer_tokens, encode, subject_positions
from lib.localize import attribution, circuit, scores, tracing
from lib.localize.nodes import Cases, Node, Restarter, heads_and_mlps
from lib.localize.probes import probe_accuracy, rise_rule
from lib.packing import Prompts

DRAWS = 2
NODES = [Node("head", 1, 2), Node("mlp", 2), Node("mlp", 5), Node("attention", 4)]
NODES += [Node("residual", 3), Node("residual", 5)]


def make_cases(loaded, formats, table) -> Cases:
    form, tokens = formats.training, answer_tokens(loaded.tokenizer, formats.training)
    subjects = list(table.subject[::6])
    labels = list(table.label[::6])
    others = [[tokens[o] for o in formats.labels if o != true] for true in labels]
    return Cases(
        subjects,
        encode(loaded.tokenizer, form, subjects),
        [subject_positions(loaded.tokenizer, form, s) for s in subjects],
        torch.tensor([tokens[true] for true in labels]),
        torch.tensor(others),
    )


@pytest.fixture(scope="module")
def cases(loaded, formats, table):
    return make_cases(loaded, formats, table)


@pytest.fixture(scope="module")
def words(loaded):
    return attribution.plain_tokens(loaded.tokenizer)


@pytest.fixture(scope="module")
def traced(loaded, cases):
    return tracing.trace(loaded.model, cases, NODES, 3.0, DRAWS, seed=0)


def full(cases: Cases, i: int) -> torch.Tensor:
    return torch.tensor([[*cases.prompts.prefix, *cases.prompts.suffixes[i]]])


@pytest.mark.parametrize("place", ["all", "subject-last"])
def test_tracing_equals_the_plain_loop(loaded, cases, place):
    two = cases.take([0, 3])
    found, expected = (
        trace(loaded.model, two, NODES, 3.0, DRAWS, 0, [place] * 2)
        for trace in (tracing.trace, plain.trace)
    )
    keys, values = ["id", "place", "kind", "layer", "head"], ["p_clean", "p_corrupt", "p_restored"]
    found, expected = (t.set_index(keys)[values].sort_index() for t in (found, expected))
    assert list(found.index) == list(expected.index)
    assert found.to_numpy() == pytest.approx(expected.to_numpy(), rel=2e-3, abs=1e-7)


def test_noise_hurts_and_nodes_differ(traced):
    """Otherwise equality with the plain loop would say little."""
    assert (traced.p_clean / traced.p_corrupt - 1).abs().max() > 0.05
    assert traced.groupby(["kind", "layer"]).p_restored.mean().nunique() > 3


def test_without_noise_nothing_has_an_effect(loaded, cases):
    rows = tracing.trace(loaded.model, cases, NODES, 0.0, 1, seed=0)
    assert rows.p_corrupt.to_numpy() == pytest.approx(rows.p_clean.to_numpy(), rel=1e-3)
    assert rows.p_restored.to_numpy() == pytest.approx(rows.p_clean.to_numpy(), rel=1e-3)


def test_restoring_everything_gives_the_clean_run(traced):
    rows = traced[traced.kind == "residual"]
    assert rows.p_restored.to_numpy() == pytest.approx(rows.p_clean.to_numpy(), rel=1e-3)


def test_restoring_nowhere_gives_the_corrupt_run(loaded, cases):
    """A subject of one token has no other subject tokens."""
    single = replace(cases, subjects=[positions[:1] for positions in cases.subjects])
    places = ["subject-other"] * len(cases.ids)
    rows = tracing.trace(loaded.model, single, [Node("mlp", 2)], 3.0, 1, 0, places)
    assert rows.p_restored.to_numpy() == pytest.approx(rows.p_corrupt.to_numpy(), rel=1e-3)


def test_one_fact_at_several_places_shares_its_noise(loaded, cases):
    twice = cases.take([0, 0])
    last = cases.subjects[0][-1]
    rows = tracing.trace(loaded.model, twice, NODES[:2], 3.0, 2, 0, places=["subject-last", last])
    parts = [rows[rows.place == place] for place in ("subject-last", last)]
    for column in ("p_corrupt", "p_restored"):
        a, b = (part[column].to_numpy() for part in parts)
        assert len(a) == 2 and a == pytest.approx(b, rel=1e-3)


def test_permuted_facts_give_permuted_scores(loaded, cases, words):
    order, keys = [4, 0, 2, 1], ["id", "kind", "layer", "head"]
    for run, value in (
        (lambda c: tracing.trace(loaded.model, c, NODES[:2], 3.0, 2, seed=0), "p_restored"),
        (lambda c: attribution.attribute(loaded.model, c, NODES[:2], words, 2, seed=0), "score"),
    ):
        a, b = (run(cases.take(o)).set_index(keys)[value] for o in (sorted(order), order))
        assert list(a.index) != list(b.index)
        assert b[a.index].to_numpy() == pytest.approx(a.to_numpy(), rel=1e-3, abs=1e-5)


def test_an_unknown_place_is_refused(loaded, cases, refuses):
    with refuses(ValueError, "unknown place 'here'", "subject-last"):
        tracing.trace(loaded.model, cases, NODES, 3.0, 1, 0, ["here"] * 5)


def test_a_subject_in_the_shared_prefix_is_noised(llama, formats):
    """Two athletes of one first name share it, and it must not be taken for prefix."""
    form = formats.training
    names = ["Michael Jordan", "Michael Vick"]
    prompts = encode(llama.tokenizer, form, names)
    subjects = [subject_positions(llama.tokenizer, form, n) for n in names]
    tokens = torch.tensor([5, 6])
    split = Cases(names, prompts, subjects, tokens, tokens[:, None] + 1).split_before_subjects()
    assert len(split.prompts.prefix) <= min(min(s) for s in subjects)
    whole = [(*split.prompts.prefix, *s) for s in split.prompts.suffixes]
    assert whole == [(*prompts.prefix, *s) for s in prompts.suffixes]


def test_corrupt_prompts_change_only_the_subject(cases, words):
    changed = attribution.corrupted(cases.split_before_subjects(), words, 0, seed=0)
    for i, positions in enumerate(cases.subjects):
        before, after = full(cases, i)[0], full(changed, i)[0]
        differ = (before != after).nonzero().flatten().tolist()
        assert set(differ) <= set(positions)
    assert changed.prompts != attribution.corrupted(changed, words, 1, seed=0).prompts


def test_identical_prompts_have_no_attribution(loaded, cases):
    """One word only, in both prompts: nothing differs, so every score is zero."""
    word = attribution.plain_tokens(loaded.tokenizer)[:1]
    same = attribution.corrupted(cases.split_before_subjects(), word, 0, seed=0)
    rows = attribution.attribute(loaded.model, same, NODES[:2], word, 2, seed=0)
    assert rows.score.abs().max() < 1e-6


def test_attribution_approaches_patching_for_small_changes(loaded, cases, words):
    """First order: if all embeddings are nearly equal, the estimate is nearly exact."""
    embedding = loaded.model.get_input_embeddings().weight
    kept = embedding.clone()
    nodes = [n for n in heads_and_mlps(loaded.model) if n.layer in (1, 4)]
    try:
        with torch.no_grad():
            embedding.copy_(embedding.mean(0) + 0.002 * (embedding - embedding.mean(0)))
        guess = attribution.attribute(loaded.model, cases, nodes, words, 1, seed=0)
        exact = attribution.patch(loaded.model, cases, nodes, words, 1, seed=0)
    finally:
        with torch.no_grad():
            embedding.copy_(kept)
    size = exact.score.abs().max()
    assert size > 0
    assert (guess.score - exact.score).abs().max() < 0.1 * size


@pytest.fixture(scope="module")
def linear():
    return toy.Toy(planted=False)


@pytest.fixture(scope="module")
def planted():
    return toy.Toy(planted=True)


@pytest.fixture(scope="module")
def planted_cases():
    """filler, subject, filler, filler: the answer stands at the last filler."""
    subjects = list(range(toy.SUBJECTS))
    suffixes = tuple((toy.FILLERS + s, 2, 3) for s in subjects)
    answers = toy.FILLERS + toy.SUBJECTS + torch.tensor(subjects) % toy.LABELS
    every = toy.FILLERS + toy.SUBJECTS + torch.arange(toy.LABELS)
    others = torch.stack([every[every != a] for a in answers])
    names = [f"subject {s}" for s in subjects]
    return Cases(names, Prompts((1,), suffixes), [(1,)] * len(subjects), answers, others)


FILLER_WORDS = [4, 5]


def test_in_a_linear_model_attribution_is_patching(linear, planted_cases):
    nodes = heads_and_mlps(linear)
    guess = attribution.attribute(linear, planted_cases, nodes, FILLER_WORDS, 2, seed=0)
    exact = attribution.patch(linear, planted_cases, nodes, FILLER_WORDS, 2, seed=0)
    assert exact.score.abs().max() > 0.1
    assert guess.score.to_numpy() == pytest.approx(exact.score.to_numpy(), abs=1e-4)
    pandas.testing.assert_frame_equal(guess[["id", "kind"]], exact[["id", "kind"]])


def test_a_planted_lookup_is_found_by_path_patching(planted, planted_cases):
    heads = circuit.shares(circuit.head_effects(planted, planted_cases, FILLER_WORDS, 2, 0))
    assert heads.effect.max() == pytest.approx(1, abs=1e-4)
    found = circuit.find(planted, planted_cases, FILLER_WORDS, 2, 0, count=1)
    assert found.heads == [Node("head", toy.READ_OUT, 0)]
    assert found.receiver == toy.READ_OUT
    mlps = found.mlps
    assert circuit.lookup_layers(mlps, 0.02) == [toy.LOOKUP]
    assert mlps.set_index("layer").effect[toy.LOOKUP] == pytest.approx(1, abs=1e-4)


def test_a_planted_lookup_is_found_by_probes(planted, planted_cases):
    """The name alone says nothing about unseen subjects; the lookup MLP writes the label."""
    runner = Restarter(planted)
    pack = runner.packs(planted_cases.prompts)[0][1]
    found = runner.read(pack)
    rows = pack.position_rows([1] * toy.SUBJECTS)
    x = torch.stack([found.before[0][rows], *(t[rows] for t in found.after)])
    labels = [str(s % toy.LABELS) for s in range(toy.SUBJECTS)]
    accuracy = numpy.nanmean(probe_accuracy(x, labels, 8, 0.5, 1.0, 0), axis=1)
    rise = rise_rule(list(accuracy[1:]), accuracy[0], 1 / toy.LABELS, 1 / 3, 0.75)
    assert rise.layers == [toy.LOOKUP]


def test_tracing_and_attribution_rank_the_read_out_high(planted, planted_cases):
    nodes, weights = heads_and_mlps(planted), sizes(planted)
    traced = tracing.trace(planted, planted_cases, nodes, 30.0, 4, seed=0)
    guessed = attribution.attribute(planted, planted_cases, nodes, FILLER_WORDS, 2, seed=0)
    for change, gap in (scores.traced(traced, 0.05), scores.attributed(guessed)):
        order = scores.ranking(scores.layer_scores(scores.effects(change, gap), weights))
        top = {Component("attention", toy.READ_OUT), Component("mlp", toy.LOOKUP)}
        assert set(order[:2]) == top


def test_an_effect_must_exceed_threshold_and_error():
    mlps = pandas.DataFrame(
        {"layer": [0, 1, 2], "effect": [0.01, 0.3, 0.3], "error": [0.001, 0.2, 0.1]}
    )
    assert circuit.lookup_layers(mlps, 0.02) == [2]


def test_heads_in_the_first_layer_have_no_mlp_below(linear, planted_cases):
    found = circuit.find(linear, planted_cases, FILLER_WORDS, 1, 0, count=toy.LAYERS * toy.HEADS)
    assert found.receiver == 0 and found.mlps.empty
    assert circuit.lookup_layers(found.mlps, 0.02) == []
