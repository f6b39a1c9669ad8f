"""Path patching: exact effects, the planted lookup found, groups that follow their rules."""

from __future__ import annotations

from contextlib import ExitStack

import numpy
import pandas
import pytest
import torch
import toy
from conftest import RELATION

from lib.localize import circuit
from lib.localize.cases import Cases
from lib.localize.circuit import Corruptions
from lib.localize.corruption import corrupted, plain_tokens
from lib.localize.scores import over_halves
from lib.model.anatomy import blocks, final_norm, projection
from lib.model.nodes import Node, columns, reading

LAYERS, HEADS = 6, 4  # of the tiny models
ONE = Corruptions(toy.FILLER_WORDS, 1, 0)


@pytest.fixture(scope="module")
def cases(loaded, formats, records):
    return Cases.of(loaded.tokenizer, {RELATION: formats.training}, records[::9])


@pytest.fixture(scope="module")
def how(loaded):
    return Corruptions(plain_tokens(loaded.tokenizer), 1, 0)


@pytest.fixture(scope="module")
def planted():
    return toy.Toy(planted=True)


@pytest.fixture(scope="module")
def found(planted):
    """Rows of all three steps for the planted facts."""
    heads = circuit.head_effects(planted, toy.cases(), ONE)
    below = circuit.mlp_effects(planted, toy.cases(), ONE, [toy.READ_OUT])
    return heads, below, circuit.direct_effects(planted, toy.cases(), ONE)


# --- one patch, done by hand -----------------------------------------------------------------


class Hand:
    """One fact in the plain model, one prompt at a time."""

    def __init__(self, loaded, cases: Cases, how: Corruptions, i: int):
        self.model, self.target, self.others = loaded.model, cases.targets[i], cases.contrasts[i]
        spoilt = corrupted(cases.split_before_subjects(), how.words, 0, how.seed)
        self.ids, clean_ids = (
            torch.tensor([[*c.prompts.prefix, *c.prompts.suffixes[i]]]) for c in (spoilt, cases)
        )
        self.clean, self.ld_clean = self.read(clean_ids)
        self.corrupt, self.ld_corrupt = self.read(self.ids)

    @torch.no_grad()
    def read(self, ids):
        with reading(self.model) as activations:
            return activations, self.difference(self.model(ids))

    def difference(self, output) -> float:
        logits = output.logits[0, -1]
        return (logits[self.target] - logits[self.others].mean()).item()

    @torch.no_grad()
    def changed(self, edits: list) -> float:
        """Change of the corrupt logit difference if inputs of modules are edited:
        (module, function)."""
        with ExitStack() as stack:
            for module, edit in edits:

                def hook(module, args, kwargs, edit=edit):
                    given = args[0] if args else kwargs["hidden_states"]
                    rest = {k: v for k, v in kwargs.items() if k != "hidden_states"}
                    return (edit(given), *args[1:]), rest

                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            return self.difference(self.model(self.ids)) - self.ld_corrupt

    def head(self, layer: int, head: int) -> float:
        edits = []
        for number, block in enumerate(blocks(self.model)):
            fixed = self.corrupt.heads[number].clone()
            if number == layer:
                where = columns(self.model, Node("head", layer, head))
                fixed[-1, where] = self.clean.heads[number][-1, where]
            edits.append((projection(block), lambda given, fixed=fixed: fixed[None]))
        return self.changed(edits)

    def mlp(self, layer: int, receiver: int) -> float:
        added = self.clean.mlp[layer] - self.corrupt.mlp[layer]
        return self.changed([(blocks(self.model)[receiver], lambda given: given + added)])

    def direct(self, layer: int) -> float:
        added = self.clean.mlp[layer] - self.corrupt.mlp[layer]
        return self.changed([(final_norm(self.model), lambda given: given + added)])


CLOSE = dict(rel=2e-3, abs=2e-3)


def test_a_heads_effect_equals_the_patch_by_hand(loaded, cases, how):
    rows = circuit.head_effects(loaded.model, cases, how).set_index(["id", "layer", "head"])
    assert len(rows) == len(cases.ids) * LAYERS * HEADS
    for i in (0, 3):
        hand = Hand(loaded, cases, how, i)
        for layer, head in ((0, 1), (2, 3), (5, 0)):
            row = rows.loc[(cases.ids[i], layer, head)]
            assert row.change == pytest.approx(hand.head(layer, head), **CLOSE)
            assert row.gap == pytest.approx(hand.ld_clean - hand.ld_corrupt, **CLOSE)
    assert rows.change.abs().max() > 0.05


