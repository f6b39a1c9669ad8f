"""One edit from start to end: what a sweep repeats equals the steps done by hand."""

from __future__ import annotations

from dataclasses import replace

import pandas
import pytest
import torch
from conftest import edit_settings

from lib.attacks import battery, cell
from lib.attacks.target import Target
from lib.config.blocks import Relearn, Rome
from lib.edit import rome
from lib.edit.train import EditData, train
from lib.facts.records import FORGET, READ
from lib.measure.formats import ask_all
from lib.model.anatomy import OUTPUT_MATRICES
from lib.model.components import Localization, single_matrices
from lib.model.runner import Runner
from lib.model.weights import kept, trainable
from lib.tables import TABLES

PAIR = edit_settings(batch_facts=24, max_steps=60, lr=0.015, weight_edit=10.0, weight_text=0.0)
RELEARN = Relearn(
    rank=4, alpha=8, lr=0.01, steps=4, read_at=[0, 2, 4],
    batch_facts=4, batch_retain=4, batch_passages=1,
)  # fmt: skip
ROME = Rome(lr=0.3, steps=60, value_strength=0.9, decay=0.0, ridge=0.01, strength=0.5)
WORDINGS = ("untaught",)
DONE = ("steps", "strength", "reached")


@pytest.fixture(scope="session")
def small(settings):
    """Settings with a short attack."""
    return settings.model_copy(update={"attack_relearn": RELEARN, "rome": ROME})


@pytest.fixture
def whole(aim, pupil) -> Target:
    """The unedited model with held-out text."""
    return aim(pupil)


@pytest.fixture
def found(whole, middle, small, short_catalogue):
    return cell.measure(whole, middle, PAIR, small, short_catalogue)


@pytest.fixture
def several(whole, middle, small, short_catalogue):
    """The same, trained on one more wording."""
    return cell.measure(whole, middle, PAIR, small, short_catalogue, WORDINGS)


@pytest.fixture
def given(monkeypatch, whole, middle, small):
    """What an edit is trained on: given(task=its other settings, wordings)."""
    seen = []
    monkeypatch.setattr(cell, "train", lambda model, chosen, data, *how: seen.append(data))

    def data(wordings=(), **changes) -> EditData:
        task = small.task(whole.task).model_copy(update=changes)
        settings = small.model_copy(update={"tasks": {whole.task: task}})
        cell.make(whole, middle, PAIR, settings, wordings)
        return seen[-1]

    return data


