"""Published directions against ours: four verdicts, each by a written rule."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy
import pandas
import pytest
from test_results import data  # noqa: F401  (a fixture)

from lib import paths
from lib.analysis import contrasts as questions
from lib.analysis import expectations
from lib.analysis.expectations import AGREES, DISAGREES, ORDER, UNRESOLVED, UNTESTED, Evidence
from lib.model.components import Component, Localization
from lib.store import Store
from lib.tables import ATTACKED

N = 40
SETS = {"fact-lookup": (1, 2), "depth-matched-mlps": (0, 3), "random-mlps": (2, 8)}
SETS |= {"mlp-window-0": (0, 1), "mlp-window-6": (6, 7), "causal-tracing-mlps": (3, 8)}
SETS |= {"attribution-patching-mlps": (5, 6)}
MEASURES = ("new-wording", "new-vocabulary", "old-wording", "old-vocabulary", "back")


def mixed(n=N, **shares: float) -> dict[str, pandas.Series]:
    """0/1 per fact with these shares of ones, in orders that have nothing to do with each other."""
    rng = numpy.random.default_rng(0)
    ones = {m: rng.permutation(numpy.arange(n) < round(s * n)) for m, s in shares.items()}
    return {m: pandas.Series(values, dtype=float) for m, values in ones.items()}


def nested(n=N, **ones: int) -> pandas.DataFrame:
    """0/1 per fact: the first so many facts have a 1."""
    names = {name.replace("_", "-"): hits for name, hits in ones.items()}
    return pandas.DataFrame({m: (numpy.arange(n) < k).astype(float) for m, k in names.items()})


def columns(table: pandas.DataFrame) -> dict[str, pandas.Series]:
    return dict(table.items())


def evidence(settings, retained=None, vocabulary=("league",), also=None, **tables) -> Evidence:
    """What was measured, from tables of facts x edits; retained: the same of retained facts."""
    measured = {m: tables.get(m.replace("-", "_"), pandas.DataFrame()) for m in MEASURES}
    retained = nested(**{name: N for name in SETS}) if retained is None else retained
    rows = retained.rename_axis("id").reset_index().melt("id", var_name="localization")
    rows = rows.assign(split="retain_test", format="training", true="a")
    rows["answer"] = rows.value.map({1.0: "a", 0.0: "b"})
    places = {
        name: Localization(name, tuple(Component("mlp", i) for i in layers), 1, 1)
        for name, layers in SETS.items()
    }
    known = SimpleNamespace(
        task="sports-athletes",
        training="training",
        asked=rows,
        sets=places,
        also=also or {},
        n_layers=9,
        counted=lambda kind: list(vocabulary) if kind == "vocabulary" else ["question"],
    )
    asked_about = questions.contrasts(known, measured, settings)
    return Evidence(known, pandas.DataFrame(), measured, asked_about, {n: n for n in SETS})


# Orders and ties


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        (dict(a=0.9, b=0.6, c=0.2), AGREES),
        (dict(a=0.9, b=0.85, c=0.2), AGREES),  # neighbours may tie
        (dict(a=0.5, b=0.5, c=0.5), UNRESOLVED),  # no pair decides
        (dict(a=0.9, b=0.5, c=0.8), DISAGREES),  # one clear pair the other way round is enough
        (dict(a=0.2, b=0.6, c=0.9), DISAGREES),
        (dict(a=1.0, b=0.1, c=0.5), DISAGREES),  # even where first and last are as expected
    ],
)
def test_an_order_agrees_if_its_ends_do_and_no_pair_is_the_other_way(settings, shares, verdict):
    assert expectations.order(mixed(**shares), settings)[1] == verdict


def test_alike_ends_do_not_agree_with_an_order(settings):
    words, verdict = expectations.order(columns(nested(a=20, b=20, c=20)), settings)
    assert (words, verdict) == ("no pair differs clearly", UNRESOLVED)
    words, verdict = expectations.order(columns(nested(a=20, b=14, c=17)), settings)
    assert (words, verdict) == ("a above b", UNRESOLVED)


def test_the_words_name_the_clear_pairs(settings):
    words, _ = expectations.order(mixed(a=0.9, b=0.1, c=0.7), settings)
    assert "a above b" in words and "c above b" in words
    assert "b above c" not in words and "a above c" not in words


@pytest.mark.parametrize(
    ("ones", "verdict", "words"),
    [
        ((20, 20, 20), AGREES, "0 differ, 3 are alike"),
        ((20, 21, 20), AGREES, "0 differ, 3 are alike"),  # within the margin
        ((20, 24, 20), UNRESOLVED, "0 differ, 1 are alike"),  # one pair alike is not enough
        ((40, 8, 40), DISAGREES, "2 differ, 1 are alike"),
    ],
)
def test_a_tie_agrees_only_if_every_pair_is_alike(settings, ones, verdict, words):
    sets = columns(nested(**dict(zip("abc", ones))))
    found, said = expectations.tie(sets, settings)
    assert said == verdict and f"of 3 pairs {words}" in found


def test_a_tie_is_refuted_only_after_the_correction_for_many_pairs(settings):
    """Six facts of one direction: p = 2/64, which a second such pair doubles."""
    assert expectations.tie(columns(nested(a=6, b=0)), settings)[1] == DISAGREES
    assert expectations.tie(columns(nested(a=6, b=0, c=0)), settings)[1] == UNRESOLVED


@pytest.mark.parametrize(("n", "verdict"), [(12, UNRESOLVED), (28, UNRESOLVED), (29, AGREES)])
def test_few_facts_without_any_difference_are_no_tie(settings, n, verdict):
    assert settings.statistics.margin == 0.1
    assert expectations.tie(columns(nested(n, a=5, b=5)), settings)[1] == verdict


def test_one_set_alone_ties_with_nothing(settings):
    found = expectations.tie(columns(nested(a=5)), settings)
    assert found == ("fewer than two sets count", UNRESOLVED)


# Published values


def test_published_means_are_read_from_the_table():
    mcq = expectations.published("athletes", "mcq", "edit_accuracy")
    assert (mcq["fact-lookup"], mcq["attribution-patching-mlps"]) == (0.862, 0.032)
    back = expectations.published("athletes", "relearning", "forget_accuracy", 20)
    assert back["fact-lookup"] == 0.199
    assert len(mcq) == 9 == len(back)
    sport = expectations.published("whole-sport", "mcq", "edit_accuracy")
    assert sport["fact-lookup"] == 0.487, "single models stand beside their mean in this table"


def test_a_corrected_table_changes_the_published_values(tmp_path, monkeypatch):
    table = pandas.read_csv(paths.DATA / "reference" / "paper_results.csv")
    cell = (table.table == "T6.1") & (table.attack == "mcq") & (table.metric == "edit_accuracy")
    cell &= (table.localization == "fact-lookup") & (table.model == "mean-of-3")
    assert cell.sum() == 1
    (tmp_path / "reference").mkdir()
    table.assign(value=table.value.mask(cell, 0.5)).to_csv(
        tmp_path / "reference" / "paper_results.csv", index=False
    )
    monkeypatch.setattr(paths, "DATA", tmp_path)
    assert expectations.published("athletes", "mcq", "edit_accuracy")["fact-lookup"] == 0.5


def test_every_published_cell_has_a_table_of_values():
    for cell in expectations.TABLES:
        assert len(expectations.published(cell, "mcq", "edit_accuracy")) == 9


def test_values_that_are_no_evidence_are_left_out():
    rows = expectations.reference()
    assert 1600 < len(rows) < 1663 and rows.valid.all()


def test_without_a_task_beside_the_paper_there_is_nothing_to_compare(settings, refuses):
    tasks = {n: t.model_copy(update={"published": None}) for n, t in settings.tasks.items()}
    with refuses(ValueError, "no task stands beside published runs", "set `published`"):
        expectations.collect_tasks(Store("data"), settings.model_copy(update={"tasks": tasks}))


# One expectation after the other


def verdict_of(found, settings, number):
    """The row of one expectation, edits facing no probes."""
    alone = settings.attacks.model_copy(update={"tasks": []})
    settings = settings.model_copy(update={"attacks": alone})
    table = expectations.compare(Store("data"), [found], settings)
    return table.set_index("number").loc[number]


FOUR = dict(zip((n.replace("-", "_") for n in ORDER), (36, 24, 12, 4)))


@pytest.mark.parametrize(
    ("ones", "verdict"), [((36, 24, 12, 4), AGREES), ((4, 12, 24, 36), DISAGREES)]
)
def test_transfer_is_compared_where_it_is_measured(settings, ones, verdict):
    """In another vocabulary, or where no such format counts, in another wording."""
    here, turned = (nested(**dict(zip(FOUR, order))) for order in (ones, ones[::-1]))
    tables = {"new_vocabulary": here, "new_wording": turned}
    row = verdict_of(evidence(settings, **tables), settings, 1)
    assert row.verdict == verdict and f"fact-lookup {ones[0] / N:.2f}" in row.ours
    assert "fact-lookup 0.86" in row.published
    tables = {"new_vocabulary": turned, "new_wording": here}
    assert verdict_of(evidence(settings, vocabulary=(), **tables), settings, 1).verdict == verdict


def test_an_order_without_one_of_its_sets_is_unresolved(settings):
    table = nested(**FOUR).drop(columns="random-mlps")
    row = verdict_of(evidence(settings, new_vocabulary=table), settings, 1)
    assert row.verdict == UNRESOLVED and "not comparable: random-mlps" in row.ours
    row = verdict_of(evidence(settings), settings, 1)
    assert (row.verdict, row.ours) == (UNRESOLVED, "fewer than two sets count")


def test_a_set_that_equals_another_has_its_values(settings):
    found = evidence(settings, new_vocabulary=nested(fact_lookup=30, mlp_window_6=4))
    same = dataclasses.replace(found, names=found.names | {ORDER[-1]: "mlp-window-6"})
    assert list(same.ordered("new-vocabulary")) == ["fact-lookup", "attribution-patching-mlps"]
    assert same.ordered("new-vocabulary")[ORDER[-1]].sum() == 4


def test_sets_that_train_the_same_weights_are_compared_once(settings):
    """Else a tie with itself would count as one."""
    alike = nested(fact_lookup=30, random_mlps=30)
    found = evidence(settings, alike, new_vocabulary=alike, new_wording=alike)
    twins = dict.fromkeys(ORDER[2:], "random-mlps")
    same = dataclasses.replace(found, names=found.names | twins)
    assert list(same.ordered("new-vocabulary")) == ["fact-lookup", "random-mlps"]
    for number in (4, 7):
        assert "of 1 pairs" in verdict_of(same, settings, number).ours


@pytest.mark.parametrize(
    ("early", "late", "verdict"),
    [(36, 4, AGREES), (4, 36, DISAGREES), (20, 20, DISAGREES), (20, 23, UNRESOLVED)],
)
def test_late_layers_are_expected_to_transfer_less(settings, early, late, verdict):
    table = nested(mlp_window_0=early, mlp_window_6=late)
    row = verdict_of(evidence(settings, new_vocabulary=table), settings, 3)
    assert row.verdict == verdict
    assert row.ours.startswith(f"late {late / N:.2f} [")
    assert row.ours.endswith(f"early {early / N:.2f} (new-vocabulary)")


def test_where_late_edits_broke_the_vocabulary_wordings_decide(settings):
    wording = nested(mlp_window_0=36, mlp_window_6=4)
    tables = {"new_vocabulary": nested(mlp_window_0=20), "new_wording": wording}
    row = verdict_of(evidence(settings, **tables), settings, 3)
    assert row.verdict == AGREES and row.ours.endswith("(new-wording)")
    row = verdict_of(evidence(settings), settings, 3)
    assert (row.verdict, row.ours) == (UNRESOLVED, "no early and late window count")


def test_retained_facts_are_compared_in_the_training_prompt(settings):
    names = [n.replace("-", "_") for n in ORDER]
    alike = nested(**dict.fromkeys(names, N), unedited=0)
    assert verdict_of(evidence(settings, alike), settings, 4).verdict == AGREES
    worse = nested(**dict.fromkeys(names, N) | {names[-1]: 20})
    row = verdict_of(evidence(settings, worse), settings, 4)
    assert row.verdict == DISAGREES and "0.50 (attribution-patching-mlps)" in row.ours


def test_knowledge_that_a_small_model_has_not_is_not_tested(settings):
    assert verdict_of(evidence(settings), settings, 5).verdict == UNTESTED


@pytest.mark.parametrize(
    ("lookup", "attribution", "verdict"),
    [(4, 36, AGREES), (36, 4, DISAGREES), (20, 20, DISAGREES), (20, 23, UNRESOLVED)],
)
def test_relearning_is_expected_to_bring_back_less_after_fact_lookup(
    settings, lookup, attribution, verdict
):
    table = nested(fact_lookup=lookup, attribution_patching_mlps=attribution)
    row = verdict_of(evidence(settings, back=table), settings, 6)
    assert row.verdict == verdict
    assert row.ours.startswith(f"{lookup / N:.2f} and {attribution / N:.2f}, difference")
    assert row.published.startswith("fact-lookup 0.20")


def test_relearning_of_one_set_alone_is_unresolved(settings):
    row = verdict_of(evidence(settings, back=nested(fact_lookup=4)), settings, 6)
    assert (row.verdict, row.ours) == (UNRESOLVED, "one of the two does not count")


def test_rewordings_are_expected_to_tie(settings):
    alike = nested(**dict.fromkeys(FOUR, 30))
    assert verdict_of(evidence(settings, new_wording=alike), settings, 7).verdict == AGREES
    apart = evidence(settings, new_wording=nested(**FOUR), new_vocabulary=alike)
    assert verdict_of(apart, settings, 7).verdict == DISAGREES


@pytest.mark.parametrize(
    ("ones", "verdict"),
    [
        (dict(fact_lookup=4, random_mlps=36, mlp_window_6=30), AGREES),
        (dict(fact_lookup=4, random_mlps=36, mlp_window_6=5), UNRESOLVED),
        (dict(fact_lookup=20, random_mlps=36, mlp_window_6=4), DISAGREES),
        (dict(fact_lookup=20), UNTESTED),
        (dict(random_mlps=20, mlp_window_6=4), UNTESTED),
    ],
)
def test_probes_are_expected_to_read_least_after_fact_lookup(settings, ones, verdict):
    assert expectations._probes(nested(**ones), settings)[1] == verdict


@pytest.mark.parametrize(
    ("new", "back", "verdict"),
    [
        ((36, 4), (20, 20), AGREES),  # more new answers
        ((20, 20), (4, 36), AGREES),  # fewer old ones come back
        ((36, 4), (36, 4), DISAGREES),  # one for, one against
        ((20, 20), (20, 20), DISAGREES),  # alike in both
        ((20, 23), (20, 20), UNRESOLVED),
    ],
)
def test_fact_lookup_stands_beside_sets_as_early(settings, new, back, verdict):
    names = "fact_lookup", "depth_matched_mlps"
    tables = {"new_vocabulary": nested(**dict(zip(names, new)))}
    tables["back"] = nested(**dict(zip(names, back)))
    row = verdict_of(evidence(settings, **tables), settings, 9)
    assert row.verdict == verdict
    assert "new answers" in row.ours and "old answers back" in row.ours


# All of them, from what was measured


@pytest.fixture
def measured(data, settings):  # noqa: F811
    """Evidence of every task; the edit of attribution patching equals that of a late window."""
    same = dataclasses.replace(data, also={"mlp-window-6": ["attribution-patching-mlps"]})
    named = [dataclasses.replace(same, task=name) for name in settings.tasks]
    return [Evidence.of(each, settings) for each in named]


def test_every_expectation_gets_one_of_four_verdicts(measured, settings):
    alone = settings.attacks.model_copy(update={"tasks": []})
    alone = settings.model_copy(update={"attacks": alone})
    found = expectations.compare(Store("data"), measured, alone)
    assert list(found.columns) == expectations.COLUMNS
    assert found.groupby("number").size().to_dict() == {1: 1, 2: 1} | dict.fromkeys(range(3, 10), 2)
    assert found.number.is_monotonic_increasing
    words = {"agrees", "disagrees", "unresolved", "not tested"}
    assert set(found.verdict) <= words == {AGREES, DISAGREES, UNRESOLVED, UNTESTED}
    assert found.ours.str.len().min() > 0 and found.published.str.len().min() > 0


def test_names_of_equal_edits_lead_to_the_one_that_was_made(measured):
    names = measured[0].names
    assert names["attribution-patching-mlps"] == "mlp-window-6"
    assert names["fact-lookup"] == "fact-lookup"
    assert "attribution-patching-mlps" in measured[0].ordered("new-wording")


def test_ours_stand_beside_the_published(settings):
    table = nested(fact_lookup=30, mlp_window_6=4).assign(broken=numpy.nan)
    found = evidence(settings, new_vocabulary=table)
    found = dataclasses.replace(found, names=found.names | {"broken": "broken"})
    rows = expectations.beside([found], settings).set_index(["source", "localization"])
    assert rows.loc["ours"].value.to_dict() == {"fact-lookup": 0.75, "mlp-window-6": 0.1}
    row = rows.loc[("ours", "fact-lookup")]
    assert row.low < row.value < row.high
    assert rows.loc["published"].value["fact-lookup"] == 0.862
    assert (rows.loc["published"].low == rows.loc["published"].value).all()


# What probes read


def readings(name, hits, layer=17, variant="refit", split="forget_train"):
    """Rows of a probe that reads so many of 12 facts."""
    empty = dict.fromkeys(ATTACKED, "")
    key = {"localization": name, "attack": "probes", "variant": variant, "budget": layer}
    rows = [
        {"id": f"{split}{i}", "split": split, "true": "a", "answer": "a" if i < hits else "b"}
        for i in range(12)
    ]
    return [empty | key | row for row in rows]


@pytest.mark.parametrize(("lookup", "late", "verdict"), [(0, 12, AGREES), (12, 0, DISAGREES)])
def test_probes_are_read_at_the_last_layer(settings, tmp_path, monkeypatch, lookup, late, verdict):
    """Rows of other layers, probes and splits would give the other verdict."""
    rows = []
    for name, hits in (("fact-lookup", lookup), ("mlp-window-12", late)):
        rows += readings(name, hits) + readings(name, 12 - hits, layer=16)
        rows += readings(name, 12 - hits, variant="unedited")
        rows += readings(name, 12 - hits, split="retain_test")
    rows += readings("known-mask", 6)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    task, store = settings.attacks.tasks[0], Store("data")
    store.save("attack_inside/rows", pandas.DataFrame(rows), task, 0)
    table = expectations.inside(store, task, settings)
    assert table.mean().to_dict() == {"fact-lookup": lookup / 12, "mlp-window-12": late / 12}
    words, found = expectations._probes(table, settings)
    assert found == verdict and f"fact-lookup {lookup / 12:.2f}" in words


def test_a_task_whose_edits_face_no_probes_is_not_tested(settings):
    attacks = settings.attacks.model_copy(update={"tasks": ["sports-athletes"]})
    faced = settings.model_copy(update={"attacks": attacks})
    table = expectations.inside(Store("data"), "world-facts", faced)
    assert table.empty and expectations._probes(table, settings)[1] == UNTESTED
