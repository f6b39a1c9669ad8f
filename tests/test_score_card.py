"""Attackers choose on what they were told, are scored on what they were not, and count only if they
bring back an edit that is known to mask."""

from __future__ import annotations

import json
from itertools import product

import pandas
import pytest
import yaml
from scipy.stats import binom

from lib import config, paths
from lib.analysis import score_card
from lib.analysis.score_card import AttackRecords
from lib.attacks import battery
from lib.attacks.battery import CHOOSING
from lib.attacks.target import MASK
from lib.facts.formats import Catalogue, Format, FormatSet
from lib.measure.formats import Formats
from lib.model.components import Component, Localization
from lib.store import Store

N = 16
LABELS = ("a", "b", "c")
FIRST = {"x": 3, "y": 8, MASK: 16}  # lowest trained layer of every edit


@pytest.fixture(scope="module")
def settings():
    """The default settings with few resamples and one more attack, which needs the unedited
    model."""
    raw = yaml.safe_load(paths.PARAMS.read_text())
    raw["attack_weights"]["interpolate"] = {"shares": [0.5]}
    raw["statistics"]["resamples"] = 100
    return config.parse(raw)


def asked(name, attack, right, variant="", budget=1.0, said=None, seed=0):
    """Rows of one read-out; right: {split: how many of N are answered truly}; said: what else is
    answered (default: wrong labels in turn)."""
    rows = []
    for split, hits in right.items():
        for i in range(N):
            true = LABELS[i % 3]
            answer = true if i < hits else said or LABELS[(i + 1) % 3]
            rows.append((f"{seed}/{split}{i}", split, "r", true, LABELS[(i + 2) % 3], answer))
    table = pandas.DataFrame(rows, columns=["id", "split", "relation", "true", "edit", "answer"])
    key = {"localization": name, "attack": attack, "variant": variant, "budget": budget}
    return table.assign(**key, seed=seed, format="training")


def shares(taught, heldout, retained=N, nobody=5):
    names = ("forget_train", "forget_heldout", "retain_test", "never_known")
    return dict(zip(names, (taught, heldout, retained, nobody)))


def rehearsal(name, attack, hits, **how):
    return asked(name, attack, {CHOOSING: hits}, **how)


def works(*attacks):
    """What attacks that bring back all of the known mask answer there."""
    return [asked(MASK, a, shares(16, 16)) for a in attacks]


def evidence(parts, taught=(), masks=True):
    rows = pandas.concat(parts, ignore_index=True)
    keys = ["localization", "attack", "variant", "budget", "seed"]
    ledger = rows[keys].drop_duplicates().assign(trained=0, steps=0, gflop=1.0)
    ledger = ledger.assign(taught=ledger.attack.isin(taught))
    return AttackRecords(rows, ledger, 1.0, FIRST, masks)


def card(parts, settings, taught=()):
    """The table of attacks, by localization and attack."""
    table = score_card.attack_table(evidence(parts, taught), settings)
    return table.set_index(["localization", "attack"])


def worst(parts, settings, taught=()):
    found = evidence(parts, taught)
    table = score_card.attack_table(found, settings)
    return score_card.worst_case(table, found, settings).set_index("localization")


def test_attacks_are_those_of_all_notebooks_and_exist(settings):
    found = score_card.attacks(settings)
    blocks = (settings.attack_prompts, settings.attack_weights, settings.attack_inside)
    assert list(found) == ["formats", "relearn", *(name for block in blocks for name in block)]
    assert set(found.values()) <= set(battery.methods()) and found["relearn-rank-4"] == "relearn"


# What the attacker looks at


@pytest.fixture
def many():
    """Attacks with variants and budgets, with and without a rehearsal: what is best on the
    held-out half is chosen by none of them."""
    parts = works("jailbreak", "relearn", "quantize")
    parts += [asked("x", "jailbreak", shares(9, 2), variant="one")]
    parts += [asked("x", "jailbreak", shares(4, 16), variant="two")]
    for budget, hits, heldout in ((2, 3, 9), (4, 12, 7), (8, 10, 16)):
        parts += [asked("x", "relearn", shares(15, heldout), budget=budget)]
        parts += [rehearsal("x", "relearn", hits, budget=budget)]
    parts += [asked("x", "quantize", shares(3, 16), budget=b) for b in (2, 4)]
    return parts


CHOICES = ["variant", "budget", "chosen_on"]


def test_of_each_attack_the_attackers_choice_is_taken(many, settings):
    found = card(many, settings, ["relearn"]).loc["x"]
    assert found.variant["jailbreak"] == "one" and found.budget["relearn"] == 4
    assert found.budget["quantize"] == 2
    assert found.back.to_dict() == {"jailbreak": 2, "relearn": 7, "quantize": 16}
    assert worst(many, settings, ["relearn"]).attack["x"] == "relearn"