def values(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(model, before) -> bool:
    after = dict(model.named_parameters())
    return after.keys() == before.keys() and all(
        torch.equal(after[n], p) for n, p in before.items()
    )


def test_there_are_rows_of_the_edit_its_answers_and_the_attack(found, middle, known_split):
    for name, table in found.items():
        assert set(TABLES[f"sweep/{name}"]) <= set(table) and len(table)
        assert set(table.localization) == {middle.name} and set(table.trained_on) == {1}
    (row,) = found["edits"].to_dict("records")
    assert row["weights"] == middle.weights and row["reached"] and row["steps"] > 0
    asked = found["asked"].groupby("format").id.agg(set)
    read = {i for role in READ for i in getattr(known_split, role)}
    assert set(asked.index) == {"short", "short-league", "untaught"}
    assert set(asked["short"]) <= read and set(known_split.forget) <= asked["untaught"]
    attacked = found["relearned"]
    assert set(attacked.budget) == set(RELEARN.read_at) and set(attacked.attack) == {"relearn"}
    assert set(attacked.split) == {*READ, "never_known"}


def test_the_new_answers_are_on_the_model_when_it_is_asked(found):
    first = found["relearned"][found["relearned"].budget == 0]
    for rows in (found["asked"][found["asked"].format == "short"], first):
        edited = rows[rows.split.isin(FORGET)]
        assert len(edited) and (edited.answer == edited.edit).mean() > 0.9
    ends = found["relearned"].query("split == 'forget_train'").groupby("budget").p_true.mean()
    assert ends[4] > ends[0] + 0.1


def test_the_model_is_as_before_to_the_last_bit(whole, middle, small, short_catalogue):
    model = whole.loaded.model
    before, modules = values(model), dict(model.named_modules())
    for wordings in ((), WORDINGS):
        cell.measure(whole, middle, PAIR, small, short_catalogue, wordings)
        assert same(model, before) and dict(model.named_modules()) == modules
        assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_an_edit_that_breaks_off_leaves_the_model_as_it_was(
    whole, middle, small, short_catalogue, monkeypatch
):
    before = values(whole.loaded.model)

    def broken(*args):
        assert not same(whole.loaded.model, before), "the edit is on the model"
        raise RuntimeError("stopped")

    monkeypatch.setattr(cell.relearn, "attack", broken)
    with pytest.raises(RuntimeError, match="stopped"):
        cell.measure(whole, middle, PAIR, small, short_catalogue)
    assert same(whole.loaded.model, before)


# The steps by hand


def data_of(target, wordings=()) -> EditData:
    split, facts = target.split, target.facts
    changed, others = ([facts[i] for i in ids] for ids in (split.forget, split.retain_train))
    forms = tuple(target.formats.forms(name) for name in wordings)
    return EditData.of(target.loaded.tokenizer, changed, others, target.passages, False, forms)


def by_hand(target, place, settings, wordings=()):
    """(result of the training, retained and text, answers in every format, rows of the attack)."""
    loaded = target.loaded
    model, tokenizer = loaded.model, loaded.tokenizer
    with kept(trainable(model, place)):
        result = train(model, place, data_of(target, wordings), PAIR, target.seed)
        ends = {"retained": plain_retained(target), "text": plain_text(model, target.heldout)}
        split = replace(target.split, retain_test=target.split.retain_test[: target.control])
        asked = ask_all(Runner(model), tokenizer, target.formats, target.facts, split)
        attack = {"relearn": ("relearn", settings.attack_relearn)}
        attacked, _ = battery.run(target, attack)
    return result, ends, asked, attacked


@torch.no_grad()
def plain_retained(target) -> float:
    """Mean probability of the true answers over the whole vocabulary, one pass a fact."""
    p, loaded = [], target.loaded
    for fact in (target.facts[i] for i in target.split.retain_test):
        ids = loaded.tokenizer(fact.prompt, return_tensors="pt").input_ids
        p.append(loaded.model(ids).logits[0, -1].softmax(-1)[fact.true_token].item())
    return sum(p) / len(p)


@torch.no_grad()
def plain_text(model, passages) -> float:
    """Loss per token of the held-out text, one pass a passage."""
    losses = []
    for passage in passages:
        ids = torch.tensor([passage])
        logp = model(ids).logits[0, :-1].log_softmax(-1)
        losses += (-logp.gather(1, ids[0, 1:, None]))[:, 0].tolist()
    return sum(losses) / len(losses)


@pytest.mark.parametrize("wordings", [(), WORDINGS])
def test_it_equals_the_steps_done_by_hand(whole, middle, small, short_catalogue, wordings):
    found = cell.measure(whole, middle, PAIR, small, short_catalogue, wordings)
    result, ends, asked, attacked = by_hand(whole, middle, small, wordings)
    (row,) = found["edits"].to_dict("records")
    assert [row[name] for name in DONE] == [getattr(result, name) for name in DONE]
    assert {name: row[name] for name in ends} == pytest.approx(ends, rel=1e-3)
    keys, said = ["format", "id"], ["split", "answer", "p_true", "p_edit"]
    tables = (t.set_index(keys)[said].sort_index() for t in (found["asked"], asked))
    pandas.testing.assert_frame_equal(*tables, rtol=1e-3, atol=1e-5)
    keys = ["budget", "id"]
    tables = (t.set_index(keys)[said] for t in (found["relearned"], attacked))
    pandas.testing.assert_frame_equal(*tables, check_exact=True)


def test_with_the_halves_exchanged_every_fact_is_held_out_once(
    whole, middle, small, short_catalogue, known_split
):
    found = cell.measure(whole, middle, PAIR, small, short_catalogue, (), True)["relearned"]
    once = cell.measure(whole, middle, PAIR, small, short_catalogue)["relearned"]
    pandas.testing.assert_frame_equal(found[found.variant == ""], once)
    swapped = found[found.variant == "swapped"]
    taught = set(swapped.id[swapped.split == "forget_train"])
    assert taught == set(known_split.forget_heldout)
    assert set(swapped.id[swapped.split == "forget_heldout"]) == set(known_split.forget_train)
    ends = swapped[swapped.id.isin(taught)].groupby("budget").p_true.mean()
    assert ends[4] > ends[0] + 0.1


def test_what_is_to_be_kept_is_read_before_the_edit_and_once(
    whole, middle, small, short_catalogue, monkeypatch
):
    before = {
        "retained_before": plain_retained(whole),
        "text_before": plain_text(whole.loaded.model, whole.heldout),
    }
    reads, real = [], cell.to_keep
    monkeypatch.setattr(cell, "to_keep", lambda target: reads.append(1) or real(target))
    for expected in (2, 3):
        tables = cell.measure(whole, middle, PAIR, small, short_catalogue)
        (row,) = tables["edits"].to_dict("records")
        assert {name: row[name] for name in before} == pytest.approx(before, rel=1e-3)
        assert len(reads) == expected
    assert row["retained"] < row["retained_before"]


def test_only_the_formats_that_count_are_asked(whole, middle, small, short_catalogue):
    counted = short_catalogue.only(["short-league"])
    tables = cell.measure(whole, middle, PAIR, small, counted)
    assert set(tables["asked"].format) == {"short", "short-league"}


def test_another_seed_teaches_in_another_order(whole, middle, small, short_catalogue, found):
    other = cell.measure(replace(whole, seed=1), middle, PAIR, small, short_catalogue)
    assert not other["relearned"].p_true.equals(found["relearned"].p_true)


# What it is trained on


def prompts(data, tokenizer) -> list[str]:
    return [tokenizer.decode(data.prompts.prefix + s, True) for s in data.prompts.suffixes]


def test_every_wording_adds_a_prompt_of_each_fact(given, whole, known, known_split, short_formats):
    one, two = given(), given(WORDINGS)
    facts = [known[i] for i in known_split.forget + known_split.retain_train]
    assert one.n_changed == len(known_split.forget) and len(one.prompts) == len(facts)
    assert two.n_changed == 2 * one.n_changed and len(two.prompts) == 2 * len(one.prompts)
    new, form = prompts(two, whole.loaded.tokenizer), short_formats.formats[2]
    changed = facts[: one.n_changed]
    assert new[: one.n_changed] == prompts(one, whole.loaded.tokenizer)[: one.n_changed]
    assert new[one.n_changed : two.n_changed] == [form.prompt(f.subject) for f in changed]
    assert two.targets[one.n_changed : two.n_changed].tolist() == [f.edit_token for f in changed]


def test_an_edit_trained_on_several_wordings_says_so_and_carries_over_to_them(found, several):
    assert all(set(table.trained_on) == {2} for table in several.values())
    edited = [
        rows[(rows.format == "untaught") & rows.split.isin(FORGET)].p_edit.mean()
        for rows in (found["asked"], several["asked"])
    ]
    assert edited[1] > edited[0] + 0.1


def test_half_of_the_facts_are_edited_where_the_task_says_so(given, known_split):
    assert given(edit_half=True).n_changed == len(known_split.forget_train)
    assert given(edit_half=False).n_changed == len(known_split.forget)


def test_facts_are_forgotten_where_the_task_says_so(given, known, known_split):
    data = given(change="forget")
    true = [known[i].true_token for i in known_split.forget]
    assert data.forget and data.targets[: data.n_changed].tolist() == true
    assert not given().forget


def test_without_a_pair_of_settings_the_edit_is_made_in_closed_form(whole, small, short_catalogue):
    model = whole.loaded.model
    before = values(model)
    (matrix,) = [
        c
        for c in single_matrices(model)
        if c.kind == "mlp" and c.layer == 2 and c.matrix in OUTPUT_MATRICES
    ]
    (weight,) = single_matrices(model)[matrix].values()
    place = Localization("rome", (matrix,), weight.numel(), 0)
    tables = cell.measure(whole, place, None, small, short_catalogue)
    assert same(model, before)
    split, facts = whole.split, whole.facts
    subjects = [facts[i].subject_positions[-1] for i in split.forget + split.retain_train]
    with kept(trainable(model, place)):
        result = rome.edit(model, place, data_of(whole), subjects, ROME)
        edited = whole.read(roles=FORGET).set_index("id").p_true
    (row,) = tables["edits"].to_dict("records")
    assert [row[name] for name in DONE] == [getattr(result, name) for name in DONE]
    first = tables["relearned"].query("budget == 0").set_index("id").p_true[edited.index]
    assert first.to_list() == pytest.approx(edited.to_list())
    assert (first - whole.read(roles=FORGET).set_index("id").p_true).abs().max() > 1e-3
