"""What each attack does, one by one, on tiny models."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import torch
from test_attacks import SMALL, settings_of

from lib.attacks import (
    battery,
    in_context,
    inserted,
    logit_lens,
    probes,
    prune,
    quantize,
    token_search,
)
from lib.attacks.battery import run
from lib.attacks.jailbreak import load_wordings
from lib.attacks.prompt_adapter import Adapter
from lib.attacks.target import Target, last_line
from lib.facts.formats import encode
from lib.measure.answers import score_facts
from lib.model.packing import Pack
from lib.model.runner import Runner


@pytest.fixture
def shaken(target):
    """(target whose middle MLP was changed, the values it had before)."""
    name = "model.layers.2.mlp.down_proj.weight"
    weight = dict(target.loaded.model.named_parameters())[name]
    old = {name: weight.detach().clone()}
    with torch.no_grad():
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    target.unedited = old
    return target


def read(target):
    return target.read().set_index("id").p_true


def rows_of(target, method, **changes):
    return run(target, {method: (method, settings_of(method, **changes))})[0]


def test_inserted_tokens_equal_longer_prompts(family, fresh, formats, table):
    loaded = fresh(family)
    texts = [formats.training.prompt(s) for s in table.subject[:4]]
    prompts, tokens = encode(loaded.tokenizer, texts), (7, 9, 11)
    whole = loaded.tokenizer(texts).input_ids
    at = int(whole[0][0] == loaded.tokenizer.bos_token_id)
    found = inserted.Inserted(loaded, tokens).answer_logits(prompts)
    for row, ids in zip(found, whole):
        plain = loaded.model(torch.tensor([[*ids[:at], *tokens, *ids[at:]]])).logits[0, -1]
        torch.testing.assert_close(row, plain, atol=1e-4, rtol=1e-4)


def test_free_vectors_that_are_embeddings_equal_their_tokens(family, fresh, formats, table):
    loaded = fresh(family)
    prompts = encode(loaded.tokenizer, [formats.training.prompt(s) for s in table.subject[:4]])
    tokens = (7, 9, 11)
    vectors = loaded.model.get_input_embeddings()(torch.tensor(tokens)).detach()
    found = inserted.Inserted(loaded, tokens, vectors).answer_logits(prompts)
    expected = inserted.Inserted(loaded, tokens).answer_logits(prompts)
    torch.testing.assert_close(found, expected)


def test_a_soft_prompt_learns_the_taught_half(target):
    rows = rows_of(target, "soft_prompt", steps=30, read_at=[0, 30])
    taught = rows[rows.split == "forget_train"].groupby("budget").p_true.mean()
    assert taught[30] > taught[0] + 0.05


def test_a_new_adapter_changes_no_answer_and_has_the_published_size(target):
    rows = rows_of(target, "prompt_adapter", steps=1, read_at=[0, 1]).query("budget == 0")
    assert rows.set_index("id").p_true.to_dict() == pytest.approx(read(target).to_dict(), abs=1e-5)
    adapter = Adapter(64, memory=15, radius=6.0)
    size = sum(w.numel() for w in adapter.parameters())
    assert 5 * 64**2 <= size <= 5 * 64**2 + 30 * 64


def test_what_an_adapter_adds_is_clipped():
    adapter = Adapter(8, memory=3, radius=0.5)
    torch.nn.init.normal_(adapter.attention.out_proj.weight, std=100.0)
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    assert (adapter(x) - x).norm(dim=-1).max() <= 0.5 + 1e-5


def test_an_exchanged_token_never_makes_it_worse(shaken):
    loaded, taught = shaken.loaded, shaken.taught[:4]
    prompts = encode(loaded.tokenizer, [f.prompt for f in taught])
    answers = torch.tensor([f.true_token for f in taught])
    trigger = [20, 21]
    for place in (0, 1, 0):
        before = token_search.loss(loaded, prompts, answers, trigger)
        new = token_search.exchange(loaded, prompts, answers, trigger, place, candidates=5)
        assert token_search.loss(loaded, prompts, answers, new) <= before
        assert [a for i, a in enumerate(new) if i != place] == [
            a for i, a in enumerate(trigger) if i != place
        ]
        trigger = new
    assert trigger != [20, 21]


def test_the_slope_of_the_search_is_that_of_the_loss(shaken):
    loaded, taught = shaken.loaded, shaken.taught[:4]
    prompts = encode(loaded.tokenizer, [f.prompt for f in taught])
    answers = torch.tensor([f.true_token for f in taught])
    value, slope = token_search.gradient(loaded, prompts, answers, [20, 21], 1)
    vectors = loaded.model.get_input_embeddings()(torch.tensor([20, 21])).detach()
    step = 1e-3 * slope / slope.norm()
    moved = inserted.Inserted(loaded, (20, 21), vectors + torch.stack([0 * step, step]))
    pack = Pack(inserted.longer(prompts, (20, 21), moved.bos))
    after = moved.nll(pack, pack.answer_rows, answers).mean().item()
    assert (after - value) / 1e-3 == pytest.approx(slope.norm().item(), rel=0.05)


def test_shots_are_true_answers_of_taught_facts_only(target, known, known_split, monkeypatch):
    seen = []
    monkeypatch.setattr(Target, "read", lambda self, prefix="", **how: seen.append(prefix))
    levels = list(in_context.attack(target, settings_of("in_context", shots=[2, 99])))
    assert [level.budget for level in levels] == [2, 99]  # asked: all there are
    lines = seen[-1].splitlines()
    taught = [known[i] for i in known_split.forget_train]
    assert lines == [f"{last_line(f.prompt)} {f.true}" for f in taught]
    assert not any(known[i].subject in seen[-1] for i in known_split.forget_heldout)


def test_a_prefix_stands_before_every_prompt(target, known):
    heldout = target.asked(("forget_heldout",))["forget_heldout"]
    found = target.read(prefix="who is\n", roles=("forget_heldout",))
    runner, tokenizer = Runner(target.loaded.model), target.loaded.tokenizer
    form = next(iter(target.forms.values()))
    longer = type(form)("longer", "rewording", "who is\n" + form.template, form.answers)
    expected = score_facts(runner, tokenizer, {form_: longer for form_ in target.forms}, heldout)
    assert found.p_true.tolist() == pytest.approx(expected.p_true.tolist())


def test_bad_wordings_are_one_sentence(tmp_path, monkeypatch, refuses):
    from lib import paths

    monkeypatch.setattr(paths, "ROOT", tmp_path)
    with refuses(FileNotFoundError, "no wordings at w.yaml", "correct `wordings`"):
        load_wordings("w.yaml")
    (tmp_path / "w.yaml").write_text("one: two")
    with refuses(ValueError, "w.yaml must be a list of texts"):
        load_wordings("w.yaml")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_leaves_few_values_and_stays_close(bits):
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    found = quantize.rounded(weight, bits, group=16)
    for row, new in zip(weight, found):
        for part, rough in zip(row.split(16), new.split(16)):
            step = part.abs().max() / (2 ** (bits - 1) - 1)
            assert len(rough.unique()) <= 2**bits - 1
            assert (part - rough).abs().max() <= step / 2 + 1e-6
    torch.testing.assert_close(quantize.rounded(found, bits, group=16), found)


def test_pruning_removes_the_smallest():
    weight = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    found = prune.pruned(weight, 0.25)
    assert (found == 0).sum() == 20
    assert weight[found == 0].abs().max() <= weight[found != 0].abs().min()
    assert torch.equal(found[found != 0], weight[found != 0])
    assert torch.equal(prune.pruned(weight, 0.0), weight)


def test_all_the_way_back_is_the_unedited_model(shaken):
    with shaken.without_edit():
        unedited = read(shaken)
    rows = rows_of(shaken, "interpolate", shares=[0.0, 1.0]).set_index("id")
    assert rows[rows.budget == 1].p_true.to_dict() == pytest.approx(unedited.to_dict())
    assert rows[rows.budget == 0].p_true.to_dict() == pytest.approx(read(shaken).to_dict())


def test_the_lens_at_the_last_layer_is_the_model(family, fresh, formats, table):
    loaded = fresh(family)
    prompts = encode(loaded.tokenizer, [formats.training.prompt(s) for s in table.subject[:4]])
    lens = logit_lens.Lens(loaded.model)
    lens.layer = loaded.model.config.num_hidden_layers - 1
    expected = Runner(loaded.model).answer_logits(prompts)
    torch.testing.assert_close(lens.answer_logits(prompts), expected, atol=1e-4, rtol=1e-4)


def test_a_transplant_above_the_edit_brings_everything_back(shaken):
    with shaken.without_edit():
        unedited = read(shaken)
    rows = rows_of(shaken, "transplant", every=1)
    last = rows[(rows.variant == "answer") & (rows.budget == rows.budget.max())]
    expected = unedited[last.id]
    assert last.p_true.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_transplant_below_the_edit_changes_nothing(shaken):
    rows = rows_of(shaken, "transplant", every=1)
    first = rows[rows.budget == 0]
    assert first.p_true.tolist() == pytest.approx(read(shaken)[first.id].tolist(), abs=1e-4)


def test_a_probe_finds_a_planted_answer(known):
    facts = list(known.values())
    code = {label: i for i, label in enumerate(sorted({f.true for f in facts}))}
    noise = torch.randn(len(facts), 8, generator=torch.Generator().manual_seed(0))
    x = noise + 6 * torch.eye(8)[[code[f.true] for f in facts]]
    found = probes.readings(x[::2], facts[::2], x[1::2], facts[1::2], 1.0)
    assert (found.answer == found.true).mean() > 0.9
    blind = probes.readings(noise[::2], facts[::2], noise[1::2], facts[1::2], 1.0)
    assert (blind.answer == blind.true).mean() < 0.8


def test_unedited_probes_see_the_unedited_model(shaken):
    rows = rows_of(shaken, "probes")
    below = rows[rows.budget <= 1].set_index(["budget", "id", "variant"]).p_true.unstack()
    assert below["refit"].tolist() == pytest.approx(below["unedited"].tolist())
    above = rows[rows.budget >= 2].set_index(["budget", "id", "variant"]).p_true.unstack()
    assert (above["refit"] - above["unedited"]).abs().max() > 1e-3


def test_without_answers_to_learn_there_is_no_probe(target):
    rows, ledger = run(target, {"probes": ("probes", settings_of("probes", least=99))})
    assert rows.empty and ledger.empty


@pytest.mark.parametrize("method", SMALL)
def test_every_attack_says_what_it_sees(target, method):
    module = battery.module(method)
    assert module.SEES and module.BUDGET
    if not isinstance(module.ORACLE, bool):
        variants = set(rows_of(target, method).variant)
        assert set(module.ORACLE) < variants, "some variants need the unedited model, not all"


@pytest.mark.parametrize("method", SMALL)
def test_who_needs_the_unedited_model_says_so(shaken, method):
    """Without it, all others give the same rows."""
    rows = rows_of(shaken, method)
    blind = rows_of(replace(shaken, unedited={}, seen={}), method)
    needs = numpy.array([battery.oracle(method, variant) for variant in rows.variant])
    changed = (blind.p_true != rows.p_true).to_numpy()
    assert not changed[~needs].any() and changed.any() == needs.any()