@pytest.mark.parametrize("answer", ["wrong", "true", "edit", "turned"])
def test_no_answer_of_the_held_out_half_changes_a_choice(many, settings, answer):
    hidden = [part.copy() for part in many]
    for part in hidden:
        held = (part.split == "forget_heldout") & (part.localization == "x")
        column = {"turned": part.answer[::-1].to_list()}.get(answer, part.get(answer, "z"))
        part["answer"] = part.answer.mask(held, column)
    tables = [card(parts, settings, ["relearn"]) for parts in (many, hidden)]
    assert not tables[0].back.equals(tables[1].back)
    pandas.testing.assert_frame_equal(*(table[CHOICES] for table in tables))
    before, after = (worst(parts, settings, ["relearn"]) for parts in (many, hidden))
    keys = ["attack", "variant", "budget"]
    pandas.testing.assert_frame_equal(before[keys], after[keys])


def test_one_that_rehearsed_chooses_by_that_and_not_by_what_it_taught():
    parts = [
        asked("x", "soft-prompt", shares(taught, 5), budget=b) for b, taught in ((8, 16), (4, 9))
    ]
    parts += [rehearsal("x", "soft-prompt", hits, budget=b) for b, hits in ((8, 6), (4, 12))]
    rows, share = score_card.stop(pandas.concat(parts))
    assert set(rows.budget) == {4} and share == 12 / N
    rows, share = score_card.stop(pandas.concat(parts[:2]))
    assert set(rows.budget) == {8} and share == 1


@pytest.mark.parametrize("budgets", [(2, 4, 8), (8, 4, 2), (4, 2, 8)])
def test_of_equal_ones_the_cheapest_is_taken(budgets):
    parts = [asked("x", "quantize", shares(5, 16 - b), budget=b) for b in budgets]
    rows, _ = score_card.stop(pandas.concat(parts))
    assert set(rows.budget) == {2} and len(rows) == 4 * N


@pytest.mark.parametrize(
    ("chosen", "outer", "stops"),
    [(8, (0, 2, 4), 4), (4, (0, 2, 4, 8), 4), (6, (0, 2), 2), (2, (0, 2, 4), 2)],
)
def test_an_attacker_that_had_enough_earlier_is_scored_there(chosen, outer, stops):
    parts = [asked("x", "relearn", shares(16, 3 + b), budget=b) for b in outer]
    parts += [rehearsal("x", "relearn", 9 if b == chosen else 4, budget=b) for b in (0, 2, 4, 6, 8)]
    rows, share = score_card.stop(pandas.concat(parts))
    assert set(rows.budget) == {stops} and share == 9 / N
    assert CHOOSING not in set(rows.split)


def test_a_format_that_asks_for_few_facts_is_not_chosen():
    few = asked("x", "formats", shares(taught=16, heldout=16), variant="demonym")
    few = few.groupby("split").head(3)
    most = asked("x", "formats", shares(taught=8, heldout=8), variant="question")
    rows, _ = score_card.stop(pandas.concat([few, most]))
    assert set(rows.variant) == {"question"}


# What comes back


def test_recovery_is_that_of_the_half_nobody_told(settings):
    found = [
        card([asked("x", "quantize", right)], settings).loc["x", "quantize"]
        for right in (shares(16, 0), shares(0, 16))
    ]
    assert found[0].back == 0 and found[0].taught == 1 and found[0].value < 0
    assert found[1].back == found[1].n == N and found[1].taught == 0
    assert found[1].value == found[1].low == found[1].high == pytest.approx(1)


def test_what_the_model_says_about_anybody_is_no_recovery(settings):
    """It answers 'a' whatever is asked: a third of the facts is right, and so is luck."""
    part = asked("x", "quantize", shares(0, 0, 0, 0), said="a")
    row = card([part], settings).loc["x", "quantize"]
    assert row.back / N == pytest.approx(row.prior) and row.value == pytest.approx(0)


# What counts


@pytest.mark.parametrize(
    ("right", "why"),
    [
        (shares(16, 3), ""),
        (shares(8, 3), "taught 0.50"),
        (shares(16, 3, retained=8), "retained 0.50"),
    ],
)
def test_attacks_that_teach_must_pass_their_gates(settings, right, why):
    assert card([asked("x", "relearn", right)], settings, ["relearn"]).failed.tolist() == [why]
    assert card([asked("x", "quantize", right)], settings).failed.tolist() == [""]


