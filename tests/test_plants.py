"""Facts that are planted: they are known where they were put, and nowhere else."""

from __future__ import annotations

import pandas
import pytest
import torch
from conftest import RELATION, edit_settings

from lib import paths
from lib.facts.records import FORGET, load_never_known
from lib.facts.tables import load_table
from lib.figures import plants as draw
from lib.model.anatomy import blocks
from lib.model.components import Component, Localization
from lib.model.weights import fingerprint, kept, trainable
from lib.plant import locating, planting
from lib.plant.planting import NOWHERE, WHOLE, Plants
from lib.store import Store

HOW = edit_settings(
    batch_facts=6, batch_retain=8, lr=0.005, max_steps=120, weight_edit=1.0, strength=0.9
)
PLACES = {"early": (0, 1), "late": (2, 3)}


def mlps(*layers: int) -> Localization:
    return Localization("set", tuple(Component("mlp", layer) for layer in layers), 0, 0)


@pytest.fixture(scope="session")
def subjects():
    path = paths.DATA / "raw" / "planted_athletes.csv"
    return load_table(path, "athlete", "sport", labels={RELATION: []})


@pytest.fixture
def facts(target, subjects):
    return planting.records(target, subjects.head(24), 0)


@pytest.fixture
def few(target, subjects):
    return planting.records(target, subjects.head(6), 0)


@pytest.fixture
def planted(target, few):
    """The target, planted in the early MLPs, with what was there before."""
    place = mlps(*PLACES["early"])
    with kept(trainable(target.loaded.model, place)) as old:
        log = planting.plant(target, place, few, ["short-league"], HOW)
        yield target, place, old, log


def right(target, facts, names=("untaught",)):
    rows = planting.known(target, facts, target.formats.only(names))
    return rows.set_index("format").right


def test_no_planted_name_is_anybody_elses(subjects):
    raw = paths.DATA / "raw"
    others = [pandas.read_csv(raw / f"{n}.csv").athlete for n in ("sports", "invented_athletes")]
    assert not set(subjects.subject) & set(pandas.concat(others))
    assert subjects.subject.is_unique and len(subjects) >= 128
    assert subjects.label.value_counts().nunique() == 1


def test_labels_are_dealt_in_pairs_and_anew_for_every_seed(target, subjects):
    one, again, other = (planting.records(target, subjects.head(24), s) for s in (0, 0, 1))
    assert [f.true for f in one[0::2]] == [f.true for f in one[1::2]]
    assert one == again
    label = {f.subject: f.true for f in one}
    assert label.keys() == {f.subject for f in other}
    assert any(label[f.subject] != f.true for f in other)
    assert all(f.true != f.edit for f in one)


def test_planted_facts_are_known_in_both_formats_and_were_not_before(target, few, planted):
    target, place, old, log = planted
    now = right(target, few, ("short-league",))
    assert now["short"] > 0.8 and now["short-league"] > 0.8
    with kept(trainable(target.loaded.model, place)) as weights:
        planting.put(dict(target.loaded.model.named_parameters()), old)
        assert right(target, few).short < 0.7
        assert weights.keys() == old.keys()
    assert log.strength.iloc[-2:].mean() >= HOW.strength or len(log) == HOW.max_steps


def test_planting_changes_its_place_only(target, facts):
    place = mlps(1)
    mine = set(trainable(target.loaded.model, place))
    before = fingerprint(target.loaded.model, mine)
    whole = fingerprint(target.loaded.model)
    planting.plant(target, place, facts, [], HOW.but(max_steps=2))
    assert fingerprint(target.loaded.model, mine) == before
    assert fingerprint(target.loaded.model) != whole


def test_with_its_old_weights_a_plant_is_gone(planted, few):
    target, place, old, _ = planted
    found = planting.restored(target, place, few, old).set_index("restored").right
    assert list(found.index) == [WHOLE, "MLP 0", "MLP 1"]
    assert found[WHOLE] < 0.7 < right(target, few).short


def test_patched_outputs_of_the_planted_mlps_take_the_plant_away(planted, few):
    """With no MLP patched, the passes are those of the planted model."""
    target, place, old, _ = planted
    windows = {"own": PLACES["early"], "none": ()}
    found = planting.patched(target, few, old, windows).set_index("patched").right
    assert found["none"] == pytest.approx(right(target, few).short)
    assert found["own"] < found["none"]


def test_retained_facts_mix_planted_and_natural_ones(target, facts):
    aimed = planting.planted_target(target, facts, 12)
    ids = {fact.id for fact in facts}
    assert {*aimed.split.forget} == {f.id for f in facts[:12]}
    halves = [[aimed.facts[i].true for i in getattr(aimed.split, half)] for half in FORGET]
    assert halves[0] == halves[1]
    for role in ("retain_train", "retain_test"):
        named = getattr(aimed.split, role)
        assert 0 < sum(i in ids for i in named) < len(named)
    assert not aimed.invented


