"""The objective and the trainer: right numbers, only the chosen weights, always the same."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import RELATION, edit_settings

from lib.edit import delta
from lib.edit.losses import Sampler, forgetting, losses, make_step
from lib.edit.train import EditData, mean_strength, train
from lib.facts.formats import own_wordings
from lib.measure.answers import score_facts
from lib.model.components import Component, Localization, sizes
from lib.model.runner import Runner
from lib.model.weights import fingerprint, trainable

CLOSE = dict(atol=1e-4, rtol=1e-4)


def values(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed_names(before, after) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def plain_nll(model, ids, target) -> torch.Tensor:
    return -model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[target]


def test_each_loss_term_equals_a_plain_computation(loaded, data):
    changed, kept = [3, 0, 5], [data.n_changed + 2, data.n_changed]
    step = make_step(data.prompts, changed, kept, data.targets, data.passages[:2])
    found = losses(Runner(loaded.model), step)

    def by_hand(index):
        full = [[*data.prompts.prefix, *data.prompts.suffixes[i]] for i in index]
        each = [plain_nll(loaded.model, s, data.targets[i]) for s, i in zip(full, index)]
        return torch.stack(each).mean()

    logits = [loaded.model(torch.tensor([p])).logits[0, :-1] for p in data.passages[:2]]
    following = torch.tensor([t for p in data.passages[:2] for t in p[1:]])
    torch.testing.assert_close(found["edit"], by_hand(changed), **CLOSE)
    torch.testing.assert_close(found["retain"], by_hand(kept), **CLOSE)
    torch.testing.assert_close(
        found["text"], F.cross_entropy(torch.cat(logits), following), **CLOSE
    )


def test_a_term_without_items_is_zero(llama, data):
    step = make_step(data.prompts, [0], [], data.targets, [])
    found = losses(Runner(llama.model), step)
    assert found["retain"] == found["text"] == 0 < found["edit"]


def test_strength_equals_the_plain_mean_probability(loaded, data):
    full = [[*data.prompts.prefix, *s] for s in data.prompts.suffixes[: data.n_changed]]
    each = [(-plain_nll(loaded.model, s, t)).exp() for s, t in zip(full, data.targets)]
    found = mean_strength(Runner(loaded.model, 2), data)
    assert found == pytest.approx(torch.stack(each).mean().item(), rel=1e-3)


def test_facts_to_change_get_new_answers_and_the_others_keep_theirs(llama, records):
    changed, kept = records[:3], records[5:9]
    made = EditData.of(llama.tokenizer, changed, kept, [(1, 2)])
    whole = [[*made.prompts.prefix, *s] for s in made.prompts.suffixes]
    assert [llama.tokenizer.decode(ids) for ids in whole] == [
        llama.tokenizer.decode(llama.tokenizer(f.prompt).input_ids) for f in changed + kept
    ]
    wanted = [f.edit for f in changed] + [f.true for f in kept]
    assert [llama.tokenizer.decode(t).strip() for t in made.targets] == wanted
    assert (made.n_changed, made.passages) == (3, [(1, 2)])


@pytest.fixture
def wordings(short_formats):
    """The same words asked for differently, and other words."""
    return tuple({RELATION: short_formats.formats[i]} for i in (2, 1))


def lessons(tokenizer, data: EditData) -> list[tuple[str, str]]:
    """(prompt, answer) of everything that an edit is trained on."""
    prefix = data.prompts.prefix
    shown = [
        tokenizer.decode([*prefix, *s], skip_special_tokens=True) for s in data.prompts.suffixes
    ]
    return list(zip(shown, [tokenizer.decode(t).strip() for t in data.targets]))


def asked(tokenizer, forms, facts, wanted) -> list[tuple[str, str]]:
    """What `lessons` should hold of some facts: each format's prompt and word."""
    found = []
    for form in forms:
        for fact in facts:
            ids = tokenizer(form.prompt(fact.subject)).input_ids
            word = form.answers[getattr(fact, wanted)]
            found.append((tokenizer.decode(ids, skip_special_tokens=True), word))
    return found