def test_an_mlps_effect_on_a_receiver_equals_the_patch_by_hand(loaded, cases, how):
    rows = circuit.mlp_effects(loaded.model, cases, how, [2, 4])
    assert rows.change.abs().max() > 0.05
    rows = rows.set_index(["id", "layer", "receiver"])
    for i in (0, 3):
        hand = Hand(loaded, cases, how, i)
        for layer, receiver in ((0, 2), (1, 2), (1, 4), (3, 4)):
            row = rows.loc[(cases.ids[i], layer, receiver)]
            assert row.change == pytest.approx(hand.mlp(layer, receiver), **CLOSE)
            assert row.gap == pytest.approx(hand.ld_clean - hand.ld_corrupt, **CLOSE)


def test_a_direct_effect_equals_the_patch_of_the_final_residual_by_hand(loaded, cases, how):
    rows = circuit.direct_effects(loaded.model, cases, how).set_index(["id", "layer"])
    assert len(rows) == len(cases.ids) * LAYERS and set(rows.kind) == {"mlp"}
    assert rows.change.abs().max() > 0.05
    for i in (0, 3):
        hand = Hand(loaded, cases, how, i)
        for layer in (0, 3, 5):
            row = rows.loc[(cases.ids[i], layer)]
            assert row.change == pytest.approx(hand.direct(layer), **CLOSE)


# --- invariants ------------------------------------------------------------------------------


def three_steps(model, cases, how) -> list[pandas.DataFrame]:
    return [
        circuit.head_effects(model, cases, how),
        circuit.mlp_effects(model, cases, how, [3]),
        circuit.direct_effects(model, cases, how),
    ]


def test_identical_prompts_have_no_effects(loaded, cases):
    word = plain_tokens(loaded.tokenizer)[:1]
    same = corrupted(cases.split_before_subjects(), word, 0, seed=0)
    for rows in three_steps(loaded.model, same, Corruptions(word, 1, 0)):
        assert len(rows) and rows.change.abs().max() < 1e-4 and rows.gap.abs().max() < 1e-4


def test_permuted_facts_give_permuted_rows(loaded, cases, how):
    order = [4, 0, 2, 1]
    one, other = (three_steps(loaded.model, cases.take(o), how) for o in (sorted(order), order))
    for a, b in zip(one, other):
        keys = [k for k in ("id", "kind", "layer", "head", "receiver") if k in a]
        a, b = (t.set_index(keys)[["change", "gap"]] for t in (a, b))
        assert list(a.index) != list(b.index)
        assert b.loc[a.index].to_numpy() == pytest.approx(a.to_numpy(), rel=1e-3, abs=1e-4)


def test_effects_are_means_over_corruptions(llama, formats, records):
    some = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[::14])
    words = plain_tokens(llama.tokenizer)
    one, two = (circuit.head_effects(llama.model, some, Corruptions(words, n, 0)) for n in (1, 2))
    other = circuit.head_effects(llama.model, some, Corruptions(words, 2, 1))
    assert one.id.tolist() == two.id.tolist() and len(one) == len(some.ids) * LAYERS * HEADS
    assert (one.change - two.change).abs().max() > 1e-3
    assert (other.change - two.change).abs().max() > 1e-3


def test_several_receivers_at_once_are_each_alone(llama, formats, records):
    some = Cases.of(llama.tokenizer, {RELATION: formats.training}, records[::14])
    how = Corruptions(plain_tokens(llama.tokenizer), 1, 0)
    both = circuit.mlp_effects(llama.model, some, how, [2, 4])
    assert sorted(both.groupby("receiver").layer.nunique().items()) == [(2, 2), (4, 4)]
    assert (both.layer < both.receiver).all()
    for receiver in (2, 4):
        alone = circuit.mlp_effects(llama.model, some, how, [receiver])
        mine = both[both.receiver == receiver].reset_index(drop=True)
        pandas.testing.assert_frame_equal(mine, alone, rtol=1e-4, atol=1e-5)


# --- the planted lookup ----------------------------------------------------------------------


def test_the_planted_head_carries_the_whole_answer(found):
    heads = circuit.shares(found[0])
    assert heads.effect.max() == pytest.approx(1, abs=1e-4)
    assert circuit.strongest(heads, 1) == [Node("head", toy.READ_OUT, 0)]
    others = heads[(heads.layer != toy.READ_OUT) | (heads["head"] != 0)]
    assert others.effect.abs().max() < 1e-4
    assert circuit.receiver_of(found[0], 1) == toy.READ_OUT


