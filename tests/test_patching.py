"""Causal tracing and attribution patching: exact, invariant, and right where the truth is known."""

from __future__ import annotations

from dataclasses import replace

import pandas
import pytest
import torch
import toy
from conftest import RELATION

from bench import plain
from lib.facts.formats import answer_tokens, encode, subject_positions
from lib.localize import attribution, corruption, scores, tracing
from lib.localize.cases import Cases
from lib.localize.probes import probe_accuracy, rise
from lib.model.components import Component, sizes
from lib.model.nodes import Node, PatchRunner, heads_and_mlps

DRAWS = 2
NODES = [Node("head", 1, 2), Node("mlp", 2), Node("mlp", 5), Node("attention", 4)]
NODES += [Node("residual", 3), Node("residual", 5)]
KEYS = ["id", "place", "kind", "layer", "head", "repeat"]
VALUES = ["p_clean", "p_corrupt", "p_restored"]


@pytest.fixture(scope="module")
def cases(loaded, formats, records):
    return Cases.of(loaded.tokenizer, {RELATION: formats.training}, records[::6])


@pytest.fixture(scope="module")
def words(loaded):
    return corruption.plain_tokens(loaded.tokenizer)


@pytest.fixture(scope="module")
def traced(loaded, cases):
    return tracing.trace(loaded.model, cases, NODES, 3.0, DRAWS, seed=0)


def full(cases: Cases, i: int) -> torch.Tensor:
    return torch.tensor([[*cases.prompts.prefix, *cases.prompts.suffixes[i]]])


# --- facts as cases --------------------------------------------------------------------------


def test_facts_of_one_relation_are_measured_against_all_its_other_answers(llama, formats, records):
    facts = records[::6]
    found = Cases.of(llama.tokenizer, {RELATION: formats.training}, facts)
    tokens = answer_tokens(llama.tokenizer, formats.training)
    assert found.ids == [f.id for f in facts]
    assert found.targets.tolist() == [tokens[f.true] for f in facts]
    for fact, contrasts in zip(facts, found.contrasts.tolist()):
        assert set(contrasts) == set(tokens.values()) - {tokens[fact.true]}


def test_facts_of_several_relations_are_measured_against_their_edit(llama, formats, records):
    facts = [*records[:3], *(replace(f, relation="other") for f in records[20:23])]
    forms = {RELATION: formats.training, "other": formats.training}
    found = Cases.of(llama.tokenizer, forms, facts)
    assert found.contrasts.tolist() == [[f.edit_token] for f in facts]
    assert found.targets.tolist() == [f.true_token for f in facts]


def test_a_case_is_the_facts_own_prompt_and_subject(cases, records, llama):
    for i, fact in enumerate(records[::6]):
        assert full(cases, i)[0].tolist() == llama.tokenizer(fact.prompt).input_ids
        assert cases.subjects[i] == fact.subject_positions


def test_a_subject_in_the_shared_prefix_is_noised(llama, formats, records):
    """Two athletes of one first name share it, and it must not be taken for prefix."""
    form = formats.training
    facts = [
        replace(f, subject=name, prompt=form.prompt(name))
        for f, name in zip(records, ("Michael Jordan", "Michael Vick"))
    ]
    facts = [
        replace(f, subject_positions=subject_positions(llama.tokenizer, form, f)) for f in facts
    ]
    prompts = encode(llama.tokenizer, [f.prompt for f in facts])
    assert len(prompts.prefix) > min(facts[0].subject_positions)
    split = Cases.of(llama.tokenizer, {RELATION: form}, facts).split_before_subjects()
    assert len(split.prompts.prefix) <= min(min(s) for s in split.subjects)
    whole = [(*split.prompts.prefix, *s) for s in split.prompts.suffixes]
    assert whole == [(*prompts.prefix, *s) for s in prompts.suffixes]


# --- causal tracing --------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["all", "subject-last"])
def test_tracing_equals_the_plain_loop(loaded, cases, place):
    two = cases.take([0, 3])
    found, expected = (
        trace(loaded.model, two, NODES, 3.0, DRAWS, 0, [place] * 2, 2)
        for trace in (tracing.trace, plain.trace)
    )
    found, expected = (t.set_index(KEYS)[VALUES].sort_index() for t in (found, expected))
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


def test_an_unknown_place_is_refused(loaded, cases, refuses):
    with refuses(ValueError, "unknown place 'here'", "subject-last"):
        tracing.trace(loaded.model, cases, NODES, 3.0, 1, 0, ["here"] * len(cases.ids))