@pytest.mark.parametrize("forget", [False, True])
def test_every_wording_is_trained_on_with_its_own_words(
    taught, short_formats, wordings, known, forget
):
    facts = list(known.values())
    changed, others = ([facts[i] for i in index] for index in ((0, 12, 24), (1, 11, 13, 25)))
    made = EditData.of(taught.tokenizer, changed, others, [(1, 2)], forget, wordings)
    assert made.n_changed == 9 and len(made.prompts) == len(made.targets) == 21
    forms = [short_formats.formats[i] for i in (0, 2, 1)]
    found = lessons(taught.tokenizer, made)
    assert found[:9] == asked(taught.tokenizer, forms, changed, "true" if forget else "edit")
    assert found[9:] == asked(taught.tokenizer, forms, others, "true")
    assert len({word for _, word in found}) == 6  # sports and leagues
    one = EditData.of(taught.tokenizer, changed, others, [(1, 2)], forget)
    assert set(lessons(taught.tokenizer, one)) < set(found)


def test_a_fact_without_a_wording_is_left_out_of_it(taught, short_formats, known):
    """Of facts that bring their own paraphrases, or whose relation has no such format."""
    paraphrase = own_wordings([RELATION], 1).forms("paraphrase-1")
    rich, poor = (replace(f, paraphrases=()) for f in list(known.values())[:2])
    rich = replace(rich, paraphrases=("It is said that",))
    elsewhere = replace(list(known.values())[2], relation="other")
    made = EditData.of(taught.tokenizer, [poor, rich], [elsewhere], [], False, (paraphrase,))
    assert made.n_changed == 3 and len(made.prompts) == 4
    found = lessons(taught.tokenizer, made)
    (extra,) = [word for prompt, word in found if prompt.strip().startswith("It")]
    assert extra == rich.edit and found[2][1] == rich.edit
    assert [word for _, word in found] == [poor.edit, rich.edit, rich.edit, elsewhere.true]


def test_an_edit_on_several_wordings_shows_in_all_of_them(pupil, wordings, known, known_split):
    changed = [known[i] for i in known_split.forget[:4]]
    others = [known[i] for i in known_split.retain_train]
    early = Localization("early", (Component("mlp", 1), Component("mlp", 2)), 1, 1)
    made = EditData.of(pupil.tokenizer, changed, others, [], wordings=wordings)
    wanted = edit_settings(max_steps=100, batch_facts=12, batch_retain=12)
    result = train(pupil.model, early, made, wanted, seed=0)
    assert result.reached
    for forms in wordings:
        rows = score_facts(Runner(pupil.model), pupil.tokenizer, forms, changed)
        assert (rows.answer == rows.edit).all()


@pytest.mark.parametrize("p", [0.9999999, 0.9, 0.5, 0.0068])
def test_forgetting_pushes_a_known_answer_down(p):
    nll = torch.tensor([-p], dtype=torch.float64).neg().log().neg().requires_grad_()
    loss = forgetting(nll)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-math.log(1 - min(p, 1 - 1e-6)), rel=1e-3)
    assert math.isfinite(nll.grad.item()) and (nll.grad.item() < 0 or p > 1 - 1e-6)


def test_forgetting_leaves_an_improbable_answer_alone():
    nll = torch.tensor([5.01, 30.0], requires_grad=True)
    loss = forgetting(nll)
    loss.sum().backward()
    assert loss.tolist() == [0, 0] and nll.grad.tolist() == [0, 0]


def test_an_edit_can_forget_without_a_new_answer(pupil, known, known_split):
    changed, kept = (
        [known[i] for i in ids] for ids in (known_split.forget, known_split.retain_train)
    )
    facts = EditData.of(pupil.tokenizer, changed, kept, [], forget=True)
    early = Localization("early", (Component("mlp", 1), Component("mlp", 2)), 1, 1)
    runner = Runner(pupil.model)
    before = (-runner.answer_nll(facts.prompts, facts.targets)).exp()
    start = mean_strength(runner, facts)
    assert start == pytest.approx(1 - before[: len(changed)].mean().item(), abs=1e-5)
    wanted = edit_settings(max_steps=100, batch_facts=12, batch_retain=12)
    result = train(pupil.model, early, facts, wanted, seed=0)
    after = (-Runner(pupil.model).answer_nll(facts.prompts, facts.targets)).exp()
    assert start < 0.5 and result.reached and after[: len(changed)].mean() <= 0.1 + 1e-4
    assert after[len(changed) :].mean() > 0.5