def test_the_planted_lookup_feeds_the_head_alone(found):
    effect = circuit.shares(found[1]).set_index("layer").effect
    assert sorted(effect.index) == list(range(toy.READ_OUT))
    assert effect[toy.LOOKUP] == pytest.approx(1, abs=1e-4)
    assert effect.drop(toy.LOOKUP).abs().max() < 1e-4


@pytest.mark.parametrize("rule", circuit.RULES)
def test_the_planted_mechanisms_are_found(found, rule):
    assert circuit.lookup_layers(*found[:2], 1, 0.02, rule) == [toy.LOOKUP]
    assert circuit.mechanisms(*found, 1, 0.02, rule) == {
        "extraction heads": [Node("head", toy.READ_OUT, 0)],
        "lookup MLPs": [Node("mlp", toy.LOOKUP)],
        "writing MLPs": [Node("mlp", toy.WRITE)],
    }


def test_a_number_of_layers_concerns_the_lookup_alone(found):
    """The planted lookup and one that does nothing; what writes is still found by the rule."""
    assert circuit.lookup_layers(*found[:2], 1, 0.02, number=1) == [toy.LOOKUP]
    two = circuit.lookup_layers(*found[:2], 1, 2.0, number=2)
    assert len(two) == 2 and toy.LOOKUP in two
    groups = circuit.mechanisms(*found, 1, 0.02, "signed", 2)
    assert [n.layer for n in groups["lookup MLPs"]] == two
    assert groups["writing MLPs"] == [Node("mlp", toy.WRITE)]


def largest(number: int):
    return lambda effects: circuit.layers_above(effects, 0.02, "signed", number)


@pytest.mark.parametrize("choose", [largest(1), lambda e: circuit.layers_above(e, 0.02)])
def test_the_planted_lookup_is_chosen_in_all_samples(found, choose):
    table = circuit.how_often(found[1], choose).set_index("layer")
    assert sorted(table.index) == list(range(toy.READ_OUT))
    assert table.chosen[toy.LOOKUP] == pytest.approx(1)
    assert table.share.sum() == pytest.approx(1) == table.share[toy.LOOKUP]
    assert table.drop(toy.LOOKUP).chosen.sum() == 0
    effect = circuit.shares(found[1]).set_index("layer").effect
    assert table.effect.to_dict() == pytest.approx(effect.to_dict(), abs=1e-12)


def noisy_rows(**means: float) -> pandas.DataFrame:
    """MLPs l0, l1, ... whose effects on 60 facts scatter by 2 around their means; all gaps 4."""
    rng = numpy.random.default_rng(0)
    rows = [
        {"id": f"fact {i}", "kind": "mlp", "layer": int(name[1:]), "head": -1, "receiver": 5}
        | {"change": rng.normal(mean, 2), "gap": 4.0}
        for name, mean in means.items()
        for i in range(60)
    ]
    return pandas.DataFrame(rows)


def test_layers_that_are_alike_share_the_samples():
    rows = noisy_rows(l0=-4.0, l1=1.0, l2=1.0, l3=8.0)
    table = circuit.how_often(rows, largest(2)).set_index("layer")
    assert table.chosen[3] == pytest.approx(1) and table.chosen[0] == 0
    assert table.chosen.sum() == pytest.approx(2)
    assert 0.02 < table.chosen[1] < 0.98 and 0.02 < table.chosen[2] < 0.98


def test_shares_are_parts_of_all_effects_that_help():
    rows = noisy_rows(l0=-4.0, l1=4.0, l2=8.0)
    table = circuit.how_often(rows, largest(1)).set_index("layer")
    assert table.share.sum() == pytest.approx(1) and table.share[0] == 0 > table.effect[0]
    assert table.share[2] / table.share[1] == pytest.approx(table.effect[2] / table.effect[1])


def test_each_sample_has_the_error_of_the_samples():
    """An effect of about twice its standard error is above that in about half of the samples."""
    rows = noisy_rows(l0=0.0)
    spread = rows.change.std(ddof=0) / numpy.sqrt(60)
    rows["change"] += 2 * spread - rows.change.mean()
    (row,) = circuit.how_often(rows, lambda e: circuit.layers_above(e, 1e-9)).itertuples()
    assert 0.3 < row.chosen < 0.7


