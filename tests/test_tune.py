"""Settings by one rule on validation facts, which nothing else looks at."""

from __future__ import annotations

import pandas
import pytest
import torch
import yaml
from conftest import edit_settings

from lib import config, paths
from lib.config.blocks import EditGrid, LocalizationSettings
from lib.edit import tune
from lib.edit.train import train
from lib.model.weights import fingerprint


@pytest.fixture
def grid():
    shared = edit_settings().model_dump(exclude={"lr", "weight_edit"})
    more = dict(
        validation_facts=2,
        validation_kept=10,
        validation_passages=2,
        keep_retained=0.9,
        keep_text=0.1,
        tolerance=0.0,
    )
    return EditGrid(**shared | more, lr=[0.001, 0.003], weight_edit=[1.0, 3.0])


@pytest.fixture
def validation(llama, records, split, passages, grid):
    return tune.Validation.of(llama.tokenizer, {f.id: f for f in records}, split, passages, grid)


def texts(llama, prompts) -> set[str]:
    return {llama.tokenizer.decode([*prompts.prefix, *s]) for s in prompts.suffixes}


def test_trials_see_no_fact_that_is_reported(llama, records, split, validation):
    of = {f.id: llama.tokenizer.decode(llama.tokenizer(f.prompt).input_ids) for f in records}
    seen = texts(llama, validation.data.prompts) | texts(llama, validation.kept)
    hidden = {of[i] for i in (*split.forget, *split.retain_test, *split.fewshot)}
    assert hidden and not seen & hidden


def test_trials_keep_apart_what_they_train_and_what_they_measure(llama, validation, passages):
    trained, measured = texts(llama, validation.data.prompts), texts(llama, validation.kept)
    assert measured and not trained & measured
    assert validation.data.n_changed == 2
    assert validation.passages == passages[-2:]
    assert validation.data.passages == passages[:-2]


def test_every_pair_is_tried_and_leaves_the_model_as_it_was(fresh, middle, validation, grid):
    model = fresh("llama").model
    before = fingerprint(model)
    trials = tune.try_pairs(model, middle, validation, grid, seed=0)
    assert fingerprint(model) == before
    pairs = trials[["lr", "weight_edit"]].drop_duplicates().values.tolist()
    assert pairs == [[lr, w] for lr in grid.lr for w in grid.weight_edit]
    start = trials[trials.step == 0]
    assert len(start) == 4 and start[["strength", "retained", "text"]].nunique().max() == 1
    assert len(trials) == 8 and set(trials.step) == {0, 4}
    assert trials.groupby(["lr", "weight_edit"]).retained.last().nunique() == 4


def test_a_trial_measures_what_a_plain_pass_gives(fresh, middle, validation, grid):
    loaded = fresh("llama")
    one = grid.model_copy(update={"lr": [0.003], "weight_edit": [3.0]})
    last = tune.try_pairs(loaded.model, middle, validation, one, seed=0).iloc[-1]
    same = one.pairs()[0].model_copy(update={"batch_retain": 2})  # as many as are changed
    train(loaded.model, middle, validation.data, same, seed=0)
    p = []
    for suffix, target in zip(validation.kept.suffixes, validation.answers):
        ids = torch.tensor([[*validation.kept.prefix, *suffix]])
        p.append(loaded.model(ids).logits[0, -1].softmax(-1)[target].item())
    assert last.retained == pytest.approx(sum(p) / len(p), rel=1e-3)
    nll = []
    for passage in validation.passages:
        ids = torch.tensor([passage])
        logp = loaded.model(ids).logits[0, :-1].log_softmax(-1)
        nll += (-logp.gather(1, ids[0, 1:, None]))[:, 0].tolist()
    assert last.text == pytest.approx(sum(nll) / len(nll), rel=1e-3)


def rows(**ends) -> pandas.DataFrame:
    """Trials that start alike and end as given: lr -> (strength, retained, text)."""
    made = []
    for lr, end in ends.items():
        for step, values in ((0, (0.0, 0.8, 2.0)), (9, end)):
            made.append([float(lr[2:]), 1.0, step, *values])
    return pandas.DataFrame(made, columns=tune.COLUMNS)