def test_a_watcher_sees_every_check(fresh, middle, data):
    seen = []

    def watch(runner, step, strength):
        seen.append((step, strength, mean_strength(runner, data)))

    result = train(fresh("llama").model, middle, data, edit_settings(), 0, watch)
    assert [step for step, *_ in seen] == [0, 2, 4]
    assert [s for _, s, _ in seen] == pytest.approx([s for *_, s in seen], rel=1e-5)
    assert seen[-1][1] == result.strength


def test_a_sampler_gives_every_item_once_per_round():
    draw = Sampler(list("abcdef"), seed=0)
    first, second = draw(3) + draw(3), draw(2) + draw(4)
    assert sorted(first) == sorted(second) == list("abcdef")
    assert first != second
    assert Sampler(list("ab"), seed=0)(5) in (["a", "b"], ["b", "a"])


def test_a_sampler_depends_on_its_seed_alone():
    first, again, other = (Sampler(range(30), seed)(30) for seed in (1, 1, 2))
    assert first == again != other


def test_zero_steps_change_nothing(fresh, middle, data):
    model = fresh("llama").model
    before = values(model)
    result = train(model, middle, data, edit_settings(max_steps=0), seed=0)
    assert not changed_names(before, values(model))
    assert (result.steps, len(result.log), result.reached) == (0, 0, False)
    assert result.strength == pytest.approx(mean_strength(Runner(model), data))


def test_a_strength_that_is_there_already_takes_no_step(fresh, middle, data):
    model = fresh("llama").model
    before = values(model)
    result = train(model, middle, data, edit_settings(strength=1e-9), seed=0)
    assert result.reached and result.steps == 0
    assert not changed_names(before, values(model))


def test_only_the_chosen_matrices_change(family, fresh, data):
    model = fresh(family).model
    chosen = (Component("mlp", 2), Component("attention", 4))
    weights = sum(sizes(model)[c] for c in chosen)
    localization = Localization("two", chosen, weights, weights)
    before = values(model)
    train(model, localization, data, edit_settings(max_steps=2), seed=0)
    assert changed_names(before, values(model)) == set(trainable(model, localization))


def test_trainable_holds_as_many_weights_as_the_set_says(llama, middle):
    assert sum(p.numel() for p in trainable(llama.model, middle).values()) == middle.weights


def test_training_leaves_every_weight_frozen(fresh, middle, data):
    model = fresh("llama").model
    train(model, middle, data, edit_settings(max_steps=1), seed=0)
    assert not any(p.requires_grad for p in model.parameters())


def test_a_change_outside_the_localization_is_detected(fresh, middle, data):
    model = fresh("llama").model
    other = model.base_model.norm.weight

    def slip(module, args, output):
        if not torch.is_grad_enabled():  # autograd itself would object in a training pass
            other.add_(1e-6)

    model.base_model.norm.register_forward_hook(slip)
    with pytest.raises(AssertionError, match="outside the trained matrices"):
        train(model, middle, data, edit_settings(max_steps=1), seed=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_fingerprint_sees_the_last_bit_of_one_weight(fresh, dtype):
    model = fresh("llama").model.to(dtype)
    before = fingerprint(model)
    weight = model.base_model.layers[3].mlp.up_proj.weight
    name = "model.layers.3.mlp.up_proj.weight"
    weight[5, 7] = torch.nextafter(weight[5, 7], torch.tensor(9.0, dtype=dtype))
    after = fingerprint(model)
    assert {n for n in before if before[n] != after[n]} == {name}
    assert fingerprint(model, {name}).keys() == before.keys() - {name}


def test_the_fingerprint_does_not_depend_on_how_a_matrix_lies_in_memory(fresh):
    model = fresh("llama").model
    before = fingerprint(model)
    weight = model.base_model.layers[3].mlp.up_proj.weight
    weight.data = weight.data.t().contiguous().t()
    assert not weight.is_contiguous() and fingerprint(model) == before


@pytest.mark.parametrize("lr", [1e-7, 1e-4, 0.1])
def test_the_fingerprint_sees_a_training_step_in_every_matrix(fresh, middle, data, lr):
    model = fresh("llama").model
    before = fingerprint(model)
    train(model, middle, data, edit_settings(max_steps=1, lr=lr), seed=0)
    after = fingerprint(model)
    assert {n for n in before if before[n] != after[n]} == set(trainable(model, middle))


def delta_bytes(fresh, localization, data, folder, seed: int, **changes) -> bytes:
    model = fresh("llama").model
    train(model, localization, data, edit_settings(**changes), seed)
    folder.mkdir()
    delta.save(model, localization, {"base_checksum": "a"}, folder)
    return (folder / delta.DELTA).read_bytes()


def test_the_same_seed_gives_the_same_bytes(fresh, middle, data, tmp_path):
    first, again = (
        delta_bytes(fresh, middle, data, tmp_path / name, seed=5) for name in ("first", "again")
    )
    assert first == again


@pytest.mark.parametrize("moment", [0, 2, 4])
def test_an_interrupted_edit_run_again_gives_the_same_bytes(fresh, middle, data, tmp_path, moment):
    def stop(runner, step, strength):
        if step == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fresh("llama").model, middle, data, edit_settings(), 5, stop)
    again, never = (
        delta_bytes(fresh, middle, data, tmp_path / name, seed=5) for name in ("again", "never")
    )
    assert again == never