def test_how_often_does_not_depend_on_the_order_of_rows():
    rows = noisy_rows(l0=1.0, l1=1.0)
    a, b = (
        circuit.how_often(r, largest(1)).set_index("layer").round(9)
        for r in (rows, rows.sample(frac=1, random_state=0))
    )
    pandas.testing.assert_frame_equal(a, b)


def test_an_effect_below_the_threshold_is_no_mechanism(found):
    groups = circuit.mechanisms(*found, 1, 0.7)
    assert groups["lookup MLPs"] and not groups["writing MLPs"]


def test_an_mlp_below_the_receiver_never_writes_and_none_above_it_is_lookup(found):
    """Rows that claim every MLP matters a lot, on both paths."""
    heads, below, direct = found
    loud = direct.assign(change=direct.gap)
    every = loud.assign(receiver=toy.READ_OUT)
    every = every[every.layer < toy.READ_OUT]
    other = loud.assign(receiver=toy.READ_OUT + 1)
    groups = circuit.mechanisms(heads, pandas.concat([every, other]), loud, 1, 0.02)
    assert [n.layer for n in groups["lookup MLPs"]] == list(range(toy.READ_OUT))
    assert [n.layer for n in groups["writing MLPs"]] == list(range(toy.READ_OUT, toy.LAYERS))


def test_every_mlp_below_the_receiver_and_no_other_can_be_lookup(loaded, cases, how):
    heads = circuit.head_effects(loaded.model, cases, how)
    upper = heads[heads.layer >= 3]
    mlps = circuit.mlp_effects(loaded.model, cases, how, [3, 4])
    found = circuit.lookup_layers(upper, mlps, LAYERS * HEADS, 1e-6, "absolute")
    assert found == [0, 1, 2]


def test_heads_in_the_first_layer_have_no_mlp_below():
    linear, facts = toy.Toy(planted=False), toy.cases()
    heads = circuit.head_effects(linear, facts, ONE)
    every = toy.LAYERS * toy.HEADS
    assert circuit.receiver_of(heads, every) == 0
    higher = circuit.mlp_effects(linear, facts, ONE, [2])
    assert circuit.lookup_layers(heads, higher, every, 1e-6, "absolute") == []
    assert circuit.receivers(heads, [heads], [every], every) == []


@pytest.mark.parametrize("receivers", [[], [0]])
def test_receivers_without_an_mlp_below_give_no_rows(planted, receivers):
    rows = circuit.mlp_effects(planted, toy.cases(), ONE, receivers)
    assert rows.empty and {"id", "layer", "change", "gap", "receiver"} <= set(rows.columns)
    assert rows.change.dtype == float and rows.receiver.dtype == int, "joined to others later"


# --- from rows to groups ---------------------------------------------------------------------


def test_shares_are_ratios_of_means_with_the_error_over_facts():
    rng = numpy.random.default_rng(0)
    n = 400
    gap, change = rng.normal(4, 0.5, n), rng.normal(1, 2, n)
    rows = pandas.DataFrame({"id": [f"fact {i}" for i in range(n)], "kind": "mlp", "layer": 3})
    rows = rows.assign(head=-1, change=change, gap=gap)
    (row,) = circuit.shares(rows).itertuples()
    assert (row.kind, row.layer, row.head) == ("mlp", 3, -1)
    assert row.effect == pytest.approx(change.mean() / gap.mean())
    expected = (change - row.effect * gap).std() / gap.mean() / numpy.sqrt(n)
    assert row.error == pytest.approx(expected, rel=0.15)


def test_shares_do_not_depend_on_the_order_of_rows(found):
    keys = ["kind", "layer", "head"]
    mixed = found[0].sample(frac=1, random_state=0)
    a, b = (circuit.shares(rows).set_index(keys).sort_index().effect for rows in (found[0], mixed))
    assert b.to_numpy() == pytest.approx(a.to_numpy(), abs=1e-12)


def test_strongest_means_the_largest_effect_of_either_sign():
    heads = pandas.DataFrame(
        {"kind": "head", "layer": [4, 2, 0, 5], "head": [0, 1, 2, 3], "effect": [0.1, -0.5, 0, 0.3]}
    )
    expected = [Node("head", 2, 1), Node("head", 5, 3)]
    assert circuit.strongest(heads, 2) == expected
    assert len(circuit.strongest(heads, 9)) == 4


EFFECTS = pandas.DataFrame(
    {
        "layer": [5, 0, 1, 2, 3],
        "effect": [0.03, 0.01, 0.3, 0.3, -0.4],
        "error": [0.001, 0.001, 0.2, 0.1, 0.01],
    }
)


