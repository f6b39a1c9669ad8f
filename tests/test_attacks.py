"""What holds for every attack: nothing is left behind, the same seed gives the same rows, and on an
unedited model every attack finds what was there."""

from __future__ import annotations

import re

import pandas
import pytest
import torch
import yaml

import lib.attacks
from lib import config, paths
from lib.attacks import battery
from lib.attacks.target import NEVER_KNOWN, Operations, Target
from lib.facts.records import FORGET
from lib.figures.attacks import ATTACKS

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
    "rephrase": {"gate": 0.8},
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
    from lib.edit import delta

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


def test_every_attack_has_its_look():
    assert set(ATTACKS) == set(battery.methods())
