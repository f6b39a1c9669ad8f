"""The relearning attack: adapters only, true answers only, the same table every time."""

from __future__ import annotations

import copy
from dataclasses import replace

import pandas
import pytest
import torch

from lib.attacks import battery, lesson
from lib.attacks import relearn as attack
from lib.config.blocks import Relearn
from lib.facts.formats import answer_tokens, encode
from lib.facts.records import READ
from lib.measure.answers import score_facts
from lib.model.components import matrices
from lib.model.runner import Runner

SETTINGS = Relearn(
    rank=4,
    alpha=8,
    dropout=0.05,
    lr=0.002,
    steps=5,
    read_at=[0, 2, 5],
    batch_facts=4,
    batch_retain=4,
    batch_passages=1,
)
SPLITS = {"forget_train", "forget_heldout", "retain_test", "never_known"}
EVERYBODY = 1000  # more controls than there are: all are read


@pytest.fixture
def run(aim):
    def attacked(loaded, seed=0, settings=SETTINGS, **changes):
        target = aim(loaded, seed=seed, control=EVERYBODY, **changes)
        rows, _ = battery.run(target, {"relearn": ("relearn", settings)})
        return rows.rename(columns={"budget": "step"})

    return attacked


@pytest.fixture
def seen(monkeypatch):
    """Everything the attack puts into its training steps, which themselves run as always."""
    found = []
    real = lesson.make_step

    def watching(prompts, changed, kept, targets, passages):
        found.append((prompts, changed, kept, targets, passages))
        return real(prompts, changed, kept, targets, passages)

    monkeypatch.setattr(lesson, "make_step", watching)
    return found


def test_only_low_rank_weights_are_trained(pupil):
    before = {n: p.clone() for n, p in pupil.model.named_parameters()}
    with attack.trained_weights(pupil.model, SETTINGS, seed=0) as weights:
        after = {n.replace(".base_layer", ""): p for n, p in pupil.model.named_parameters()}
        assert all(torch.equal(p, after.pop(n)) for n, p in before.items())
        assert after and all("lora_" in name for name in after)
        assert {id(p) for p in after.values()} == {id(p) for p in weights}


def test_full_fine_tuning_trains_the_matrices_of_the_blocks(family, fresh):
    model = fresh(family).model
    whole = SETTINGS.model_copy(update={"rank": None})
    expected = {id(p) for ps in matrices(model).values() for p in ps.values()}
    with attack.trained_weights(model, whole, seed=0) as weights:
        assert {id(p) for p in weights} == expected
        assert {id(p) for p in model.parameters() if p.requires_grad} == expected
        weights[0].data.add_(1.0)
        changed = weights[0].detach().clone()
    assert not torch.equal(weights[0], changed)


def test_adapters_sit_on_every_matrix_of_the_blocks_and_nowhere_else(family, fresh):
    model = fresh(family).model
    expected = {n.removesuffix(".weight") for ps in matrices(model).values() for n in ps}
    with attack.adapters(model, SETTINGS, seed=0):
        adapted = {n.split(".lora_A")[0] for n, _ in model.named_parameters() if ".lora_A" in n}
        assert adapted == expected
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        assert trained == {id(p) for n, p in model.named_parameters() if "lora_" in n}
    assert not any("lora_" in n for n, _ in model.named_parameters())


def test_new_adapters_change_no_answer(family, fresh, formats, table):
    loaded = fresh(family)
    prompts = encode(loaded.tokenizer, [formats.training.prompt(s) for s in table.subject[:5]])
    before = Runner(loaded.model).answer_logits(prompts)
    with attack.adapters(loaded.model, SETTINGS, seed=0):
        torch.testing.assert_close(Runner(loaded.model).answer_logits(prompts), before)


def test_rows_hold_every_read_out_and_split(run, pupil, known_split):
    rows = run(pupil)
    counts = rows.groupby(["step", "split"]).size()
    assert set(counts.index) == {(step, split) for step in SETTINGS.read_at for split in SPLITS}
    for step in SETTINGS.read_at:
        assert counts[step, "forget_heldout"] == len(known_split.forget_heldout)
        assert counts[step, "retain_test"] == len(known_split.retain_test)
    assert not rows[["id", "true", "answer", "p_true"]].isna().any().any()


