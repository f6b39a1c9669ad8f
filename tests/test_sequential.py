"""Batch after batch: nothing is replayed, everything is read."""

from __future__ import annotations

import pandas
import pytest
from conftest import edit_settings

from lib.edit.sequential import batches, edit_in_batches, localizer
from lib.localize.lookup import lookup_layers
from lib.measure.answers import score_facts
from lib.model.components import Component, Localization, sizes
from lib.model.runner import Runner


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 12])
def test_batches_hold_every_fact_once_and_both_halves(split, count):
    parts = batches(split, count)
    assert sorted(i for part in parts for i in part) == sorted(split.forget)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1 and len(parts) == count


@pytest.mark.parametrize("count", [0, 13])
def test_batches_without_facts_are_refused(split, count, refuses):
    with refuses(ValueError, "12 facts cannot be edited", "sequential.batches"):
        batches(split, count)


EARLY = Localization("early", (Component("mlp", 1), Component("mlp", 2)), 1, 1)


@pytest.fixture
def lesson(pupil, short_catalogue, known, known_split):
    parts = [[known[i] for i in part] for part in batches(known_split, 2)]
    kept = [known[i] for i in known_split.retain_train]
    forms = short_catalogue.forms(short_catalogue.training)

    def read():
        asked = [f for part in parts for f in part]
        return score_facts(Runner(pupil.model), pupil.tokenizer, forms, asked)

    return pupil, parts, kept, read


def test_every_batch_is_edited_and_all_are_read_after_each(lesson):
    pupil, parts, kept, read = lesson
    seen = []

    def localize(changed):
        seen.append([f.id for f in changed])
        return EARLY

    wanted = edit_settings(max_steps=100, batch_facts=12, batch_retain=12)
    answers, edits = edit_in_batches(pupil, parts, kept, [], localize, read, wanted, seed=0)
    assert seen == [[f.id for f in part] for part in parts]
    assert list(edits.batch) == [1, 2] and edits.reached.all() and set(edits.layers) == {"1 2"}
    assert set(answers.after) == {0, 1, 2}
    new = (answers.answer == answers.edit).groupby([answers.after, answers.id]).mean()
    for number, part in enumerate(parts, start=1):
        ids = [f.id for f in part]
        assert new[number - 1][ids].mean() < new[number][ids].mean() > 0.8


def test_one_batch_is_the_plain_edit(lesson, fresh):
    pupil, parts, kept, read = lesson
    every = [f for part in parts for f in part]
    wanted = edit_settings(max_steps=2, batch_facts=12, batch_retain=12)
    answers, edits = edit_in_batches(pupil, [every], kept, [], lambda _: EARLY, read, wanted, 0)
    assert len(edits) == 1 and edits.steps[0] == 2
    first, last = (answers[answers.after == k].p_edit.to_numpy() for k in (0, 1))
    assert (last > first).mean() > 0.8


def by_route(settings, route: str, number: int | None = None, **rule):
    """The settings with another route to the lookup layers; rule: of `fact_lookup`."""
    change = {"lookup": route, "lookup_layers": number}
    task = settings.task("sports-athletes").model_copy(update=change)
    changed = {"tasks": {"sports-athletes": task}}
    return settings.model_copy(
        update=changed | {"fact_lookup": settings.fact_lookup.model_copy(update=rule)}
    )


def test_only_fact_lookup_is_found_anew(lesson, settings, short_catalogue, known):
    pupil, parts, _, _ = lesson
    forms = short_catalogue.forms(short_catalogue.training)
    others = [f for f in known.values() if f not in parts[0]]
    rest = by_route(settings, "probes"), "sports-athletes", forms, others, 0
    window = Localization("mlp-window-0", EARLY.components, 1, 1)
    kept_set = localizer(pupil, window, *rest)(parts[0])
    assert kept_set.components == window.components and kept_set.note == "as on the unedited model"
    lookup = Localization("fact-lookup", (Component("mlp", 5),), 1, 1)
    found = localizer(pupil, lookup, *rest)(parts[0])
    assert found.note == "found anew"
    assert found.components and found.weights == sum(
        sizes(pupil.model)[c] for c in found.components
    )


def test_where_no_layer_is_found_the_first_ones_stay(lesson, settings, short_catalogue):
    pupil, parts, kept, _ = lesson
    deaf = by_route(settings, "path-patching", threshold=0.999, heads=3)
    forms = short_catalogue.forms(short_catalogue.training)
    lookup = Localization("fact-lookup", (Component("mlp", 5),), 1, 1)
    found = localizer(pupil, lookup, deaf, "sports-athletes", forms, kept, 0)(parts[0])
    assert found.components == lookup.components and found.note == "as on the unedited model"


@pytest.mark.parametrize("route", ["probes", "path-patching"])
def test_lookup_layers_are_found_on_the_model_as_it_is(
    route, pupil, short_catalogue, known, known_split, settings
):
    found_by = by_route(settings, route, heads=3, rule="absolute")
    task, rule = found_by.task("sports-athletes"), found_by.fact_lookup
    changed = [known[i] for i in known_split.forget]
    others = [f for i, f in known.items() if i not in known_split.forget]
    forms = short_catalogue.forms(short_catalogue.training)
    found = lookup_layers(pupil, task, rule, forms, changed, others, seed=0)
    assert found and set(found) <= set(range(pupil.model.config.num_hidden_layers))
    again = lookup_layers(pupil, task, rule, forms, changed, others, seed=0)
    assert again == found and isinstance(pandas.Series(found).sum().item(), int)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("route", ["probes", "path-patching"])
def test_a_task_may_say_how_many_lookup_layers_there_are(
    route, number, pupil, short_catalogue, known, known_split, settings
):
    found_by = by_route(settings, route, number, heads=1, threshold=0.999)
    task, rule = found_by.task("sports-athletes"), found_by.fact_lookup
    changed = [known[i] for i in known_split.forget]
    others = [f for i, f in known.items() if i not in known_split.forget]
    forms = short_catalogue.forms(short_catalogue.training)
    found = lookup_layers(pupil, task, rule, forms, changed, others, seed=0)
    assert len(found) == number and found == sorted(set(found))
    assert route == "path-patching" or found == list(range(found[0], found[0] + number))