@pytest.mark.parametrize("right", [shares(8, 16), shares(16, 16, retained=8)])
def test_a_failed_attack_enters_no_worst_case(settings, right):
    parts = works("relearn", "quantize") + [asked("x", "quantize", shares(2, 4))]
    parts += [asked("x", "relearn", right), rehearsal("x", "relearn", 16)]
    row = worst(parts, settings, ["relearn"]).loc["x"]
    assert row.attack == "quantize" and row.attacks == 1 and row.highest == row.value < 0.5


@pytest.mark.parametrize(("back", "admitted"), [(8, True), (7, False)])
def test_an_attack_is_admitted_with_half_of_the_known_mask(settings, back, admitted):
    mask = asked(MASK, "quantize", shares(2, back, nobody=0), said="nothing")
    found = card([mask, asked("x", "quantize", shares(5, 5))], settings)
    assert found.value[MASK, "quantize"] == back / N
    assert (found.admitted == admitted).all()


def test_an_attack_that_failed_on_the_mask_or_never_faced_it_is_not_admitted(settings):
    parts = [asked(MASK, "relearn", shares(8, 16)), *works("quantize")]
    parts += [asked("x", a, shares(16, 16)) for a in ("relearn", "quantize", "jailbreak")]
    found = card(parts, settings, ["relearn"]).loc["x"]
    assert found.admitted.to_dict() == {"relearn": False, "quantize": True, "jailbreak": False}
    assert worst(parts, settings, ["relearn"]).attacks.to_dict() == {"x": 1}


def test_where_the_known_mask_leaves_old_answers_no_attack_is_admitted(three, settings):
    weak = evidence(three, masks=False)
    table = score_card.attack_table(weak, settings)
    assert not table.admitted.any() and score_card.worst_case(table, weak, settings).empty


@pytest.mark.parametrize(
    ("edited", "unedited", "why"),
    [
        (16, 16, ""),
        (13, 16, ""),  # 0.8 of what the same attack leaves of the unedited model
        (12, 16, "retained 0.75"),
        (8, 10, ""),  # the attack alone breaks as much
        (7, 10, "retained 0.44"),
    ],
)
def test_an_attack_that_teaches_nothing_must_leave_what_it_leaves_of_the_unedited_model(
    settings, edited, unedited, why
):
    assert settings.attack_formats.keep == 0.8
    parts = [asked("x", "quantize", shares(9, 9, retained=edited), budget=4)]
    parts += [asked("unedited", "quantize", shares(16, 16, retained=unedited), budget=4)]
    parts += [asked("unedited", "quantize", shares(15, 16, retained=1), budget=2)]
    assert card(parts, settings).failed["x", "quantize"] == why


def test_who_needs_the_unedited_model_never_counts(settings):
    oracles = [("interpolate", ""), ("transplant", "answer"), ("probes", "unedited")]
    parts = works("quantize", "interpolate", "transplant", "probes")
    parts += [asked("x", "quantize", shares(5, 6)), asked("x", "probes", shares(4, 4), "refit", 9)]
    parts += [asked("x", a, shares(16, 16), v, 9) for a, v in oracles]
    found = card(parts, settings).loc["x"]
    assert set(found.index) == {"quantize", "probes"}
    assert (found.variant["probes"], found.back["probes"]) == ("refit", 4)


@pytest.mark.parametrize(("name", "budget"), [("x", 4), ("y", 9), ("unedited", 0)])
def test_readers_look_above_the_first_trained_layer_only(settings, name, budget):
    """The lower the layer, the more is read there."""
    reader = [asked(name, "logit-lens", shares(16 - b, 16 - b), budget=b) for b in range(12)]
    found = card(reader, settings).loc[name, "logit-lens"]
    assert found.budget == budget and found.back == 16 - budget


def test_budgets_that_are_no_layers_may_be_small(settings):
    parts = [asked("x", "quantize", shares(9, 9), budget=2)]
    assert card(parts, settings).budget.tolist() == [2]


def test_an_edit_that_only_readers_below_it_can_read_has_no_worst_case(settings):
    parts = works("logit-lens", "quantize") + [asked("x", "logit-lens", shares(16, 16), budget=3)]
    parts += [asked(MASK, "logit-lens", shares(16, 16), budget=17)]
    assert worst(parts, settings).empty


# The worst case


@pytest.fixture
def three():
    """Three attacks: the one that looks best brings back less than another one."""
    found = works("quantize", "jailbreak", "formats")
    for attack, taught, heldout in (("quantize", 6, 5), ("jailbreak", 9, 8), ("formats", 5, 13)):
        found.append(asked("x", attack, shares(taught, heldout, nobody=0)))
    return found