@pytest.mark.parametrize(
    ("rule", "threshold", "expected"),
    [
        ("signed", 0.02, [2, 5]),  # layer 1 is too uncertain, layer 3 hurts
        ("signed", 0.005, [0, 2, 5]),
        ("signed", 0.3, []),  # on the threshold is not above it
        ("absolute", 0.02, [1, 2, 3, 5]),
        ("absolute", 0.35, [3]),
    ],
)
def test_layers_lie_above_threshold_and_error(rule, threshold, expected):
    assert circuit.layers_above(EFFECTS, threshold, rule) == expected


@pytest.mark.parametrize(
    ("number", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 5]), (5, [0, 1, 2, 3, 5])]
)
@pytest.mark.parametrize("rule", circuit.RULES)
def test_a_number_of_layers_are_those_with_the_largest_effects(rule, number, expected):
    """Whatever the threshold and the errors say; an effect that hurts comes last."""
    assert circuit.layers_above(EFFECTS, 0.9, rule, number) == expected


def test_an_unknown_rule_is_refused_with_a_number_too(refuses):
    with refuses(ValueError, "unknown rule 'loudest'"):
        circuit.layers_above(EFFECTS, 0.02, "loudest", 2)


def test_the_rule_is_signed_unless_it_is_said():
    assert circuit.layers_above(EFFECTS, 0.02) == circuit.layers_above(EFFECTS, 0.02, "signed")


def test_an_unknown_rule_is_refused(refuses):
    with refuses(ValueError, "unknown rule 'loudest'", "signed, absolute"):
        circuit.layers_above(EFFECTS, 0.02, "loudest")


def invented_rows(seed: int, n_facts: int = 12) -> pandas.DataFrame:
    """Head rows that are all noise: halves and repeats disagree about the strongest heads."""
    rng = numpy.random.default_rng(seed)
    rows = [
        {"id": f"fact {i}", "kind": "head", "layer": layer, "head": head}
        | {"change": rng.normal(), "gap": 3.0}
        for layer in range(LAYERS)
        for head in range(HEADS)
        for i in range(n_facts)
    ]
    return pandas.DataFrame(rows)


def test_receivers_hold_every_layer_that_is_asked_for():
    """Repeats, other numbers of heads and the very halves that over_halves draws."""
    repeats, counts, heads = [invented_rows(s) for s in range(3)], [1, 2, 4], 2
    rows = pandas.concat(repeats).groupby(["id", "kind", "layer", "head"]).mean().reset_index()
    known = circuit.receivers(rows, repeats, counts, heads)
    asked = [circuit.receiver_of(rows, n) for n in counts]
    asked += [circuit.receiver_of(part, heads) for part in repeats]

    def note(half):
        asked.append(circuit.receiver_of(rows[rows.id.isin(half)], heads))
        return []

    over_halves(list(rows.id.unique()), note)
    assert len(asked) == 3 + 3 + 40
    assert known == sorted(set(asked) - {0}) and len(known) > 2


def loud_rows(*layers: int) -> pandas.DataFrame:
    """Head rows in which every fact agrees that these layers hold the strongest heads, in order."""
    change = {layer: 9.0 - i for i, layer in enumerate(layers)}
    rows = invented_rows(0)
    return rows.assign(change=rows.layer.map(change).fillna(0.1) * (rows["head"] == 0))


def test_receivers_hold_those_of_each_count_and_each_repeat():
    """All halves agree on layer 5: what else is there comes from the counts and the repeats."""
    rows, repeats = loud_rows(5, 3), [loud_rows(4), loud_rows(2), loud_rows(0)]
    assert circuit.receivers(rows, [], [1], 1) == [5]
    assert circuit.receivers(rows, [], [1, 2], 1) == [3, 5]
    assert circuit.receivers(rows, repeats, [1], 1) == [2, 4, 5]


def test_lookup_layers_read_the_rows_of_their_own_receiver():
    heads = invented_rows(0)
    wanted = circuit.receiver_of(heads, 1)
    assert wanted > 1
    ids = heads.id.unique()
    rows = [
        {"id": i, "kind": "mlp", "layer": layer, "head": -1, "receiver": receiver}
        | {"change": 1.0 if layer == receiver - 1 else 0.0, "gap": 3.0}
        for receiver in range(1, LAYERS)
        for layer in range(receiver)
        for i in ids
    ]
    assert circuit.lookup_layers(heads, pandas.DataFrame(rows), 1, 0.02) == [wanted - 1]