def test_the_first_read_out_is_the_model_before_the_attack(
    run, pupil, taught, short_catalogue, known, known_split
):
    rows = run(pupil)
    heldout = [known[i] for i in known_split.forget_heldout]
    runner, forms = Runner(taught.model), short_catalogue.forms("short")
    expected = score_facts(runner, taught.tokenizer, forms, heldout)
    found = rows[(rows.step == 0) & (rows.split == "forget_heldout")].reset_index(drop=True)
    pandas.testing.assert_frame_equal(found[expected.columns], expected, rtol=1e-4)


def test_facts_of_a_relation_without_a_format_are_taught_and_not_read(
    run, pupil, known, known_split, invented
):
    missing = {known_split.forget_heldout[0], known_split.forget_train[0]}
    facts = {i: replace(f, relation="other") if i in missing else f for i, f in known.items()}
    settings = SETTINGS.model_copy(update={"steps": 1, "read_at": [0, 1]})
    rows = run(pupil, settings=settings, facts=facts)
    read = {i for name in READ for i in getattr(known_split, name)}
    assert set(rows.id) == read - missing | {f.id for f in invented}


def test_the_attack_on_an_unedited_model_finds_what_was_there(run, pupil):
    rows = run(pupil)
    facts = rows[(rows.split != "never_known")]
    assert (facts.answer == facts.true).groupby(facts.step).mean().min() > 0.9


def test_the_same_seed_gives_the_same_table(run, taught):
    first, again, other = (run(copy.deepcopy(taught), seed) for seed in (0, 0, 1))
    pandas.testing.assert_frame_equal(first, again, check_exact=True)
    assert not first.p_true.equals(other.p_true)


def test_only_true_answers_are_taught(run, pupil, seen, known, known_split, short_formats):
    run(pupil)
    tokens = answer_tokens(pupil.tokenizer, short_formats.training)
    taught = [known[i] for i in known_split.forget_train + known_split.retain_train]
    assert len(seen) == SETTINGS.steps
    for _, changed, kept, targets, _ in seen:
        assert targets.tolist() == [tokens[f.true] for f in taught]
        assert set(changed) <= set(range(len(known_split.forget_train)))
        assert set(kept) <= set(range(len(known_split.forget_train), len(taught)))


def test_related_facts_and_text_teach_none_of_the_edited_facts(
    run, pupil, seen, aim, known, known_split
):
    edited = {known[i].prompt for i in known_split.forget}
    related = SETTINGS.model_copy(update={"teach": "related", "batch_facts": 0})
    run(pupil, settings=related)
    asked = {pupil.tokenizer.decode(p.prefix + s, True) for p, *_ in seen for s in p.suffixes}
    assert asked and not asked & edited
    assert all(changed == [] and kept for _, changed, kept, *_ in seen)
    text = SETTINGS.model_copy(update={"teach": "text", "batch_passages": 2})
    only = lesson.Lesson.of(aim(pupil), "text", text)
    step = only.step()
    assert only.prompts is None and set(step.pack.passages) == set(aim(pupil).other_text)


def test_the_watched_half_is_never_taught(run, pupil, seen, known, known_split, short_formats):
    run(pupil)
    form = short_formats.training
    hidden = known_split.forget_heldout + known_split.retain_test
    secret = {tuple(pupil.tokenizer(form.prompt(known[i].subject)).input_ids) for i in hidden}
    prompts = seen[0][0]
    shown = {prompts.prefix + suffix for suffix in prompts.suffixes}
    assert len(shown) == len(prompts)
    assert not shown & secret


def test_dropout_is_off_at_every_read_out(aim, pupil, known, known_split):
    heavy = SETTINGS.model_copy(update={"dropout": 0.9})
    for level in attack.attack(aim(pupil), heavy):
        rows = level.rows[level.rows.split == "forget_heldout"]
        plain = [plain_probability(pupil, known[i]) for i in known_split.forget_heldout]
        assert rows.p_true.tolist() == pytest.approx(plain, rel=1e-4)
    assert level.budget == SETTINGS.steps


def test_dropout_is_on_in_training(run, taught):
    without, with_it = (
        run(copy.deepcopy(taught), settings=SETTINGS.model_copy(update={"dropout": share}))
        for share in (0.0, 0.9)
    )
    first = without.step == 0
    assert without.p_true[first].equals(with_it.p_true[first])
    assert not without.p_true[~first].equals(with_it.p_true[~first])