def test_repeats_have_other_noise_on_the_same_facts(llama, records, formats):
    some = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[:3])
    rows = tracing.trace(llama.model, some, NODES[:2], 3.0, 2, seed=0, repeats=3)
    assert sorted(rows.repeat.unique()) == [0, 1, 2] and len(rows) == 3 * 3 * 2
    wide = rows.pivot(index=["id", "kind"], columns="repeat", values=["p_corrupt", "p_clean"])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (wide.p_corrupt[a] / wide.p_corrupt[b] - 1).abs().min() > 1e-4
        assert wide.p_clean[a].to_numpy() == pytest.approx(wide.p_clean[b].to_numpy(), rel=1e-3)


def test_the_first_repeat_is_what_a_single_one_gives(llama, records, formats):
    some = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[:3])
    several = tracing.trace(llama.model, some, NODES[:2], 3.0, 2, seed=0, repeats=2)
    single = tracing.trace(llama.model, some, NODES[:2], 3.0, 2, seed=0)
    found, expected = (t.set_index(KEYS)[VALUES] for t in (several, single))
    expected, found = expected.to_numpy(), found.loc[expected.index].to_numpy()
    assert found == pytest.approx(expected, rel=1e-3)


def test_repeats_pooled_are_one_repeat_with_all_draws(llama, records, formats):
    some = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[:3])
    several = tracing.trace(llama.model, some, NODES[:2], 3.0, 2, seed=0, repeats=3)
    one = tracing.trace(llama.model, some, NODES[:2], 3.0, 6, seed=0, repeats=1)
    keys = ["id", "place", "kind", "layer", "head"]
    found, expected = (scores.pooled(t).set_index(keys)[VALUES] for t in (several, one))
    assert len(found) == 3 * 2
    assert found.to_numpy() == pytest.approx(expected.loc[found.index].to_numpy(), rel=1e-3)


def test_a_token_map_holds_the_shares_of_one_fact(llama, records, formats):
    case = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[:1])
    tokens = [llama.tokenizer.decode(t) for t in full(case, 0)[0]]
    found = tracing.token_map(llama.model, case, "residual", tokens, 3.0, 2, seed=0)
    n_layers = len(llama.model.base_model.layers)
    assert found.shape == (len(tokens) - case.subjects[0][0], n_layers)
    last = n_layers - 1  # at the end only the answer's own row is read
    assert found[last].iloc[-1] == pytest.approx(1, abs=1e-2)
    assert found[last].iloc[:-1].to_numpy() == pytest.approx(0, abs=1e-2)


def test_a_place_map_is_the_mean_over_facts(llama, records, formats):
    cases = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[:3])
    found = tracing.place_map(llama.model, cases, "residual", 3.0, 2, seed=0)
    n_layers = len(llama.model.base_model.layers)
    assert found.shape == (4, n_layers) and list(found.index) == list(tracing.PLACES[1:])
    assert found.loc["last", n_layers - 1] == pytest.approx(1, abs=1e-2)
    assert found.loc[["subject-last", "between"], n_layers - 1].to_numpy() == pytest.approx(
        0, abs=1e-2
    )
    rows = tracing.trace(
        llama.model, cases, [Node("residual", 1)], 3.0, 2, seed=0, places=["subject-last"] * 3
    )
    gained = (rows.p_restored - rows.p_corrupt).mean() / (rows.p_clean - rows.p_corrupt).mean()
    assert found.loc["subject-last", 1] == pytest.approx(gained, abs=1e-3)


# --- attribution and exact patching ----------------------------------------------------------


def test_permuted_facts_give_permuted_scores(loaded, cases, words):
    order, keys = [4, 0, 2, 1], ["id", "kind", "layer", "head"]
    for run, value in (
        (lambda c: tracing.trace(loaded.model, c, NODES[:2], 3.0, 2, seed=0), "p_restored"),
        (lambda c: attribution.attribute(loaded.model, c, NODES[:2], words, 2, seed=0), "score"),
    ):
        a, b = (run(cases.take(o)).set_index(keys)[value] for o in (sorted(order), order))
        assert list(a.index) != list(b.index)
        assert b[a.index].to_numpy() == pytest.approx(a.to_numpy(), rel=1e-3, abs=1e-5)


