"""The recipes the bench compares with give the same scores as ours."""

from __future__ import annotations

import time

import pytest
from conftest import RELATION

from bench import recipes, speed
from lib.localize.attribution import attribute
from lib.localize.corruption import plain_tokens
from lib.localize.nodes import Cases, heads_and_mlps

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


@pytest.mark.parametrize("method", speed.CONTENDERS)
def test_all_contenders_of_the_bench_give_the_same_scores(llama, formats, records, method):
    cases = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[::20])
    nodes = [n for n in heads_and_mlps(llama.model) if n.layer in (1, 4)]
    value = "p_restored" if method == "causal tracing" else "score"
    ours, *others = (
        speed._runner(method, name, llama, cases, nodes)().set_index(KEYS)[value].sort_index()
        for name in speed.CONTENDERS[method]
    )
    assert others and len(ours) == len(cases.ids) * len(nodes) and ours.nunique() > len(nodes)
    for theirs in others:
        assert list(theirs.index) == list(ours.index)
        assert theirs.to_numpy() == pytest.approx(ours.to_numpy(), rel=2e-3, abs=1e-4 * ours.max())


def test_operations_of_the_plain_loop_are_those_of_two_nodes_continued(llama, formats, records):
    cases = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[::20])
    nodes = heads_and_mlps(llama.model)[:5]

    def run_for(some):
        return speed._runner("causal tracing", "plain loop", llama, cases, some)

    counted = speed._operations(run_for, nodes, sample=False)
    assert counted > 0
    assert speed._operations(run_for, nodes, sample=True) == pytest.approx(counted, rel=1e-9)


def test_memory_counts_what_is_held_only_for_a_while():
    with speed._memory() as memory:
        held = bytearray(b"1" * (64 * 2**20))
        time.sleep(0.1)
        del held
        time.sleep(0.1)
    assert 60 < max(memory) - memory[0] < 300
