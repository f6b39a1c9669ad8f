"""What holds for every attack: nothing is left behind, the same seed gives the same rows, and on an
unedited model every attack finds what was there."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas
import pytest
import torch
import yaml
from conftest import edit_settings

import lib.attacks
from lib import config, paths
from lib.attacks import battery
from lib.attacks.battery import CHOOSING
from lib.attacks.target import MASK, NEVER_KNOWN, Operations, Target
from lib.edit import delta
from lib.edit.train import EditData, train
from lib.facts.records import FORGET, make_split
from lib.figures.attacks import USES
from lib.localize.select import last_mlps
from lib.model.weights import kept, trainable
from lib.store import Store

SMALL = {
    "in_context": {"shots": [1, 3]},
    "interpolate": {"shares": [0.0, 1.0]},
    "jailbreak": {"wordings": "data/raw/jailbreak_wordings.yaml"},
    "logit_lens": {},
    "noise": {"sizes": [0.01]},
    "probes": {"regularization": 0.1, "least": 2},
    "prompt_adapter": dict(
        memory=3, radius=6.0, lr=1e-3, steps=3, read_at=[0, 3], batch_facts=4, batch_retain=4
    ),
    "prune": {"shares": [0.02]},
    "quantize": {"bits": [8], "group": 16},
    "relearn": dict(
        rank=4,
        alpha=8,
        lr=0.002,
        steps=3,
        read_at=[0, 3],
        batch_facts=4,
        batch_retain=4,
        batch_passages=1,
    ),
    "rephrase": {"gate": 0.8, "keep": 0.8},
    "soft_prompt": dict(vectors=3, lr=0.3, steps=3, read_at=[0, 3], batch_facts=4, batch_retain=4),
    "token_search": {"tokens": 2, "rounds": 1, "candidates": 3, "facts": 4},
    "transplant": {"every": 2},
}

PROMPTS = {
    "in_context",
    "jailbreak",
    "rephrase",
    "soft_prompt",
    "token_search",
}  # strange to a tiny model


def settings_of(method: str, **changes):
    return battery.module(method).Settings(**SMALL[method] | changes)


@pytest.fixture(params=SMALL)
def method(request):
    return request.param


def attacked(target, method, **changes):
    return battery.run(target, {method: (method, settings_of(method, **changes))})


def test_every_attack_there_is_is_tested():
    assert set(SMALL) == set(battery.methods())


def test_an_attack_leaves_the_model_as_it_was(target, method):
    model = target.loaded.model
    before = {n: p.clone() for n, p in model.named_parameters()}
    modules = dict(model.named_modules())
    attacked(target, method)
    assert dict(model.named_modules()) == modules
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], p) and not after[n].requires_grad for n, p in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_same_seed_gives_the_same_rows(target, method):
    first, again = (attacked(target, method)[0] for _ in range(2))
    pandas.testing.assert_frame_equal(first, again, check_exact=True)


@pytest.mark.parametrize("method", sorted(set(SMALL) - PROMPTS))
def test_an_unedited_model_still_knows_its_facts_under_attack(target, method):
    rows, _ = attacked(target, method)
    last = rows[rows.budget == rows.budget.max()]
    right = (last.answer == last.true)[last.split.isin(FORGET)]
    assert right.mean() >= 0.75


def test_every_read_out_asks_both_halves_and_invented_subjects(target, method):
    rows, ledger = attacked(target, method)
    assert len(ledger) == len(rows.groupby(["variant", "budget"]))
    for _, level in rows.groupby(["variant", "budget"]):
        assert {*FORGET, NEVER_KNOWN} <= set(level.split)
        assert not level.duplicated("id").any()
    assert rows[["p_true", "p_edit"]].stack().between(0, 1 + 1e-6).all()


def test_the_ledger_counts_what_is_spent(target):
    _, ledger = attacked(target, "relearn")
    none, some = ledger.sort_values("steps").itertuples()
    assert (none.gflop, none.steps, some.steps) == (0, 0, 3)
    assert some.gflop > 0 and some.trained == none.trained > 0


def test_operations_are_counted_by_the_formula():
    with Operations() as work:
        torch.ones(3, 4) @ torch.ones(4, 5)
        with work.paused():
            torch.ones(3, 4) @ torch.ones(4, 5)
    assert work.total == 2 * 3 * 4 * 5


def test_steps_alike_are_counted_once_each():
    with Operations() as work:
        for _ in range(3):
            with work.step():
                torch.ones(3, 4) @ torch.ones(4, 5)
        torch.ones(3, 4) @ torch.ones(4, 5)
    assert work.total == 4 * 2 * 3 * 4 * 5
    work.restart()
    assert work.total == 0


def test_an_edit_is_on_the_model_only_inside(target, middle, tmp_path):
    model, name = target.loaded.model, "model.layers.2.mlp.down_proj.weight"
    weight = dict(model.named_parameters())[name]
    clean = weight.clone()
    with torch.no_grad():
        weight.add_(1.0)
    delta.save(model, middle, {"base_checksum": target.loaded.checksum}, tmp_path)
    with torch.no_grad():
        weight.copy_(clean)
    with target.edited(tmp_path) as edited:
        assert torch.equal(weight, clean + 1.0)
        assert torch.equal(edited.unedited[name], clean)
        with edited.without_edit():
            assert torch.equal(weight, clean)
        assert torch.equal(weight, clean + 1.0)
    assert torch.equal(weight, clean)


def test_an_attack_that_breaks_leaves_the_model_as_it_was(target, monkeypatch):
    before = {n: p.clone() for n, p in target.loaded.model.named_parameters()}

    def broken(*args, **kwargs):
        raise RuntimeError("stopped")

    for method in ("relearn", "quantize", "interpolate", "soft_prompt"):
        with monkeypatch.context() as patch:
            patch.setattr(Target, "read", broken)
            with pytest.raises(RuntimeError):
                attacked(target, method)
        after = dict(target.loaded.model.named_parameters())
        assert after.keys() == before.keys()
        assert all(torch.equal(after[n], p) for n, p in before.items())


def test_an_attack_interrupted_half_way_starts_again_as_if_nothing_had_been(target, method):
    before = {n: p.clone() for n, p in target.loaded.model.named_parameters()}
    whole, _ = attacked(target, method)
    levels = battery.module(method).attack(target, settings_of(method))
    next(iter(levels))
    levels.close()
    after = dict(target.loaded.model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], p) for n, p in before.items())
    again, _ = attacked(target, method)
    pandas.testing.assert_frame_equal(whole, again, check_exact=True)


def test_an_unknown_attack_is_one_sentence(refuses):
    with refuses(ValueError, "unknown attack 'relern'", "relearn"):
        battery.module("relern")


def test_the_docs_show_how_to_add_an_attack(target, tmp_path, monkeypatch):
    text = (paths.ROOT / "docs" / "EXTEND.md").read_text()
    (code,) = re.findall(r"`lib/attacks/shrink.py`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 20
    (tmp_path / "shrink.py").write_text(code)
    monkeypatch.setattr(lib.attacks, "__path__", [*lib.attacks.__path__, str(tmp_path)])
    raw = yaml.safe_load(paths.PARAMS.read_text())
    raw["attack_weights"]["shrink"] = {"factors": [1.0, 0.01]}
    method, settings = battery.chosen(config.parse(raw), "weights")["shrink"]
    rows, _ = battery.run(target, {"shrink": (method, settings)})
    right = (rows.answer == rows.true)[rows.split.isin(FORGET)].groupby(rows.budget).mean()
    assert right[1.0] > 0.9 > right[0.01]


# Rehearsals and the known mask


def some(*methods, **changes):
    """{method: (method, its small settings)}."""
    return {m: (m, settings_of(m, **changes.get(m, {}))) for m in methods}


@pytest.fixture
def rehearsed(target):
    return battery.rehearsed(target, some("relearn", "in_context", "noise", "jailbreak"))


def test_attackers_that_teach_rehearse_on_the_half_they_were_told_and_no_others_do(
    rehearsed, known_split
):
    rows, _ = rehearsed
    inner = rows[rows.split == CHOOSING]
    assert set(inner.attack) == {"relearn", "in_context"}
    for _, level in inner.groupby(["attack", "variant", "budget"]):
        assert sorted(level.id) == sorted(known_split.forget_train[1::2])


def test_a_rehearsal_adds_rows_and_changes_none(rehearsed, target):
    rows, ledger = rehearsed
    plain, spent = battery.run(target, some("relearn", "in_context", "noise", "jailbreak"))
    outer = rows[rows.split != CHOOSING].reset_index(drop=True)
    pandas.testing.assert_frame_equal(outer, plain, check_exact=True)
    pandas.testing.assert_frame_equal(ledger, spent, check_exact=True)


def test_a_rehearsal_is_the_attack_taught_with_a_quarter_of_the_facts(
    rehearsed, target, known_split
):
    told = known_split.forget_train
    split = replace(known_split, forget_train=told[0::2], forget_heldout=told[1::2])
    rows, _ = battery.run(replace(target, split=split), some("relearn"))
    keys, said = ["budget", "id"], ["answer", "p_true", "p_edit"]
    expected = rows[rows.split == "forget_heldout"].set_index(keys)[said]
    inner = rehearsed[0].query("split == @CHOOSING and attack == 'relearn'").set_index(keys)[said]
    assert len(inner) and inner.to_dict() == expected.to_dict()


def test_no_fact_of_the_held_out_half_enters_a_rehearsal(target, known_split):
    other = replace(known_split, forget_heldout=known_split.forget_heldout[:1])
    inner = [
        battery.rehearsed(t, some("relearn", "in_context"))[0].query("split == @CHOOSING")
        for t in (target, replace(target, split=other))
    ]
    assert len(inner[0])
    left, right = (rows.reset_index(drop=True) for rows in inner)
    pandas.testing.assert_frame_equal(left, right, check_exact=True)


def test_a_rehearsal_leaves_the_weights_as_they_were(target):
    before = {n: p.clone() for n, p in target.loaded.model.named_parameters()}
    battery.rehearsed(target, some("relearn", "in_context"))
    after = dict(target.loaded.model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in before.items())


def test_where_no_attack_teaches_nothing_is_rehearsed(target):
    attacks = some("noise", "relearn", relearn={"teach": "related"})
    rows, ledger = battery.rehearsed(target, attacks)
    assert CHOOSING not in set(rows.split) and set(ledger.attack) == {"noise", "relearn"}


def test_the_halves_of_a_rehearsal_are_those_of_the_taught_half(target, known_split):
    inner, told = target.rehearsal(), known_split.forget_train
    asked = {role: {f.id for f in facts} for role, facts in inner.asked().items()}
    assert [f.id for f in inner.taught] == list(told[0::2])
    assert asked["forget_heldout"] == set(told[1::2])
    assert not set().union(*asked.values()) & set(known_split.forget_heldout)
    kept_apart = ("retain_train", "retain_val", "retain_test", "fewshot")
    assert all(getattr(inner.split, r) == getattr(known_split, r) for r in kept_apart)


TASK = "sports-athletes"


def edit(target, place, changed, folder, **card):
    """Store an edit that gives facts their new answers, as the notebooks make it."""
    loaded, facts = target.loaded, target.facts
    others = [facts[i] for i in target.split.retain_train]
    data = EditData.of(loaded.tokenizer, [facts[i] for i in changed], others, target.passages)
    settings = edit_settings(batch_facts=12, max_steps=60, lr=0.01, weight_text=0.0)
    with kept(trainable(loaded.model, place)):
        assert train(loaded.model, place, data, settings, 0).reached
        delta.save(loaded.model, place, {"base_checksum": loaded.checksum} | card, folder)


@pytest.fixture
def masking(aim, pupil, known, tmp_path, monkeypatch):
    """A target with six validation facts and a stored edit of these that is known to mask."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    split = make_split(list(known.values()), forget=12, fewshot=0, shares=(0.3, 0.4), seed=0)
    target, changed = aim(pupil, split=split, store=Store("data")), split.retain_val[:6]
    folder = target.store.folder("settings", TASK, 0, MASK)
    edit(target, last_mlps(pupil.model, 2), changed, folder, facts=[*changed])
    return target