def test_corrupt_prompts_change_only_the_subject(cases, words):
    changed = corruption.corrupted(cases.split_before_subjects(), words, 0, seed=0)
    for i, positions in enumerate(cases.subjects):
        before, after = full(cases, i)[0], full(changed, i)[0]
        differ = (before != after).nonzero().flatten().tolist()
        assert differ and set(differ) <= set(positions)
    assert changed.prompts != corruption.corrupted(changed, words, 1, seed=0).prompts
    assert changed.prompts != corruption.corrupted(changed, words, 0, seed=1).prompts


def test_words_for_corruption_are_plain(loaded, words):
    texts = [loaded.tokenizer.decode(w).strip() for w in words]
    assert len(words) > 100 and words == sorted(set(words))
    assert all(text.isascii() and text.isalpha() for text in texts)


def test_the_runs_of_a_corruption_have_the_logits_of_the_plain_model(loaded, cases, words):
    runs = list(corruption.corrupt_runs(PatchRunner(loaded.model), cases, words, 2, 0, "runs"))
    assert [r.draw for r in runs] == [0, 1]
    for run in runs:
        other = corruption.corrupted(cases.split_before_subjects(), words, run.draw, seed=0)
        for values, prompts in ((run.ld_clean, cases), (run.ld_corrupt, other)):
            logits = torch.stack([loaded.model(full(prompts, i)).logits[0, -1] for i in range(7)])
            plain_ld = logits.gather(1, cases.targets[:, None])[:, 0]
            plain_ld -= logits.gather(1, cases.contrasts).mean(1)
            torch.testing.assert_close(values, plain_ld, atol=1e-3, rtol=1e-3)
    assert (runs[0].ld_corrupt - runs[1].ld_corrupt).abs().max() > 1e-3


def test_identical_prompts_have_no_attribution(loaded, cases):
    """One word only, in both prompts: nothing differs, so every score is zero."""
    word = corruption.plain_tokens(loaded.tokenizer)[:1]
    same = corruption.corrupted(cases.split_before_subjects(), word, 0, seed=0)
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


# --- where the truth is known ----------------------------------------------------------------


def test_in_a_linear_model_attribution_is_patching():
    linear, cases = toy.Toy(planted=False), toy.cases()
    nodes = heads_and_mlps(linear)
    guess = attribution.attribute(linear, cases, nodes, toy.FILLER_WORDS, 2, seed=0)
    exact = attribution.patch(linear, cases, nodes, toy.FILLER_WORDS, 2, seed=0)
    assert exact.score.abs().max() > 0.1
    assert guess.score.to_numpy() == pytest.approx(exact.score.to_numpy(), abs=1e-4)
    pandas.testing.assert_frame_equal(guess[["id", "kind"]], exact[["id", "kind"]])


def test_a_planted_lookup_is_found_by_probes():
    """The name alone says nothing about unseen subjects; the lookup MLP writes the label."""
    planted, cases = toy.Toy(planted=True), toy.cases()
    runner = PatchRunner(planted)
    pack = runner.packs(cases.prompts)[0][1]
    found = runner.read(pack)
    rows = pack.position_rows([1] * toy.SUBJECTS)
    middle = [a[rows] - m[rows] for a, m in zip(found.after, found.mlp)]
    after = [a[rows] for a in found.after]
    stream = [found.before[0][rows], *(x for pair in zip(middle, after) for x in pair)]
    labels = [str(s % toy.LABELS) for s in range(toy.SUBJECTS)]
    correct = probe_accuracy(torch.stack(stream), labels, 8, 0.5, 1.0, 0)
    assert rise(correct, labels, 1 / 3, 0.75).layers == [toy.LOOKUP]


def test_tracing_and_attribution_rank_the_read_out_high():
    planted, cases = toy.Toy(planted=True), toy.cases()
    nodes, weights = heads_and_mlps(planted), sizes(planted)
    traced = tracing.trace(planted, cases, nodes, 30.0, 4, seed=0)
    guessed = attribution.attribute(planted, cases, nodes, toy.FILLER_WORDS, 2, seed=0)
    for change, gap in (scores.traced(traced, 0.05), scores.attributed(guessed)):
        order = scores.ranking(scores.layer_scores(scores.effects(change, gap), weights))
        top = {Component("attention", toy.READ_OUT), Component("mlp", toy.LOOKUP)}
        assert set(order[:2]) == top
        assert set(scores.first_layers(change, gap, weights, 2)) == top