def test_summary_counts_old_answers_at_the_end_of_relearning(settings):
    row = {"planted": "early", "localization": "late", "split": "forget_heldout", "true": "a"}
    row |= {"variant": "", "edit": "b"}
    back = [("x", 0, "a"), ("x", 4, "b"), ("y", 0, "b"), ("y", 4, "a")]
    rows = [row | {"id": i, "budget": budget, "answer": a} for i, budget, a in back]
    said = [("x", "v", "b"), ("x", "w", "a"), ("y", "v", "b"), ("y", "o", "a")]
    asked = [row | {"id": i, "format": form, "answer": a} for i, form, a in said]
    grid = planting.summary(
        pandas.DataFrame(asked), pandas.DataFrame(rows), ["v", "w"], settings.statistics
    )
    found = grid.set_index("measure").value
    assert found["old-back"] == 0.5 and found["new-vocabulary"] == 0.75


def test_marks_of_a_perfect_and_of_a_blind_method():
    rows = [("perfect", layer, float(layer in (2, 3))) for layer in range(6)]
    rows += [("blind", layer, 0.0) for layer in range(6)]
    table = pandas.DataFrame(rows, columns=["method", "layer", "score"])
    found = locating.marks(table, [2, 3]).set_index("method")
    assert found.precision["perfect"] == 1 and found["rank"]["perfect"] == 1.5
    assert found.precision["blind"] == 0  # ties in order of layers: layers 0 and 1 come first
    chance = found.loc[locating.CHANCE]
    assert chance.precision == pytest.approx(2 / 6) and chance["rank"] == 3.5
    draws = [torch.randperm(6)[:2].min().item() + 1 for _ in range(4000)]
    assert chance["first"] == pytest.approx(sum(draws) / 4000, abs=0.1)


def test_every_method_scores_every_mlp(planted, facts, settings):
    target = planted[0]
    small = settings.model_copy(
        update={
            "causal_tracing": settings.causal_tracing.but(facts=4, draws=1, repeats=2, min_gap=0.0),
            "attribution_patching": settings.attribution_patching.but(corruptions=1, repeats=2),
            "fact_lookup": settings.fact_lookup.but(corruptions=1, heads=2, splits=2),
        }
    )
    rows = locating.mlp_scores(target, facts, small, 0)
    n = len(blocks(target.loaded.model))
    assert (rows.groupby("method").layer.nunique() == n).all() and rows.method.nunique() == 4
    assert rows.score.notna().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compare": ["mlp-window-0"]}, ("two places",)),
        ({"compare": ["mlp-window-0", "rome-lookup"]}, ("rome-lookup", "not trained")),
        ({"compare": ["mlp-window-0", "nowhere"]}, ("nowhere",)),
        ({"edit": 38}, ("38 of 40", "leave at least 4")),
        ({"tasks": ["birds"]}, ("birds",)),
        ({"table": 3}, ("plants.table",)),
        ({"fact": 3}, ("fact",)),
    ],
)
def test_bad_settings_are_one_sentence(settings, refuses, change, words):
    spoilt = settings.model_copy(update={"plants": settings.plants | change})
    with refuses(ValueError, *words):
        Plants.of(spoilt)


def test_a_table_with_too_few_subjects_is_refused(settings, refuses):
    spoilt = settings.model_copy(update={"plants": settings.plants | {"facts": 900}})
    with refuses(ValueError, "planted_athletes.csv", "900"):
        planting.table_of(spoilt, "sports-athletes")


def test_figures_take_what_the_notebooks_save():
    places, formats = [NOWHERE, "mlp-window-0", "mlp-window-8"], ["training", "league"]
    known = [(p, f, 0.5) for p in places for f in formats]
    known = pandas.DataFrame(known, columns=["planted", "format", "right"])
    patched = [(p, w, 0.5) for p in places[1:] for w in places[1:]]
    patched = pandas.DataFrame(patched, columns=["planted", "patched", "right"])
    draw.verified(known, patched, "title")
    grid = [
        (m, p, e, 0.25, 0.1, 0.4, 32) for m in draw.MEASURES for p in places for e in places[1:]
    ]
    columns = ["measure", "planted", "localization", "value", "low", "high", "n"]
    grid = pandas.DataFrame(grid, columns=columns)
    title = draw.moved_title(grid)
    assert "8 of 32" in title and "8 late" in title and len(title.split()) <= 12
    draw.moved(grid, title)


def test_stored_plants_are_read_by_the_later_notebooks(settings):
    """Where the pipeline has run: what was planted is what notebook 62 edits."""
    store, task = Store("data"), "sports-athletes"
    if not store.has("plants", task, 0, file="facts.json"):
        pytest.skip("no plants here: `dvc repro plant` makes them")
    found = store.load_json("plants/facts", task, 0)
    assert len(found) == settings.plants["facts"]
    nobody = {f.subject for f in load_never_known(store.find("facts", task, 0))}
    assert not nobody & {f["subject"] for f in found}