def test_the_known_mask_is_on_the_model_only_inside(masking):
    model = masking.loaded.model
    place = trainable(model, last_mlps(model, 2))
    before = {n: p.clone() for n, p in model.named_parameters()}
    with masking.masked() as masked:
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert changed == set(place) == set(masked.unedited)
        assert all(torch.equal(masked.unedited[n], before[n]) for n in place)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    with pytest.raises(RuntimeError), masking.masked():
        raise RuntimeError("stopped")
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_the_known_mask_asks_the_facts_that_it_edited(masking):
    changed = masking.split.retain_val[:6]
    with masking.masked() as masked:
        rows = masked.read(roles=FORGET)
        with masked.without_edit():
            before = masked.read(roles=FORGET)
        assert [f.id for f in masked.taught] == list(changed[0::2])
        assert not set(masked.split.role_of()) & set(masking.split.retain_val[6:])
    halves = {"forget_train": {*changed[0::2]}, "forget_heldout": {*changed[1::2]}}
    assert rows.groupby("split").id.agg(set).to_dict() == halves
    assert (rows.answer == rows.edit).all() and (before.answer == before.true).all()
    assert set(masking.asked()["forget_train"]) == set(masking.taught)


def test_a_known_mask_of_other_weights_is_refused(masking, refuses):
    masking.loaded.checksum = "d" * 64
    with refuses(ValueError, "made from weights cccc", "dddd"), masking.masked():
        pass


