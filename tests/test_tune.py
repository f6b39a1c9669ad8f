"""Settings by one rule on validation facts, which nothing else looks at."""

from __future__ import annotations

from dataclasses import replace

import pandas
import pytest
import torch
import yaml
from conftest import edit_settings

from lib import paths
from lib.config.blocks import EditGrid, LocalizationSettings
from lib.edit import tune
from lib.edit.train import fit
from lib.facts.text import sample
from lib.model.components import Component, Localization
from lib.model.runner import Runner
from lib.model.weights import kept, trainable

FAST, SLOW = 0.01, 1e-6  # learning rates: one reaches the strength in a few steps, one never does
LOOSE = dict(keep_retained=1e-9, keep_text=100.0)


def grid_of(**changes) -> EditGrid:
    shared = edit_settings(max_steps=12, strength=0.5).model_dump(exclude={"lr", "weight_edit"})
    more = dict(
        lr=[FAST],
        weight_edit=[3.0],
        try_on=["middle", "low"],
        validation_facts=2,
        validation_passages=2,
        keep_retained=0.9,
        keep_text=0.1,
        keep_vocabulary=0.8,
    )
    return EditGrid(**shared | more | changes)


@pytest.fixture
def grid():
    return grid_of()


@pytest.fixture
def validation(llama, records, split, passages, grid):
    return tune.Validation.of(llama.tokenizer, {f.id: f for f in records}, split, passages, grid)


@pytest.fixture
def places(middle):
    """The middle two MLPs, and a set that begins below them."""
    return [middle, Localization("low", (Component("mlp", 1),), 1, 1)]


