"""The study: its folds and sets, its cells, and rules that find what was put into made-up data."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import partial
from types import SimpleNamespace

import numpy
import pandas
import pytest
import torch
from test_cell import PAIR, RELEARN, data_of

from lib import paths
from lib.attacks import relearn
from lib.attacks.target import ReadOut
from lib.edit.train import train
from lib.facts.formats import Catalogue
from lib.facts.records import FactSplit
from lib.model.weights import kept, trainable
from lib.stats import ALIKE, HIGHER, LOWER, UNRESOLVED
from study import (
    accounts,
    attacker,
    cells,
    decide,
    design,
    page,
    planted,
    reproduced,
    simulate,
    tables,
)

TASKS = [*design.params()["tasks"]]
SPORTS, WORLD, SECOND = TASKS
PAIRED = [SPORTS, WORLD]  # the tasks with pairs and spread sets
LOOKS = [2, 4, 5]


# Folds


@pytest.fixture
def split() -> FactSplit:
    """A split as of notebook 01: 32 edited facts, 166 to keep, some to choose settings on."""
    ids = [f"r/{i:03}" for i in range(32 + 166 + 55 + 55)]
    parts = ids[:16], ids[16:32], ids[32:198], ids[198:253], ids[253:]
    return FactSplit(*parts, ())


def test_folds_share_no_fact_and_leave_the_default_and_its_settings_out(split):
    made = [design.fold(split, number) for number in design.folds(SPORTS)]
    edited = [set(fold.forget) for fold in made]
    assert all(len(ids) == 32 for ids in edited) and len(set.union(*edited)) == 32 * len(made)
    seen = {*split.forget, *split.retain_val, *split.retain_test}
    assert not set.union(*edited) & seen
    for fold in made:
        assert set(fold.retain_train) == {*split.forget, *split.retain_train} - set(fold.forget)
        assert (fold.retain_val, fold.retain_test) == (split.retain_val, split.retain_test)


@pytest.mark.parametrize("number", [0, 6])
def test_a_fold_that_is_not_there_is_refused(split, refuses, number):
    with refuses(ValueError, f"no fold {number}", "5 folds of 32", "lower `folds`"):
        design.fold(split, number)


# Sets


@pytest.mark.parametrize("task", PAIRED)
def test_the_spread_sets_tell_the_accounts_apart(task):
    chosen = design.spread(task)
    assert len(set(chosen)) == design.params()["sets"] and all(len(set(s)) == 4 for s in chosen)
    about = [design.measures(task, layers) for layers in chosen]
    seen = pandas.DataFrame([(m.depth, m.first, m.before, m.lookup) for m in about]).corr()
    assert (seen.abs() - numpy.eye(4)).max(axis=None) <= design.params()["correlation"]
    spread_over = [design.sets(design.SETS, task, f) for f in design.folds(task)]
    assert sorted(sum(spread_over, [])) == sorted(design.mlps(*layers) for layers in chosen)


@pytest.mark.parametrize("task", PAIRED)
def test_paired_sets_differ_in_one_layer_and_the_rest_lies_behind_every_lookup(task):
    shares, at = design.params()["tasks"][task]["lookup"], design.lookup(task)
    pairs = [three for f in design.folds(task) for three in design.paired(task, f)]
    assert len({three["at"] for three in pairs}) == len(pairs) >= 15
    for three in pairs:
        layers = {place: set(design.layers_of(name)) for place, name in three.items()}
        rest = layers["at"] - {at}
        assert layers["above"] - rest == {at + 1} and layers["below"] - rest == {at - 1}
        assert sum(shares[min(rest) :]) < 0.3 and min(rest) > at + 1


@pytest.mark.parametrize("task", TASKS)
def test_no_cell_is_made_twice_in_a_fold(task):
    for number in design.folds(task):
        mine = [e for e in design.experiments(task) if e in design.SHARED]
        made = [n for e in mine for n in design.todo(e, task, number)]
        asked = {n for e in mine for n in design.sets(e, task, number)}
        assert len(made) == len(set(made)) and set(made) == asked


def test_an_unknown_experiment_is_refused(refuses):
    with refuses(ValueError, "unknown experiment 'mine'", "cliff, pairs"):
        design.sets("mine", SPORTS, 1)


def test_names_of_sets_are_read_back():
    assert design.layers_of(design.mlps(7, 3)) == (3, 7)
    assert design.layers_of("mlp-window-3") is None and design.layers_of("random:1") is None


# Accounts


@pytest.mark.parametrize(
    "account, at, behind", [("depth", 0.27, 0.32), ("extraction", 0, 0), ("lookup", 0.1, 0.9)]
)
def test_accounts_differ_at_the_windows_around_the_lookup(account, at, behind):
    x = [accounts.predictor(account, SPORTS, tuple(range(s, s + 4))) for s in (3, 4)]
    assert x == pytest.approx([at, behind], abs=0.05)


def test_only_upstream_calls_the_layer_below_the_lookup_robust():
    below, above = [(2, 8, 9, 16), (4, 8, 9, 16)]
    found = {a: accounts.predictor(a, SPORTS, below) for a in accounts.ACCOUNTS}
    assert found["upstream"] < 0.1 < found["depth"] and found["lookup"] > 0.9
    assert accounts.predictor("upstream", SPORTS, above) > 0.8
    assert accounts.predicted("upstream", SPORTS, design.mlps(*below), 0.2, 0.7) == pytest.approx(
        0.2 + 0.5 * found["upstream"]
    )


def test_an_unknown_account_is_refused(refuses):
    with refuses(ValueError, "unknown account 'luck'", "upstream"):
        accounts.predictor("luck", SPORTS, (1,))


# Rules


@pytest.mark.parametrize(
    "differences, verdict, folds",
    [
        ([0.5, 0.5], decide.WAITING, 2),  # two folds cannot show it at the first level
        ([0.5, 0.45, 0.5, 0.55], HIGHER, 4),
        ([-0.5, -0.45, -0.5, -0.55], LOWER, 4),
        ([0.01, -0.01, 0.0, 0.01], ALIKE, 4),
        ([0.5, -0.4, 0.3, 0.2], decide.WAITING, 4),
        ([0.5, -0.4, 0.3, 0.2, 0.1], UNRESOLVED, 5),
        ([], decide.WAITING, 0),
    ],
)
def test_a_question_is_decided_at_a_look_or_waits(differences, verdict, folds):
    found = decide.decide(differences, LOOKS)
    assert (found.verdict, found.folds) == (verdict, folds)


def test_a_first_look_at_two_folds_decides_nothing_however_much_they_agree():
    low, high = decide.interval(numpy.array([1.0, 1.0]), design.params()["looks"][0])
    assert low < -1 and high > 1


def test_later_folds_do_not_change_what_a_look_has_decided():
    early = [0.5, 0.45, 0.5, 0.55]
    assert decide.decide([*early, -5.0], LOOKS) == decide.decide(early, LOOKS)


def test_folds_that_agree_by_chance_have_an_interval():
    low, high = decide.interval(numpy.zeros(4), 0.05)
    assert low == -high and high == pytest.approx(3.182 / 32 / 2, rel=1e-3)


def test_the_interval_is_students_where_folds_differ():
    x = numpy.array([0.2, 0.5, 0.4, 0.6])
    reach = 3.182446 * x.std(ddof=1) / 2
    assert decide.interval(x, 0.05) == pytest.approx((0.425 - reach, 0.425 + reach))


@pytest.fixture
def paired_cells() -> pandas.DataFrame:
    """Sets with the lookup at 0.2, those above at 0.6, those below at 0.3."""
    value = {"at": 0.2, "above": 0.6, "below": 0.3}
    rows = [
        (design.PAIRS, f, name, value[place], True, True)
        for f in design.folds(SPORTS)
        for three in design.paired(SPORTS, f)
        for place, name in three.items()
    ]
    columns = ["experiment", "fold", "cell", "back", "reached", "gates"]
    return pandas.DataFrame(rows, columns=columns)


def test_differences_are_means_over_the_pairs_of_a_fold(paired_cells):
    found = decide.differences("above", SPORTS, paired_cells)
    assert found == pytest.approx(dict.fromkeys(design.folds(SPORTS), 0.4))
    assert decide.answer("above", SPORTS, paired_cells)["verdict"] == HIGHER


def test_a_pair_without_the_strength_or_a_passed_gate_is_left_out(paired_cells):
    first = design.paired(SPORTS, 1)[0]
    wrong = paired_cells.cell == first["at"]
    paired_cells.loc[wrong, "back"] = 0.9
    for column, gated in (("reached", False), ("gates", True)):
        table = paired_cells.copy()
        table.loc[wrong, column] = False
        assert decide.differences("above", SPORTS, table, gated=gated)[1] == pytest.approx(0.4)
    assert decide.differences("above", SPORTS, paired_cells)[1] < 0.3


def test_a_fold_with_a_missing_cell_gives_no_difference(paired_cells):
    lacking = paired_cells[paired_cells.cell != design.paired(SPORTS, 3)[0]["above"]]
    assert set(decide.differences("above", SPORTS, lacking)) == {1, 2, 4, 5}


def test_gates_that_point_the_other_way_leave_a_question_unresolved(paired_cells):
    for three in (t for f in design.folds(SPORTS) for t in design.paired(SPORTS, f)[1:]):
        paired_cells.loc[paired_cells.cell == three["at"], "gates"] = False
    ones = [design.paired(SPORTS, f)[0]["at"] for f in design.folds(SPORTS)]
    paired_cells.loc[paired_cells.cell.isin(ones), "back"] = 0.65
    found = decide.answer("above", SPORTS, paired_cells)
    assert found["value"] > 0.2 and found["gated"] < 0 and found["verdict"] == UNRESOLVED


# Made-up data


@pytest.fixture(scope="module", params=[*accounts.ACCOUNTS])
def simulated(request):
    rng = numpy.random.default_rng(1)
    return request.param, simulate.cells(SPORTS, request.param, design.EXPERIMENTS, rng)


def test_the_profile_over_layers_tells_the_accounts_apart(simulated):
    account, table = simulated
    scores = decide.compare(decide.profile(table, design.windows(SPORTS)), SPORTS)
    assert scores[scores.model != "step"].set_index("model").score.idxmax() == account


def test_questions_never_say_the_opposite_of_a_large_predicted_difference(simulated):
    account, table = simulated
    for question in ("cliff", "above", "below"):
        if abs(decide.expected(question, SPORTS, account)) > 0.2:
            verdict = decide.answer(question, SPORTS, table)["verdict"]
            assert verdict == decide.foreseen(account, question, SPORTS)


def test_a_cliff_is_found_where_it_was_put():
    table = simulate.cells(SPORTS, "upstream", [design.LAYERS], numpy.random.default_rng(2))
    place, low, high = decide.step_place(table, design.windows(SPORTS), resamples=200)
    assert (place, low, high) == (4, 4, 4)


def test_a_regression_finds_the_number_that_was_put_in():
    table = simulate.cells(SPORTS, "lookup", [design.SETS], numpy.random.default_rng(3))
    found = decide.regress(table, SPORTS, draws=499).set_index("number")
    assert found.p["lookup"] < 0.01 and found.slope["lookup"] == pytest.approx(-0.5, abs=0.15)
    assert (found.p.drop("lookup") > 0.01).all()


def test_a_step_needs_two_layers(refuses):
    with refuses(ValueError, "two layers at least"):
        decide.step(numpy.array([3, 3]), numpy.array([0.1, 0.2]))


# Cells


@pytest.fixture
def made(aim, pupil, short_catalogue, settings):
    """make(name): a real cell of a tiny model."""
    changes = {"attack_relearn": RELEARN, "edit": settings.edit.but(**PAIR.model_dump(
        include={"batch_facts", "max_steps", "weight_text"}))}  # fmt: skip
    target = aim(pupil, formats=short_catalogue, invented=[])
    pair = {"lr": PAIR.lr, "weight_edit": PAIR.weight_edit}
    ours = settings.model_copy(update=changes)
    formats = ["untaught", "short-league"]
    return partial(cells.make, target=target, settings=ours, pair=pair, formats=formats)


def test_a_cell_of_a_real_edit(made, known_split, short_catalogue):
    found = json.loads(json.dumps(made("mlp-1")))
    assert found["mlp"] == [1] and found["attention"] == [] and found["edit"]["steps"] > 0
    assert set(found["back"]) == set(known_split.forget) == set(found["said"])
    assert list(found["retained"]) == [*short_catalogue.only(["untaught", "short-league"]).kinds]
    assert {len(said) for said in found["said"].values()} == {len(found["retained"])}
    assert set("".join(found["said"].values())) <= set(cells.CODE.values())
    assert [end["steps"] for end in found["attacks"]] == [4, 4]
    before = made(design.UNEDITED)
    assert "back" not in before and set(before["said"]) == set(known_split.forget)


def test_a_cell_under_an_attacker_who_adapts(made, known_split, monkeypatch):
    monkeypatch.setattr(attacker, "variants", lambda base: VARIANTS)
    found = json.loads(json.dumps(made("mlp-1", adapts=True)))
    assert set(found["back"]) == set(known_split.forget) == set(found["said"])
    assert [end["variant"].split()[0] for end in found["attacks"]] == ["0", "1"]
    assert {end["variant"].split()[1] for end in found["attacks"]} <= set(VARIANTS)


def test_the_two_kinds_of_attack_are_never_compared(paired_cells):
    other = paired_cells.assign(experiment=design.ATTACKER, back=0.0)
    both = pandas.concat([other, paired_cells])
    alone = decide.differences("above", SPORTS, paired_cells)
    assert decide.differences("above", SPORTS, both) == alone


def test_letters_say_what_was_answered():
    rows = pandas.DataFrame(
        {
            "id": ["a", "a", "b", "c"],
            "format": ["f", "g", "f", "f"],
            "split": ["forget_train", "forget_train", "forget_heldout", "retain_test"],
            "true": "old",
            "edit": "new",
            "answer": ["new", "old", "third", "old"],
        }
    )
    assert cells.letters(rows, ["f", "g"]) == {"a": "no", "b": "x-"}


def test_an_interrupted_file_goes_on_and_a_cut_line_is_made_again(tmp_path):
    path, asked = tmp_path / "e" / "t" / "1.jsonl", []

    def make(names: list[str]):
        for name in names:
            if name == "c" and len(asked) == 2:
                raise KeyboardInterrupt
            asked.append(name)
            yield {"cell": name}

    with pytest.raises(KeyboardInterrupt):
        cells.fill(path, ["a", "b", "c"], make, "test")
    path.write_text(path.read_text()[:-5])
    asked.append("interrupted")
    cells.fill(path, ["a", "b", "c"], make, "test")
    assert asked == ["a", "b", "interrupted", "b", "c"]
    assert [line["cell"] for line in cells.read(path)] == ["a", "b", "c"]


def test_a_wrong_command_says_the_right_one(refuses):
    with refuses(ValueError, "usage: python -m study.cells cliff|pairs"):
        cells.main(["layers", "chess", "1"])


# Tables


@pytest.fixture
def line() -> dict:
    return {
        "experiment": "layers",
        "fold": 1,
        "cell": "mlp-3",
        "mlp": [3],
        "attention": [],
        "edit": {"reached": True, "steps": 20},
        "retained": {"short": 1.0, "untaught": 0.9, "short-league": 0.5},
        "said": {"a": "nnn", "b": "nox", "c": "n-n"},
        "back": {"a": 1, "b": 0, "c": 0},
        "attacks": [{"steps": 4, "taught": 1.0, "retained": 0.95}] * 2,
    }


def row_of(line: dict, settings, catalogue: Catalogue) -> dict:
    before = {1: {"short": 1.0, "untaught": 1.0, "short-league": 1.0}}
    return tables.row(line, before, settings, catalogue)


def test_a_row_has_the_shares_of_formats_that_count(line, settings, short_catalogue):
    found = row_of(line, settings, short_catalogue)
    assert found["new_wording"] == 0.5 and found["old_wording"] == 0.5  # c cannot be asked so
    assert numpy.isnan(found["new_vocabulary"])  # the edited model has lost that format
    assert (found["back"], found["kept"]) == pytest.approx((1 / 3, 0.8)) and found["gates"]


@pytest.mark.parametrize("broken", [{"taught": 0.8}, {"retained": 0.8}])
def test_both_attacks_must_pass_their_gates(line, settings, short_catalogue, broken):
    line["attacks"] = [line["attacks"][0], line["attacks"][0] | broken]
    assert not row_of(line, settings, short_catalogue)["gates"]


def test_tables_are_read_from_the_rows(tmp_path, line, settings, short_catalogue):
    path = cells.path_of("layers", SPORTS, 1, tmp_path)
    before = {"cell": design.UNEDITED, "retained": dict.fromkeys(line["retained"], 1.0)}
    for made in (before, {k: v for k, v in line.items() if k not in ("experiment", "fold")}):
        cells.append(path, made)
    table = tables.load(SPORTS, settings, short_catalogue, tmp_path)
    assert list(table.cell) == ["mlp-3"] and set(tables.OUTCOMES) <= set(table)


def test_the_lookup_in_the_plan_is_that_of_the_default_facts():
    """Where the pipeline has run: the committed numbers are those of notebook 12."""
    here = 0
    for task, about in design.params()["tasks"].items():
        try:
            _, store, name = cells.source(task)
        except FileNotFoundError:
            continue
        shares = store.load("fact_lookup/how_often", name, 0).share
        assert about["lookup"] == pytest.approx(shares.tolist(), abs=1e-3)
        found = store.load_json("fact_lookup/lookup", name, 0)
        assert about["extraction"] == min(layer for layer, _ in found["heads"])
        assert about["n_layers"] == found["n_layers"]
        here += 1
    if not here:
        pytest.skip("the pipeline has not run here")


def test_the_plan_says_what_the_table_of_power_says():
    table, plan = pandas.read_csv(design.HERE / "power.csv"), (design.HERE / "PLAN.md").read_text()

    def stated(sentence: str) -> list[float]:
        return [float(n) for n in re.search(sentence, plan).groups()]

    asked, fits = table[table.question != "profile"], table[table.question == "profile"]
    second = asked[asked.task == SECOND]
    asked = asked[asked.task != SECOND]
    large = asked.predicted.abs() >= 0.28
    assert (asked.predicted.abs()[~large] < 0.1).all()
    adapted, n = asked.question == "adapted", r" ([0-9.]+[0-9])"
    found = [asked.right[large & which].min() for which in (~adapted, adapted)]
    assert found == pytest.approx(
        stated(f"least{n} of the .*three folds, in at least{n}"), abs=6e-3
    )
    alike = asked[~large].groupby(["question", "task"]).right
    pairs = alike.min()[["above", "below"]].groupby("task").min()[PAIRED]
    said = stated(f"`above` and `below` in at least{n} of the studies with athletes and{n} with")
    assert list(pairs) == pytest.approx(said, abs=6e-3)
    most = alike.max()
    limits = [alike.min()["cliff"].min(), most["cliff"].max()]
    limits += [most[["moved", "ahead"]].max(), most["adapted"].max()]
    sentence = f"it is found in{n} to{n}, for `moved` .* at most{n}, for `adapted` in at most{n}"
    said = stated(sentence)
    assert limits == pytest.approx(said, abs=6e-3)
    assert asked.wrong.max() <= stated(f"A wrong decision is made in at most{n}")[0]
    best = fits.groupby("task").right.min()
    said = stated(f"fits the account .* at least{n} of the studies with athletes and{n} with")
    assert list(best[PAIRED]) == pytest.approx(said, abs=6e-3)
    said = stated(f"no more than{n} for `cliff`, .* at most{n} of the .* at least{n}\\.")
    wanted = second[second.account.isin(["lookup", "upstream"])]
    limits = [wanted.predicted.max(), wanted.right.max(), best[SECOND]]
    assert limits == pytest.approx(said, abs=6e-3)


# What a default run is compared with


def test_a_run_that_differs_from_the_folds_is_named(monkeypatch, tmp_path):
    (tmp_path / SPORTS).mkdir()
    edits = {"localization": ["a", "b", "c"], "mlp": ["3", "7", "2 3"], "attention": ["", "", "1"]}
    pandas.DataFrame(edits | {"steps": [5, 5, 5]}).to_csv(tmp_path / SPORTS / "edits.csv")
    back = {
        "localization": ["a", "b", "c"],
        "back": [3, 12, 3],
        "n": 16,
        "value": [0.19, 0.75, 0.2],
    }
    pandas.DataFrame(back).to_csv(tmp_path / SPORTS / "back.csv")
    monkeypatch.setattr(reproduced, "RESULTS", tmp_path)
    folds = [(f, c, True, x) for f, x in enumerate([0.1, 0.2, 0.15]) for c in ("mlp-3", "mlp-7")]
    made = pandas.DataFrame(folds, columns=["fold", "cell", "reached", decide.PRIMARY])
    rows = reproduced.compared(SPORTS, made).set_index("localization")
    assert list(rows.index) == ["a", "b"], "a set with attention is none of whole MLPs"
    assert rows.value.between(rows.low, rows.high).to_dict() == {"a": True, "b": False}
    assert reproduced.compared(SPORTS, made[made.fold < 2]).empty


def test_nineteen_of_twenty_new_splits_lie_within_a_prediction_interval():
    rng, size, inside = numpy.random.default_rng(0), design.params()["size"], []
    for _ in range(400):
        means = numpy.clip(rng.normal(0.4, 0.05, 6), 0, 1)
        low, high = reproduced.predicted(rng.binomial(size, means[:5]) / size, 16)
        inside.append(low <= rng.binomial(16, means[5]) / 16 <= high)
    assert 0.92 < numpy.mean(inside) < 0.99


# What a reader gets


def test_an_account_is_refuted_only_by_a_decision_against_it():
    row = SimpleNamespace(question="below", task=SPORTS, verdict=LOWER)
    said = {f"{a}_predicts": decide.expected("below", SPORTS, a) for a in accounts.ACCOUNTS}
    vars(row).update(said)
    assert all(page.refutes(row, account) for account in accounts.ACCOUNTS)
    row.verdict = HIGHER
    assert [a for a in accounts.ACCOUNTS if not page.refutes(row, a)] == ["lookup"]
    row.verdict = UNRESOLVED
    assert not any(page.refutes(row, account) for account in accounts.ACCOUNTS)


def test_the_page_and_the_first_page_have_the_numbers_of_the_tables():
    table = pandas.read_csv(design.HERE / "tables" / "decisions.csv")
    assert page.decisions(table) in page.PAGE.read_text()
    assert "\n".join(page.sentences(table)) in (paths.ROOT / "README.md").read_text()


# The attacker who adapts


@pytest.fixture
def edited(aim, pupil, middle):
    """A tiny model on which an edit is, and its trained weights."""
    target = aim(pupil, invented=[])
    with kept(trainable(pupil.model, middle)) as old:
        train(pupil.model, middle, data_of(target), PAIR, 0)
        yield dataclasses.replace(target, unedited=old), middle


VARIANTS = {
    "default": RELEARN,
    "weak": RELEARN.but(lr=1e-9),
    attacker.EDITED: RELEARN.but(rank=None, lr=0.01),
}


def bits(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_the_attacker_chooses_on_its_own_half_only(edited, monkeypatch):
    target, place = edited
    scored, seen = {*target.split.forget_heldout}, []
    real = attacker.attack

    def watched(target, *how):
        seen.append({*target.split.forget_train, *target.split.forget_heldout})
        return real(target, *how)

    monkeypatch.setattr(attacker, "attack", watched)
    before = bits(target.loaded.model)
    found = attacker.choose(target, place, VARIANTS, 0.0)
    assert found.variant in VARIANTS and found.steps in (2, 4)
    assert len(seen) == len(VARIANTS) and not any(ids & scored for ids in seen)
    assert all(map(torch.equal, bits(target.loaded.model), before))


def test_the_best_of_the_rehearsal_is_taken(edited, monkeypatch):
    back = {("default", 2): 0.1, ("default", 4): 0.4, ("weak", 2): 0.4, ("weak", 4): 0.9}
    lost = ("weak", 4)

    def told(target, place, name, how):
        for (variant, step), value in back.items():
            if variant == name:
                rows = [("forget_heldout", i < 10 * value) for i in range(10)]
                rows += [("retain_test", (variant, step) != lost)] * 3
                table = pandas.DataFrame(rows, columns=["split", "answer"]).assign(true=True)
                yield ReadOut(table, step)

    monkeypatch.setattr(attacker, "attack", told)
    found = attacker.choose(*edited, VARIANTS, 0.9)
    assert found == attacker.Choice("default", 4, 0.4)  # the first of equals that spares the rest


def test_the_final_attack_is_the_chosen_one_stopped_there(edited):
    target, place = edited
    before = bits(target.loaded.model)
    found, rows = attacker.adapted(target, place, {"default": RELEARN}, 0.0)
    whole = {out.budget: out.rows for out in relearn.attack(target, RELEARN)}
    pandas.testing.assert_frame_equal(rows.drop(columns="budget"), whole[found.steps])
    assert all(map(torch.equal, bits(target.loaded.model), before))


def test_one_variant_trains_what_the_edit_trained(edited):
    target, place = edited
    outs = [*attacker.attack(target, place, attacker.EDITED, VARIANTS[attacker.EDITED])]
    assert outs[-1].trained == place.weights
    taught = [attacker.share(out.rows, "forget_train") for out in outs]
    assert taught[-1] > taught[0]


def test_the_variants_of_the_plan_are_sound(settings):
    every = attacker.variants(settings.attack_relearn)
    assert list(every)[0] == "default" and attacker.EDITED in every
    assert all(how.enough is None for how in every.values())
    assert set(design.params()["attacker"]["sets"]) >= {"mlp-3", "mlp-4"}


# Planted facts


def test_planted_cells_name_where_the_facts_are_and_where_they_are_edited():
    names = design.sets("planted-mlp-0-1-2-3", SPORTS, 1)
    assert names[:2] == [design.VERIFIED, design.LOCATED] and names[-1] == design.BATTERY
    assert design.split_name(names[2]) == ("mlp-0-1-2-3", "mlp-0-1-2-3")
    assert design.split_name("mlp-4") == ("", "mlp-4")
    assert design.sets("planted-singles-mlp-9", SPORTS, 1)[0] == "mlp-9>mlp-1"
    assert design.sets("planted-singles-mlp-9", SPORTS, 2) == []
    assert design.sets("planted-nowhere", SPORTS, 3)[0] == design.VERIFIED
    assert design.sets("planted-nowhere", WORLD, 1) == []


@pytest.mark.parametrize(
    ("account", "moved", "ahead"),
    [
        ("depth", ALIKE, ALIKE),
        ("extraction", ALIKE, ALIKE),
        ("lookup", HIGHER, HIGHER),
        ("upstream", HIGHER, ALIKE),
    ],
)
def test_accounts_foresee_what_the_plan_says_of_planted_facts(account, moved, ahead):
    assert decide.foreseen(account, "moved", SPORTS) == moved
    assert decide.foreseen(account, "ahead", SPORTS) == ahead


def test_planted_questions_compare_the_same_window_edited():
    behind, at = decide.QUESTIONS["moved"].sides(SPORTS, 1)
    assert len(behind) == len(at) == 6
    for one, other in zip(behind, at):
        where, edited = design.split_name(one)
        assert design.split_name(other) == (edited, edited)
        assert max(design.layers_of(where)) < min(design.layers_of(edited))
    assert "moved" not in decide.of_task(WORLD) and "moved" in decide.of_task(SPORTS)


@pytest.fixture
def verified() -> dict:
    windows = design.params()["planted"]["windows"]
    return {
        "place": windows[1],
        "seed": 1,
        "cell": design.VERIFIED,
        "known": {"training": 1.0, "question": 1.0, "league": 1.0, "profile": 0.9, "sentence": 0.6},
        "retained": dict.fromkeys(["training", "question"], 1.0),
        "patched": dict.fromkeys(windows, 0.95) | {windows[1]: 0.35},
    }


@pytest.mark.parametrize(
    ("spoil", "sound"),
    [
        ({}, True),
        ({"known": {"training": 1.0, "question": 1.0, "profile": 0.5}}, False),
        ({"patched": {"mlp-0-1-2-3": 0.95, "mlp-4-5-6-7": 0.6}}, False),
        ({"patched": {"mlp-0-1-2-3": 0.7, "mlp-4-5-6-7": 0.3}}, False),
    ],
)
def test_a_plant_counts_if_it_is_known_and_lives_in_its_place(verified, spoil, sound):
    assert planted.sound(verified | spoil) is sound


def test_a_window_that_holds_part_of_a_plant_may_take_it_away(verified):
    place = "mlp-1-5-9-13"
    parts = dict.fromkeys(design.params()["planted"]["windows"], 0.5) | {place: 0.3}
    assert planted.sound(verified | {"place": place, "patched": parts})


def test_cells_of_a_plant_that_is_not_sound_leave_the_decisions(
    verified, line, settings, short_catalogue, tmp_path
):
    bad = verified | {"known": {"training": 1.0, "profile": 0.1}}
    for seed, first in ((1, verified), (2, bad)):
        path = cells.path_of(f"planted-{verified['place']}", SPORTS, seed, tmp_path)
        first = {k: v for k, v in first.items() if k not in ("place", "seed")}
        cells.append(path, first | {"retained": line["retained"]})
        kept = {k: v for k, v in line.items() if k not in ("experiment", "fold")}
        cells.append(path, kept | {"cell": f"{verified['place']}>mlp-1"})
    found = planted.table(SPORTS, settings, short_catalogue, tmp_path)
    assert list(found.reached) == [True, False] and set(found.experiment) == {design.PLANTED}


def test_an_attack_tells_if_it_finds_more_where_something_is_masked():
    def line(place: str, finds: int, blind: int) -> dict:
        back = {
            "good": {"": {str(i): int(i < finds) for i in range(16)}},
            "blind": {"a": {str(i): int(i < blind) for i in range(16)}},
        }
        return {"place": place, "seed": 1, "cell": design.BATTERY, "back": back}

    window = design.params()["planted"]["windows"][0]
    every = pandas.DataFrame([line(design.NOWHERE, 2, 5), line(window, 14, 5)])
    found = planted.calibrated(every).set_index("attack")
    assert found.tells["good"] and not found.tells["blind"]
    assert found.nothing["good"] == 2 / 16 and found.masked["good"] == 14 / 16


@pytest.mark.parametrize("task", [SPORTS, SECOND])
def test_a_task_without_results_names_the_command_that_makes_them(
    task, refuses, monkeypatch, tmp_path
):
    monkeypatch.setattr(cells.paths, "ROOT", tmp_path)
    with refuses(FileNotFoundError, f"no results of {task}", "run `make study`"):
        cells.source(task)


def test_the_second_model_is_edited_up_to_its_own_extraction_heads():
    about = design.params()["tasks"][SECOND]
    every = design.todo(design.LAYERS, SECOND, 1)
    assert max(max(design.layers_of(n)) for n in design.singles(SECOND)) == about["extraction"]
    assert set(design.around_the_lookup(SECOND)) == {"mlp-0-1-2-3", "mlp-1-2-3-4"}
    assert not set(every) & set(design.around_the_lookup(SECOND)), "those are of `cliff`"
    assert decide.of_task(SECOND) == ["cliff", "depth-matched", "output-tracing"]
    first, *others = (f"{share:.2f}" for share in about["lookup"])
    said = f"{first} in MLP 0 and no more than {max(others)} in any other"
    assert said in page.PAGE.read_text()


def test_the_map_is_summed_up_by_the_side_of_the_plant_that_is_edited():
    windows = design.params()["planted"]["windows"]
    back = {(-1): 0.1, 0: 0.4, 1: 0.8}
    rows = [
        (planted, edited, back[(i > j) - (i < j)])
        for j, planted in enumerate(windows)
        for i, edited in enumerate(windows)
    ]
    rows += [(design.NOWHERE, windows[0], 0.2), (windows[0], "mlp-1", 1.0)]
    where = pandas.DataFrame(rows, columns=["planted", "edited", "back"])
    found = page.sides(where)
    assert found == pytest.approx({"before": 0.1, "in": 0.4, "behind": 0.8, "never": 0.2})
    title = "Back: 0.10 edited before the plant, 0.40 in it, 0.80 behind"
    assert page.planted_title(where) == title


def test_what_the_page_says_of_the_third_question_is_in_the_table():
    text = page.PAGE.read_text()
    said = (
        "For athletes all four accounts are refuted by the third question: three call it alike, one"
    )
    assert said in text and "it came out *lower*" in text
    table = pandas.read_csv(design.HERE / "tables" / "decisions.csv")
    row = table[(table.task == SPORTS) & (table.question == "below")].iloc[0]
    foreseen = [decide.foreseen(account, "below", SPORTS) for account in accounts.ACCOUNTS]
    assert row.verdict == LOWER and sorted(foreseen) == sorted([ALIKE] * 3 + [HIGHER])
    assert all(page.refutes(row, account) for account in accounts.ACCOUNTS)
    margin = design.params()["margin"]
    assert -margin < decide.expected("below", SPORTS, "upstream") < 0 < margin - abs(row.value)
