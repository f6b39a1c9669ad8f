"""The recipes the bench compares with give the same scores as ours."""

from __future__ import annotations

import time

import pytest
from conftest import RELATION, edit_settings

from bench import recipes, speed
from lib.localize.attribution import attribute
from lib.localize.cases import Cases
from lib.localize.corruption import plain_tokens
from lib.model.nodes import heads_and_mlps

KEYS = ["id", "kind", "layer", "head"]


@pytest.mark.parametrize("recipe", [recipes.transformer_lens, recipes.with_nnsight])
def test_recipes_give_our_attribution_scores(loaded, formats, records, recipe):
    cases = Cases.of(loaded.tokenizer, {RELATION: formats.training}, records[::9])
    words, nodes = plain_tokens(loaded.tokenizer), heads_and_mlps(loaded.model)
    ours = attribute(loaded.model, cases, nodes, words, 2, 0).set_index(KEYS).sort_index()
    theirs = recipe(loaded, cases, nodes, words, 2, 0).set_index(KEYS).sort_index()
    assert ours.score.abs().max() > 1e-3
    for column in ("score", "ld_clean", "ld_corrupt"):
        expected = ours[column].to_numpy()
        assert theirs[column].to_numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("score", [speed.trace, speed.attribute])
def test_all_contenders_of_the_bench_give_the_same_scores(llama, formats, records, score):
    cases = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[::20])
    nodes = [n for n in heads_and_mlps(llama.model) if n.layer in (1, 4)]
    method = "causal tracing" if score is speed.trace else "attribution patching"
    ours, *others = (
        score(name, llama, cases, nodes).set_index(KEYS).value.sort_index()
        for name in speed.CONTENDERS[method]
    )
    assert others and len(ours) == len(cases.ids) * len(nodes) and ours.nunique() > len(nodes)
    for theirs in others:
        assert list(theirs.index) == list(ours.index)
        assert theirs.to_numpy() == pytest.approx(ours.to_numpy(), rel=2e-3, abs=1e-4 * ours.max())


def test_the_plain_trainer_takes_our_steps(family, fresh, middle, data):
    ours, theirs = (fresh(family) for _ in range(2))
    settings = edit_settings(strength=0.999)
    first, second = (
        speed.train(name, loaded, middle, data, settings, 0).set_index(KEYS).value
        for name, loaded in (("ours", ours), ("plain loop", theirs))
    )
    assert len(first) == 3 * settings.max_steps and first.nunique() > settings.max_steps
    assert second.to_numpy() == pytest.approx(first.to_numpy(), abs=1e-3)
    start = dict(fresh(family).model.named_parameters())
    pairs = zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True)
    for (name, a), b in pairs:
        far = (a - b).abs().max()
        assert far <= 0.1 * (a - start[name]).abs().max(), name


def test_operations_of_the_plain_loop_are_those_of_two_nodes_continued(llama, formats, records):
    cases = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[::20])
    nodes = heads_and_mlps(llama.model)[:5]

    def run_for(some):
        return speed.trace("plain loop", llama, cases, some)

    counted = speed._operations(lambda: run_for(nodes))
    assert counted > 0
    assert speed._continued(run_for, nodes) == pytest.approx(counted, rel=1e-9)


def test_memory_counts_what_is_held_only_for_a_while():
    with speed._memory() as memory:
        held = bytearray(b"1" * (64 * 2**20))
        time.sleep(0.1)
        del held
        time.sleep(0.1)
    assert 60 < max(memory) - memory[0] < 300