def values(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(model, before) -> bool:
    now = dict(model.named_parameters())
    frozen = not any(p.requires_grad or p.grad is not None for p in now.values())
    return frozen and all(torch.equal(now[n], value) for n, value in before.items())


def texts(llama, prompts) -> set[str]:
    return {llama.tokenizer.decode([*prompts.prefix, *s]) for s in prompts.suffixes}


# --- what a trial edits and reads ------------------------------------------------------------


def test_trials_see_no_fact_that_is_reported(llama, records, split, validation):
    of = {f.id: llama.tokenizer.decode(llama.tokenizer(f.prompt).input_ids) for f in records}
    seen = texts(llama, validation.data.prompts) | texts(llama, validation.others.prompts)
    hidden = {of[i] for i in (*split.forget, *split.retain_test, *split.fewshot)}
    assert hidden and not seen & hidden


def test_trials_keep_apart_what_they_train_and_what_they_measure(llama, validation, passages):
    trained, others = texts(llama, validation.data.prompts), validation.others
    assert len(others.answers) >= 2 and not trained & texts(llama, others.prompts)
    assert validation.data.n_changed == 2
    assert others.passages == passages[-2:]
    assert validation.data.passages == passages[:-2]


def test_every_other_validation_fact_must_keep_its_answer(llama, records, split, validation):
    facts = {f.id: f for f in records}
    wanted = [facts[i] for i in split.retain_val[2:]]
    assert validation.others.answers.tolist() == [f.true_token for f in wanted]
    asked = [[*validation.others.prompts.prefix, *s] for s in validation.others.prompts.suffixes]
    assert asked == llama.tokenizer([f.prompt for f in wanted]).input_ids


@pytest.mark.parametrize("changes", [{"validation_facts": 1000}, {"validation_passages": 4}])
def test_too_little_to_validate_on_is_refused(llama, records, split, passages, refuses, changes):
    facts = {f.id: f for f in records}
    with refuses(ValueError, "too few for edit.validation_facts", "raise `retain_val`"):
        tune.Validation.of(llama.tokenizer, facts, split, passages, grid_of(**changes))


@pytest.mark.parametrize(("spare", "enough"), [(1, False), (2, True)])
def test_two_facts_are_left_to_look_at(llama, records, split, passages, spare, enough):
    wanted = grid_of(validation_facts=len(split.retain_val) - spare)
    make = tune.Validation.of
    given = llama.tokenizer, {f.id: f for f in records}, split, passages, wanted
    if enough:
        assert len(make(*given).others.answers) == 2
    else:
        with pytest.raises(ValueError, match="two more are needed"):
            make(*given)


def test_a_trial_measures_what_a_plain_pass_gives(fresh, places, validation, grid):
    model = fresh("llama").model
    (pair,), others = grid.pairs(), validation.others
    start, end = tune.try_pair(model, places[:1], validation, pair, grid, seed=0).to_dict("records")
    assert (start["step"], start["strength"]) == (0, 0)
    for row in (start, end):
        if row is end:
            fit(model, places[0], validation.data, pair, seed=0)
        p, nll = [], []
        for suffix, target in zip(others.prompts.suffixes, others.answers):
            ids = torch.tensor([[*others.prompts.prefix, *suffix]])
            p.append(model(ids).logits[0, -1].softmax(-1)[target].item())
        for passage in others.passages:
            logp = model(torch.tensor([passage])).logits[0, :-1].log_softmax(-1)
            nll += (-logp.gather(1, torch.tensor(passage)[1:, None]))[:, 0].tolist()
        assert row["retained"] == pytest.approx(sum(p) / len(p), rel=1e-3)
        assert row["text"] == pytest.approx(sum(nll) / len(nll), rel=1e-3)
    assert start["text"] != pytest.approx(end["text"], rel=1e-2)


# --- trials ----------------------------------------------------------------------------------


def tried(trials) -> list[tuple]:
    """(lr, localization) of every trial, in order."""
    ends = trials[trials.groupby(["lr", "localization"], sort=False).cumcount() == 1]
    return list(zip(ends.lr, ends.localization))


def test_a_pair_is_given_up_at_the_first_localization_that_fails(fresh, places, validation):
    grid, model = grid_of(lr=[SLOW, 2 * SLOW]), fresh("llama").model
    before = values(model)
    trials = tune.try_pairs(model, places, validation, grid, seed=0)
    assert list(trials.columns) == tune.COLUMNS
    assert tried(trials) == [(SLOW, "middle"), (2 * SLOW, "middle")]
    assert len(trials) == 4 and trials.step.tolist() == [0, 12] * 2
    assert same(model, before)


def test_trials_end_with_the_first_pair_that_meets_all_conditions(fresh, places, validation):
    grid, model = grid_of(lr=[SLOW, FAST, 2 * FAST], **LOOSE), fresh("llama").model
    before = values(model)
    trials = tune.try_pairs(model, places, validation, grid, seed=0)
    assert tried(trials) == [(SLOW, "middle"), (FAST, "middle"), (FAST, "low")]
    assert tune.choose(trials, grid) == {"lr": FAST, "weight_edit": 3.0, "admissible": True}
    start = trials[trials.step == 0]
    assert start[["strength", "retained", "text"]].nunique().max() == 1
    assert tune.ended(trials, grid).met.tolist() == [False, True, True]
    assert same(model, before)


@pytest.mark.parametrize("broken", [dict(keep_retained=0.999), dict(keep_text=1e-9)])
def test_a_pair_that_reaches_the_strength_may_fail_by_what_it_harms(
    fresh, places, validation, broken
):
    """What the model says of its own accord is what it loses."""
    loaded, grid = fresh("llama"), grid_of(lr=[FAST], **LOOSE | broken)
    prompts = validation.others.prompts
    said = Runner(loaded.model).answer_logits(prompts).argmax(1)
    written = [tuple(p) for p in sample(loaded.model, loaded.tokenizer, 2, 9, seed=0)]
    own = tune.ToKeep(prompts, said, written)
    trials = tune.try_pairs(loaded.model, places, replace(validation, others=own), grid, seed=0)
    assert tried(trials) == [(FAST, "middle")]
    (end,) = tune.ended(trials, grid).itertuples()
    assert end.strength >= grid.strength and not end.met
    assert not tune.choose(trials, grid)["admissible"]


def test_an_interrupted_trial_leaves_the_model_as_it_was(fresh, places, validation, monkeypatch):
    grid, model = grid_of(**LOOSE), fresh("llama").model
    before = values(model)

    def stop(*args, **kwargs):
        fit(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        tune.try_pairs(model, places, validation, grid, seed=0)
    assert same(model, before)


def test_a_trial_is_the_same_after_others_and_alone(fresh, places, validation):
    grid, model = grid_of(lr=[SLOW, FAST], **LOOSE), fresh("llama").model
    every = tune.try_pairs(model, places, validation, grid, seed=0)
    alone = tune.try_pair(model, places[1:], validation, grid.pairs()[1], grid, seed=0)
    last = every[(every.lr == FAST) & (every.localization == "low")].reset_index(drop=True)
    pandas.testing.assert_frame_equal(last, alone)


def test_a_trial_is_trained_as_the_edit_is(fresh, places, validation):
    grid, model = grid_of(**LOOSE), fresh("llama").model
    trials = tune.try_pairs(model, places, validation, grid, seed=3)
    (pair,) = grid.pairs()
    with kept(trainable(model, places[0])):
        done = fit(model, places[0], validation.data, pair, seed=3)
    assert (trials.step[1], trials.strength[1]) == (done.steps, pytest.approx(done.strength))


# --- the rule --------------------------------------------------------------------------------


def rows(**ends) -> pandas.DataFrame:
    """Trials that start alike and end as given: lr1=[(strength, retained, text), ...]."""
    made = []
    for lr, places in ends.items():
        for place, end in zip("abc", places):
            for step, numbers in ((0, (0.0, 0.8, 2.0)), (9, end)):
                made.append([place, float(lr[2:]), 1.0, step, *numbers])
    return pandas.DataFrame(made, columns=tune.COLUMNS)


GOOD, BETTER, WEAK = (0.6, 0.75, 2.05), (0.9, 0.8, 2.0), (0.49, 0.8, 2.0)
HARMS, GARBLES = (0.6, 0.71, 2.0), (0.6, 0.8, 2.11)


@pytest.mark.parametrize(
    "ends, lr, admissible",
    [
        # the first that meets all conditions everywhere, though a later one keeps more
        ({"lr1": [GOOD, GOOD], "lr2": [BETTER, BETTER]}, 1, True),
        ({"lr1": [BETTER, WEAK], "lr2": [GOOD, GOOD]}, 2, True),
        ({"lr1": [HARMS], "lr2": [GARBLES], "lr3": [GOOD, GOOD]}, 3, True),
        # where all fail, the one with most localizations that met them, of equals the first
        ({"lr1": [WEAK], "lr2": [GOOD, HARMS], "lr3": [GOOD, GARBLES]}, 2, False),
        ({"lr1": [BETTER, WEAK], "lr2": [GOOD, GOOD, WEAK]}, 2, False),
        ({"lr1": [WEAK], "lr2": [HARMS]}, 1, False),
    ],
)
def test_the_rule(grid, ends, lr, admissible):
    picked = tune.choose(rows(**ends), grid)
    assert picked == {"lr": lr, "weight_edit": 1.0, "admissible": admissible}
    assert type(picked["lr"]) is float and type(picked["admissible"]) is bool  # for json


@pytest.mark.parametrize(
    "end, met",
    [((0.5, 0.73, 2.09), True), (WEAK, False), (HARMS, False), (GARBLES, False)],
)
def test_where_a_trial_ended(grid, end, met):
    (found,) = tune.ended(rows(lr1=[end]), grid).itertuples()
    assert found.met == met
    assert found.kept == pytest.approx(end[1] / 0.8) and found.added == pytest.approx(end[2] - 2)


def test_no_trials_end_nowhere(grid):
    assert tune.ended(pandas.DataFrame(columns=tune.COLUMNS), grid).empty


def test_pairs_differ_in_edit_weight_too(grid):
    trials = pandas.concat([rows(lr1=[WEAK]), rows(lr1=[GOOD]).assign(weight_edit=5.0)])
    picked = tune.choose(trials, grid)
    assert picked == {"lr": 1, "weight_edit": 5.0, "admissible": True}


# --- the settings of one edit ----------------------------------------------------------------


CHOSEN = {"lr": 0.5, "weight_edit": 7.0, "admissible": False}


@pytest.mark.parametrize("method", ["fact-lookup", "causal-tracing", "all-mlps"])
def test_every_trained_edit_of_a_task_has_the_chosen_pair(settings, grid, method):
    task = settings.task("sports-athletes")
    assert tune.pair_for(LocalizationSettings(method=method), task, grid, CHOSEN) == CHOSEN


def test_published_settings_are_taken_as_they_are(settings):
    grid = grid_of(choose="published", published_model="gemma-2-9b")
    task = settings.task("sports-athletes").model_copy(update={"published": "athletes"})
    how = LocalizationSettings(method="causal-tracing")
    picked = tune.pair_for(how, task, grid, {})
    assert picked == {"lr": 0.00005, "weight_edit": 5.0, "admissible": True}


@pytest.mark.parametrize("choose", ["grid", "published"])
def test_a_closed_form_edit_has_no_pair(settings, choose):
    task = settings.task("sports-athletes")
    how = LocalizationSettings(method="rome")
    assert tune.pair_for(how, task, grid_of(choose=choose), CHOSEN) == {}


@pytest.mark.parametrize(
    "method, more, expected",
    [
        ("fact-lookup", {}, "lookup"),
        ("mlp-window", {"start": 2}, "lookup"),
        ("causal-tracing", {"mlps_only": True}, "lookup"),
        ("causal-tracing", {}, "output"),
        ("attribution-patching", {}, "output"),
        ("random", {}, "output"),
        ("random-mlps", {}, "lookup"),
        ("all-mlps", {}, "nonlocalized"),
        ("nonlocalized", {}, "nonlocalized"),
        ("literal", {"mlps": [1]}, "lookup"),
        ("literal", {"attention": [1]}, "output"),
    ],
)
def test_families_share_the_published_settings(method, more, expected):
    assert tune.family(LocalizationSettings(method=method, **more)) == expected


def test_every_published_cell_has_all_models_and_families():
    table = yaml.safe_load((paths.DATA / "reference" / "settings.yaml").read_text())
    for models in table.values():
        assert set(models) == {"gemma-7b", "gemma-2-9b", "llama-3-8b"}
        for families in models.values():
            assert set(families) == {"lookup", "output", "nonlocalized"}