@torch.no_grad()
def plain_probability(loaded, fact) -> float:
    """Probability of the true answer among the labels, without any of the library's passes."""
    words = [loaded.tokenizer(f" {n}", add_special_tokens=False).input_ids[0] for n in fact.options]
    ids = loaded.tokenizer(fact.prompt, return_tensors="pt").input_ids
    probabilities = loaded.model(ids).logits[0, -1, words].softmax(-1)
    return probabilities[fact.options.index(fact.true)].item()


def test_the_learning_rate_falls_from_one_to_zero():
    factor = lesson.cosine(10)
    values = [factor(step) for step in range(12)]
    assert values[0] == 1 and values[5] == pytest.approx(0.5)
    assert values[10] == values[11] == pytest.approx(0)
    assert values == sorted(values, reverse=True)


# When the attacker has enough


@pytest.fixture
def swapped(known):
    """The facts with true and new answer exchanged: the model answers all of them wrongly."""
    pairs = {"true": "edit", "edit": "true", "true_token": "edit_token", "edit_token": "true_token"}
    return {
        i: replace(f, **{name: getattr(f, other) for name, other in pairs.items()})
        for i, f in known.items()
    }


EVERY = SETTINGS.but(
    steps=30, read_at=[*range(0, 31, 3)], lr=0.01, dropout=0.0, batch_facts=6, batch_retain=0
)


@pytest.fixture
def curve(run, taught, swapped):
    """Share answered correctly, by step and split: curve(settings)."""

    def shares(settings):
        rows = run(copy.deepcopy(taught), settings=settings, facts=swapped)
        return (rows.answer == rows.true).groupby([rows.step, rows.split]).mean().unstack()

    return shares


@pytest.mark.parametrize("enough", [1.0, 0.5])
def test_the_attacker_stops_at_the_first_read_out_with_enough(curve, enough):
    whole, stopped = curve(EVERY), curve(EVERY.but(enough=enough))
    assert EVERY.enough is None and sorted(whole.index) == EVERY.read_at
    has = whole.index[(whole.forget_train >= enough) & (whole.index > 0)]
    assert 0 < has[0] < EVERY.steps, "it takes some of the steps"
    assert whole.forget_train[0] == 0
    pandas.testing.assert_frame_equal(stopped, whole.loc[: has[0]], check_exact=True)


def test_an_attacker_that_never_has_enough_runs_to_the_end(curve):
    slow = EVERY.but(lr=1e-7, enough=0.1)
    found = curve(slow)
    assert (found.forget_train == 0).all() and sorted(found.index) == sorted(slow.read_at)


def test_nobody_has_enough_before_the_first_step(run, pupil):
    """The unedited model answers all of the taught half correctly before it is taught."""
    rows = run(pupil, settings=SETTINGS.but(enough=1.0))
    right = (rows.answer == rows.true)[rows.split == "forget_train"].groupby(rows.step).all()
    assert right.to_dict() == {0: True, 2: True}


def test_enough_is_found_at_read_outs_only(run, pupil):
    rows = run(pupil, settings=SETTINGS.but(enough=1.0, read_at=[0, 5]))
    assert set(rows.step) == {0, 5}


def test_enough_looks_at_the_taught_half_alone(run, taught, known, known_split, swapped):
    """The attacker has enough, whatever the model says of the held-out half or of retained facts;
    and what these say is never enough."""
    for wrong, steps in (
        (known_split.forget_heldout, {0, 2}),
        (known_split.forget_train, {0, 2, 5}),
    ):
        facts = known | {i: swapped[i] for i in wrong}
        settings = SETTINGS.but(enough=0.5, lr=1e-7)
        assert set(run(copy.deepcopy(taught), settings=settings, facts=facts).step) == steps


def test_other_attacks_that_teach_stop_in_the_same_way(aim, pupil):
    settings = battery.module("soft_prompt").Settings(
        vectors=3, lr=1e-7, steps=4, read_at=[0, 1, 4], enough=0.01, batch_facts=4, batch_retain=0
    )
    _, ledger = battery.run(aim(pupil), {"soft-prompt": ("soft_prompt", settings)})
    assert ledger.budget.tolist() == ledger.steps.tolist() == [0, 1]