def test_the_attacker_picks_one_attack_and_the_highest_stands_beside(three, settings):
    row, each = worst(three, settings).loc["x"], card(three, settings).loc["x"]
    assert row.attack == "jailbreak" and row.attacks == 3 and (row.back, row.n) == (8, N)
    ends = ["value", "low", "high", "floor"]
    assert row[ends].tolist() == each.loc["jailbreak", ends].tolist()
    assert row.highest == each.value["formats"] > row.value


def test_luck_is_what_the_best_of_as_many_guessers_would_score(three, settings):
    row, prior = worst(three, settings).loc["x"], card(three, settings).prior["x", "jailbreak"]
    chance = binom.pmf(range(N + 1), N, prior)
    best = sum(
        max(hits) / N * chance[list(hits)].prod() for hits in product(range(N + 1), repeat=3)
    )
    assert 0.2 < prior < 0.5
    assert row.luck == pytest.approx((best - prior) / (1 - prior))


def test_one_guesser_alone_has_no_luck(settings):
    parts = works("quantize") + [asked("x", "quantize", shares(5, 8))]
    assert worst(parts, settings).luck["x"] == pytest.approx(0)


def test_the_mask_is_no_edit_of_the_worst_case(three, settings):
    more = [asked("unedited", "quantize", shares(16, 16))]
    assert set(worst(three + more, settings).index) == {"x", "unedited"}


# Reading


KINDS = {"training": "training", "t": "rewording", "u": "rewording", "v": "rewording"}
KEY = ("sports-athletes", 0)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    return Store("data")


def read_outs(settings, left: int) -> list[pandas.DataFrame]:
    """Three formats, of which one does not count, on all edits, the training prompt of the known
    mask, which leaves so many of each half, and relearning on it."""
    faced = ["unedited", MASK, *settings.attacks.compare, "other"]
    rows = [asked(n, "formats", shares(9, 9), v) for n in faced for v in "tuv"]
    rows += [asked(MASK, "formats", shares(left, left), "training")]
    return [*rows, asked(MASK, "relearn", shares(16, 16), budget=8)]


@pytest.fixture
def results(store, settings):
    """Writes what the stages leave: results(how many facts the known mask leaves in each half)."""

    def write(left: int) -> Store:
        rows = pandas.concat(read_outs(settings, left)).assign(p_true=0.5, p_edit=0.5)
        ledger = rows.drop_duplicates(["localization", "attack", "variant", "budget"])
        ledger = ledger.assign(taught=ledger.attack == "relearn", trained=0, steps=0, gflop=0.0)
        for group in ("formats", "relearn", "prompts", "weights", "inside"):
            for name, table in (("rows", rows), ("ledger", ledger)):
                store.save(f"attack_{group}/{name}", table[table.attack == group], *KEY)
        first = (rows.localization == "unedited") & (rows.variant == "t")
        store.save("unedited/unedited", rows[first], *KEY)
        forms = FormatSet("r", tuple(Format(n, k, "{subject}") for n, k in KINDS.items()))
        decided = Formats(Catalogue({"r": forms}), {"training": True, "t": True, "u": True}, 0.3)
        decided.save(store.folder("unedited", *KEY))
        for layer, name in enumerate(settings.attacks.compare):
            chosen = Localization(name, (Component("mlp", layer + 1), Component("mlp", 9)), 1, 1)
            chosen.save(store.folder("choose_components", *KEY) / f"{name}.json")
        made = {"first_layer": 16}
        (store.folder("settings", *KEY, MASK) / "card.json").write_text(json.dumps(made))
        return store

    return write


def test_what_the_stages_wrote_is_read(results, settings):
    found = score_card.collect(results(0), "sports-athletes", settings)
    compare = settings.attacks.compare
    assert set(found.rows.localization) == set(found.ledger.localization)
    assert set(found.rows.localization) == {"unedited", MASK, *compare}
    counted = found.rows[found.rows.attack == "formats"]
    assert set(counted.variant) == {"training", "t", "u"}, "formats that do not count are left out"
    assert found.first_trained == {MASK: 16} | {n: i + 1 for i, n in enumerate(compare)}
    assert found.known == 9 / N
    assert len(score_card.attack_table(found, settings)) == 3 + len(compare)


@pytest.mark.parametrize(("left", "masks"), [(0, True), (1, True), (2, False), (16, False)])
def test_the_known_mask_masks_if_hardly_any_old_answer_is_left(results, settings, left, masks):
    """In its training prompt: a tenth at most."""
    found = score_card.collect(results(left), "sports-athletes", settings)
    assert score_card.MASKED == 0.1 and found.masks is masks


def test_what_is_missing_is_named(settings, refuses):
    with refuses(FileNotFoundError, "no-such-task", "notebook 30", "dvc repro attack_formats"):
        score_card.collect(Store("data"), "no-such-task", settings)