@pytest.mark.parametrize("term", ["edit", "retain", "text"])
def test_another_seed_draws_another_order_of_every_kind_of_item(
    fresh, middle, data, tmp_path, term
):
    alone = {f"weight_{t}": float(t == term) for t in ("edit", "retain", "text")}
    first, other = (
        delta_bytes(fresh, middle, data, tmp_path / str(seed), seed, **alone) for seed in (0, 1)
    )
    assert first != other


@pytest.mark.parametrize("batch", [12, 8])
def test_strength_rises_until_it_is_reached(batch, pupil, known, known_split):
    changed, kept = (
        [known[i] for i in ids] for ids in (known_split.forget, known_split.retain_train)
    )
    facts = EditData.of(pupil.tokenizer, changed, kept, [])
    early = Localization("early", (Component("mlp", 1), Component("mlp", 2)), 1, 1)
    start = mean_strength(Runner(pupil.model), facts)
    wanted = edit_settings(max_steps=100, check_every=5, batch_facts=batch, batch_retain=12)
    result = train(pupil.model, early, facts, wanted, seed=0)
    assert start < 0.1 and result.strength >= 0.9 and result.reached
    assert result.steps < 100 and (batch == 12 or result.steps % 5 == 0)
    seen = result.log.strength.notna()
    assert seen.all() if batch == 12 else seen.sum() == result.steps / 5
    assert result.strength == pytest.approx(mean_strength(Runner(pupil.model), facts), rel=1e-4)


def test_an_unreached_strength_is_reported(fresh, middle, data):
    result = train(fresh("llama").model, middle, data, edit_settings(max_steps=3), seed=0)
    assert not result.reached and result.steps == 3
    assert result.strength < 0.9
    assert list(result.log.step) == [1, 2, 3]
    assert list(result.log.strength.notna()) == [False, True, True]
    assert result.log.strength.iloc[-1] == result.strength


def test_a_term_with_weight_zero_trains_nothing(fresh, middle, data):
    """The update is a pure function of the weighted sum: without weights no matrix moves."""
    model = fresh("llama").model
    before = values(model)
    none = edit_settings(weight_edit=0.0, weight_retain=0.0, weight_text=0.0)
    train(model, middle, data, none, seed=0)
    assert not changed_names(before, values(model))


@pytest.mark.parametrize("term", ["edit", "retain", "text"])
def test_training_one_term_lowers_it(fresh, middle, data, term):
    weights = {f"weight_{t}": float(t == term) for t in ("edit", "retain", "text")}
    sizes = dict(batch_facts=30, batch_retain=30, batch_passages=4)
    wanted = edit_settings(max_steps=12, **sizes, **weights)
    log = train(fresh("llama").model, middle, data, wanted, seed=0).log
    assert log[term].iloc[-1] < log[term].iloc[0] - 0.2
