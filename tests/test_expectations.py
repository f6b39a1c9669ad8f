"""Published directions against ours: verdicts by rule."""

from __future__ import annotations

import dataclasses

import numpy
import pandas
import pytest
from test_results import data  # noqa: F401  (a fixture)

from lib import paths
from lib.analysis import expectations
from lib.analysis.expectations import AGREES, DISAGREES, UNTESTED
from lib.store import Store
from lib.tables import ATTACKED

N = 40


def table(**shares: float) -> pandas.DataFrame:
    """0/1 per fact with these shares of ones, in orders that have nothing to do with each other."""
    rng = numpy.random.default_rng(0)
    ones = {n: rng.permutation(numpy.arange(N) < round(s * N)) for n, s in shares.items()}
    return pandas.DataFrame(ones).astype(float)


@pytest.mark.parametrize(
    "shares, verdict",
    [
        (dict(a=0.9, b=0.6, c=0.2), AGREES),
        (dict(a=0.9, b=0.85, c=0.2), AGREES),  # neighbours may tie
        (dict(a=0.5, b=0.5, c=0.5), UNTESTED),  # no pair decides
        (dict(a=0.2, b=0.6, c=0.9), DISAGREES),
        (dict(a=0.9, b=0.1, c=0.7), DISAGREES),  # one clear pair the other way round is enough
    ],
)
def test_orders(settings, shares, verdict):
    assert expectations.order_verdict(table(**shares), list("abc"), settings)[0] == verdict


def test_the_words_name_the_clear_pairs(settings):
    _, words = expectations.order_verdict(table(a=0.9, b=0.1, c=0.7), list("abc"), settings)
    assert "a above b" in words and "c above b" in words and "b above c" not in words


@pytest.mark.parametrize("shares, verdict", [((0.5, 0.55, 0.5), AGREES), ((1, 0.2, 1), DISAGREES)])
def test_ties(settings, shares, verdict):
    found, words = expectations.tie(table(**dict(zip("abc", shares))), settings)
    assert found == verdict and "of 3 pairs differ" in words


def test_published_means_are_read_from_the_table():
    mcq = expectations.published("athletes", "mcq", "edit_accuracy")
    assert (mcq["fact-lookup"], mcq["attribution-patching-mlps"]) == (0.862, 0.032)
    back = expectations.published("athletes", "relearning", "forget_accuracy", 20)
    assert back["fact-lookup"] == 0.199
    assert len(mcq) == 9 == len(back)


def test_every_published_cell_has_a_table_of_values():
    for cell in expectations.TABLES:
        assert len(expectations.published(cell, "mcq", "edit_accuracy")) == 9


def test_without_a_task_beside_the_paper_there_is_nothing_to_compare(settings, refuses):
    tasks = {n: t.model_copy(update={"published": None}) for n, t in settings.tasks.items()}
    with refuses(ValueError, "no task stands beside published runs", "set `published`"):
        expectations.collect_tasks(Store("data"), settings.model_copy(update={"tasks": tasks}))


def test_values_that_are_no_evidence_are_left_out():
    rows = expectations.reference()
    assert 1600 < len(rows) < 1663 and rows.valid.all()


def test_every_expectation_gets_a_verdict(data, settings):  # noqa: F811
    texts = pandas.DataFrame(
        {"localization": ["unedited", *data.sets], "seed": 0, "text": "heldout", "passage": 0}
        | {"loss": 2.0, "kl": 0.0}
    )
    texts = pandas.concat([texts, texts.assign(text="second")])
    both = [dataclasses.replace(data, texts=texts, task=name) for name in settings.tasks]
    alone = settings.attacks.model_copy(update={"tasks": []})
    found = expectations.compare(
        Store("data"), both, settings.model_copy(update={"attacks": alone})
    )
    assert set(found.number) == set(range(1, 10))
    assert (found.groupby("number").size()[2:] == 2).all()
    known = {AGREES, DISAGREES, UNTESTED}
    answered = found.number == 9
    assert set(found[~answered].verdict) <= known
    assert found[answered].verdict.str.startswith("answered: ").all()
    late = found[found.number == 3].iloc[0]
    assert late.verdict == AGREES and "difference +0.67" in late.ours
    assert found[found.number == 1].iloc[0].ours.startswith("not edited: ")


def test_transfer_stands_beside_the_published(data, settings):  # noqa: F811
    both = [dataclasses.replace(data, task=name) for name in settings.tasks]
    rows = expectations.beside(both, settings)
    mine = rows[(rows.source == "ours") & (rows.task == both[0].task)]
    ours = mine.set_index("localization").value
    assert ours["fact-lookup"] == pytest.approx(9 / 12)
    assert set(rows.groupby("task").source.unique().map(sorted).map(tuple)) == {
        ("ours", "published")
    }


@pytest.mark.parametrize(("lookup", "late", "verdict"), [(0, 12, AGREES), (12, 0, DISAGREES)])
def test_probes_are_read_at_the_last_layer(
    data,  # noqa: F811
    settings,
    tmp_path,
    monkeypatch,
    lookup,
    late,
    verdict,
):
    """Rows of other layers, probes and splits would give the other verdict."""
    rows = []
    for name, hits in (("fact-lookup", lookup), ("mlp-window-12", late)):
        for layer, variant, split in (
            (17, "refit", "forget_train"),
            (16, "refit", "forget_train"),
            (17, "unedited", "forget_train"),
            (17, "refit", "retain_test"),
        ):
            wanted = hits if (layer, variant, split) == (17, "refit", "forget_train") else 12 - hits
            rows += [
                {"localization": name, "attack": "probes", "variant": variant, "budget": layer}
                | {"id": f"{split}{i}", "split": split, "true": "a"}
                | {"answer": "a" if i < wanted else "b"}
                for i in range(12)
            ]
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    task, store = settings.attacks.tasks[0], Store("data")
    empty = dict.fromkeys(ATTACKED, "")
    store.save("attack_inside/rows", pandas.DataFrame([empty | row for row in rows]), task, 0)
    mine = dataclasses.replace(data, task=task)
    row = expectations._probes(store, mine, settings)
    assert row[-1] == verdict and f"fact-lookup {lookup / 12:.2f}" in row[-2]