@pytest.fixture
def edited(masking, middle):
    """The same with two stored edits and a third that equals the first."""
    store, split = masking.store, masking.split
    for name in ("one", "two"):
        edit(masking, middle, split.forget, store.folder("edit", TASK, name, 0))
    card = store.folder("edit", TASK, "twin", 0) / "card.json"
    card.write_text('{"equals": "one"}')
    return masking


def splits(rows: pandas.DataFrame) -> dict[str, bool]:
    """{model: was there a rehearsal?}."""
    return (rows.split == CHOOSING).groupby(rows.localization, sort=False).any().to_dict()


def test_thorough_attackers_rehearse_and_face_the_known_mask(edited):
    attacks = some("in_context", "noise")
    rows, ledger = battery.on_all(edited, ["one", "two", "twin"], attacks, ["one", "twin"])
    expected = {"unedited": False, MASK: True, "one": True, "two": False, "twin": True}
    assert splits(rows) == expected and set(ledger.localization) == set(expected)
    mine = {n: part.drop(columns="localization") for n, part in rows.groupby("localization")}
    left, right = (mine[n].reset_index(drop=True) for n in ("one", "twin"))
    pandas.testing.assert_frame_equal(left, right, check_exact=True)
    on_mask = rows[(rows.localization == MASK) & (rows.split == "forget_heldout")]
    assert set(on_mask.id) == set(edited.split.retain_val[:6][1::2])


def test_without_thorough_attackers_there_is_no_mask(edited):
    rows, _ = battery.on_all(edited, ["one"], some("in_context"))
    assert splits(rows) == {"unedited": False, "one": False}


def test_who_needs_the_unedited_model_is_known_by_attack_and_variant():
    assert battery.oracle("interpolate", "") and battery.oracle("transplant", "answer")
    assert battery.oracle("probes", "unedited") and not battery.oracle("probes", "refit")
    assert not battery.oracle("noise", "") and not battery.oracle("relearn", "")


def test_every_attack_is_drawn_in_one_group():
    drawn = [method for methods in USES.values() for method in methods]
    assert sorted(drawn) == sorted(battery.methods())