@pytest.mark.parametrize(
    "ends, lr, admissible",
    [
        # of those that meet all conditions, the one that keeps most, however strong
        ({"lr1": (0.97, 0.75, 2.0), "lr2": (0.91, 0.78, 2.05), "lr3": (0.93, 0.76, 2)}, 2, True),
        # keeping more does not help a pair that does not reach the strength
        ({"lr1": (0.89, 0.80, 2.0), "lr2": (0.95, 0.73, 2.0)}, 2, True),
        # or that costs too much text
        ({"lr1": (0.95, 0.80, 2.2), "lr2": (0.95, 0.73, 2.0)}, 2, True),
        # where all cost too much, the one that keeps most of those that reach the strength
        ({"lr1": (0.95, 0.50, 2.0), "lr2": (0.95, 0.60, 2.5), "lr3": (0.5, 0.7, 2)}, 2, False),
        # where none reaches it, the one that gets furthest
        ({"lr1": (0.30, 0.80, 2.0), "lr2": (0.60, 0.10, 3.0)}, 2, False),
    ],
)
def test_the_rule(grid, ends, lr, admissible):
    picked = tune.choose(rows(**ends), grid)
    assert picked == {"lr": lr, "weight_edit": 1.0, "admissible": admissible}


def test_too_few_validation_facts_are_refused(llama, records, split, passages, grid, refuses):
    many = grid.model_copy(update={"validation_facts": 1000})
    facts = {f.id: f for f in records}
    with refuses(ValueError, "too few for edit.validation_facts 1000", "raise `retain_val`"):
        tune.Validation.of(llama.tokenizer, facts, split, passages, many)


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


def test_published_settings_are_taken_as_they_are(settings, grid):
    chosen = grid.model_copy(update={"choose": "published", "published_model": "gemma-2-9b"})
    task = settings.task("sports-athletes").model_copy(update={"published": "athletes"})
    how = LocalizationSettings(method="causal-tracing")
    trials, picked = tune.settle(None, None, how, task, {}, None, [], chosen, 0)
    assert trials.empty and (picked["lr"], picked["weight_edit"]) == (0.00005, 5.0)


def test_a_closed_form_edit_has_nothing_to_choose(settings, grid):
    how, task = LocalizationSettings(method="rome"), settings.task("sports-athletes")
    trials, picked = tune.settle(None, None, how, task, {}, None, [], grid, 0)
    assert trials.empty and picked == {}


def test_the_grid_settles_what_its_trials_say(fresh, middle, records, split, passages, grid):
    how = LocalizationSettings(method="fact-lookup")
    task = config.load().task("sports-athletes")
    facts = {f.id: f for f in records}
    found = tune.settle(fresh("llama"), middle, how, task, facts, split, passages, grid, 0)
    trials, picked = found
    assert len(trials.groupby(["lr", "weight_edit"])) == 4 and picked == tune.choose(trials, grid)


def test_every_published_cell_has_all_models_and_families():
    table = yaml.safe_load((paths.DATA / "reference" / "settings.yaml").read_text())
    for models in table.values():
        assert set(models) == {"gemma-7b", "gemma-2-9b", "llama-3-8b"}
        for families in models.values():
            assert set(families) == {"lookup", "output", "nonlocalized"}


def test_a_trial_is_the_same_after_others_and_alone(fresh, middle, validation, grid):
    model = fresh("llama").model
    every = tune.try_pairs(model, middle, validation, grid, seed=0)
    alone = grid.model_copy(update={"lr": grid.lr[1:], "weight_edit": grid.weight_edit[1:]})
    last = tune.try_pairs(model, middle, validation, alone, seed=0)
    same = every[(every.lr == grid.lr[1]) & (every.weight_edit == grid.weight_edit[1])]
    pandas.testing.assert_frame_equal(same.reset_index(drop=True), last)
