"""The worst case: attackers choose on what they were told, and are scored on what they were not."""

from __future__ import annotations

import numpy
import pandas
import pytest

from lib import config
from lib.analysis import score_card, words
from lib.analysis.score_card import AttackRecords
from lib.store import Store

N = 16
LABELS = ("a", "b", "c")


def answers(name, attack, right, variant="", budget=1.0, said=None):
    """Rows of one read-out; right: {split: how many of N are answered truly}; said: what else is
    answered (default: wrong labels in turn)."""
    rows = []
    for split, hits in right.items():
        for i in range(N):
            true = LABELS[i % 3]
            wrong = said or LABELS[(i + 1) % 3]
            answer = true if i < hits else wrong
            rows.append((f"{split}/{i}", split, "r", true, LABELS[(i + 2) % 3], answer))
    table = pandas.DataFrame(rows, columns=["id", "split", "relation", "true", "edit", "answer"])
    return table.assign(
        localization=name, attack=attack, variant=variant, budget=budget, seed=0, format="training"
    )


def split(taught, heldout, retained=N, nobody=5):
    return {
        "forget_train": taught,
        "forget_heldout": heldout,
        "retain_test": retained,
        "never_known": nobody,
    }


def evidence(parts, taught=()):
    rows = pandas.concat(parts, ignore_index=True)
    keys = ["localization", "attack", "variant", "budget", "seed"]
    ledger = rows[keys].drop_duplicates().assign(trained=0, steps=0, gflop=1.0)
    return AttackRecords(rows, ledger.assign(taught=ledger.attack.isin(taught)), known=1.0)


def test_attacks_are_named_once_and_exist(settings):
    found = score_card.attacks(settings)
    assert {"formats", "relearn", "in-context", "quantize", "probes"} <= set(found)
    assert len(found) >= 12


def test_the_attacker_chooses_by_what_it_was_told():
    parts = [
        answers("x", "jailbreak", split(taught=9, heldout=2), variant="one"),
        answers("x", "jailbreak", split(taught=4, heldout=16), variant="two"),
    ]
    chosen = score_card.stopped(evidence(parts))
    assert set(chosen.variant) == {"one"}


def test_the_most_frequent_answer_of_the_taught_half_is_scored_beside():
    parts = [answers("x", "jailbreak", split(taught=9, heldout=2))]
    (row,) = score_card.attack_table(evidence(parts), config.load()).to_dict("records")
    share = 6 / N  # "a" is true of six of sixteen in both halves
    assert row["majority"] == pytest.approx((share - row["prior"]) / (1 - row["prior"]))
    found = score_card.worst_case(evidence(parts), config.load())
    assert found.majority.tolist() == pytest.approx([row["majority"]])


def test_an_attacker_that_trains_stops_at_its_full_budget():
    parts = [
        answers("x", "relearn", split(taught=16, heldout=9), budget=4),
        answers("x", "relearn", split(taught=15, heldout=3), budget=8),
    ]
    assert set(score_card.stopped(evidence(parts, taught=["relearn"])).budget) == {8}
    assert set(score_card.stopped(evidence(parts)).budget) == {4}


def test_a_format_that_asks_for_few_facts_is_not_chosen():
    few = answers("x", "formats", split(taught=16, heldout=16), variant="demonym")
    few = few.groupby("split").head(3)
    most = answers("x", "formats", split(taught=8, heldout=8), variant="question")
    assert set(score_card.stopped(evidence([few, most])).variant) == {"question"}


def test_recovery_is_that_of_the_half_nobody_told(settings):
    (row,) = score_card.attack_table(
        evidence([answers("x", "noise", split(taught=16, heldout=0))]), settings
    ).itertuples()
    assert row.heldout == 0 and row.forget_train == 1 and row.value < 0
    (row,) = score_card.attack_table(
        evidence([answers("x", "noise", split(taught=0, heldout=16))]), settings
    ).itertuples()
    assert row.value == pytest.approx(1) and row.low == row.high == pytest.approx(1)


def test_what_the_model_says_about_anybody_is_no_recovery(settings):
    """It answers 'a' whatever is asked: a third of the facts is right, and so is luck."""
    parts = answers("x", "noise", split(0, 0, 0, 0), said="a")
    (row,) = score_card.attack_table(evidence([parts]), settings).itertuples()
    assert row.heldout == pytest.approx(row.prior) and row.value == pytest.approx(0)
    assert row.invented == pytest.approx(0)


@pytest.mark.parametrize(
    ("right", "why"),
    [
        (split(16, 3), ""),
        (split(8, 3), "taught 0.50"),
        (split(16, 3, retained=8), "retained 0.50"),
    ],
)
def test_attacks_that_teach_must_pass_their_gates(settings, right, why):
    found = evidence([answers("x", "relearn", right)], taught=["relearn"])
    assert score_card.attack_table(found, settings).failed.tolist() == [why]


def test_attacks_that_teach_nothing_have_no_gates(settings):
    found = evidence([answers("x", "noise", split(2, 3, retained=1))])
    assert score_card.attack_table(found, settings).failed.tolist() == [""]


def worst(settings, found, scope="shared"):
    table = score_card.worst_case(found, settings)
    return table[table.scope == scope].set_index("localization")


def test_the_worst_case_is_the_best_attacker(settings):
    parts = [
        answers("x", attack, split(5, heldout))
        for attack, heldout in (("noise", 5), ("prune", 11), ("quantize", 8))
    ]
    found = worst(settings, evidence(parts)).loc["x"]
    table = score_card.attack_table(evidence(parts), settings).set_index("attack")
    assert found.attack == "prune" and found.attacks == 3
    assert found.value == pytest.approx(table.value["prune"])
    assert found.low <= found.value <= found.high
    assert found.low >= table.low.max() - 1e-9, "a maximum is at least each of its parts"


def test_who_needs_the_unedited_model_is_not_counted(settings):
    parts = [
        answers("x", "noise", split(5, 6)),
        answers("x", "interpolate", split(16, 16)),
        answers("x", "transplant", split(16, 16)),
    ]
    found = evidence(parts)
    assert worst(settings, found).attack["x"] == "noise"
    table = score_card.attack_table(found, settings).set_index("attack")
    assert table.oracle.to_dict() == {"noise": False, "interpolate": True, "transplant": True}


def test_only_shared_attacks_compare_those_that_face_different_ones(settings):
    parts = [
        answers("x", "noise", split(5, 6)),
        answers("x", "prune", split(5, 16)),
        answers("y", "noise", split(5, 7)),
    ]
    table = score_card.worst_case(evidence(parts), settings)
    shared, battery = (
        table[table.scope == s].set_index("localization") for s in ("shared", "battery")
    )
    assert shared.attack.to_dict() == {"x": "noise", "y": "noise"}
    assert battery.attack.to_dict() == {"x": "prune"}


def test_facts_that_an_attack_cannot_ask_are_left_out_of_it():
    hits = pandas.DataFrame({"one": [1.0, 1.0, numpy.nan], "two": [0.0, 1.0, 1.0]})
    lucky = hits * 0
    found = score_card.ratios(hits, lucky, 1.0, numpy.arange(3)[None])
    assert found.tolist() == [[1.0, pytest.approx(2 / 3)]]


def test_the_ledger_is_joined_to_what_it_brought(settings):
    parts = [answers("x", "noise", split(5, h), budget=b) for h, b in ((4, 0.1), (8, 0.2))]
    table = score_card.budget_table(evidence(parts), settings).set_index("budget")
    assert table.value.to_dict() == {0.1: 0.25, 0.2: 0.5}
    assert (table.low < table.value).all() and table.gflop.tolist() == [1.0, 1.0]


def test_words_name_the_strongest_attack(settings):
    parts = [answers(n, "noise", split(5, 8)) for n in ("unedited", "x")]
    said = words.worst_case(score_card.worst_case(evidence(parts), settings), "shared")
    assert "`x` 0." in said and "by noise" in said and "unedited" not in said


def test_what_is_missing_is_named(settings, refuses):
    with refuses(FileNotFoundError, "no-such-task", "notebook 30", "dvc repro attack_formats"):
        score_card.collect(Store("data"), "no-such-task", settings)


def test_half_of_it_comes_back_at_a_budget_or_never(settings):
    parts = [
        answers("x", "relearn", split(16, heldout, nobody=0), budget=b)
        for b, heldout in ((0, 0), (4, 12), (8, 16))
    ]
    parts += [answers("y", "relearn", split(16, 0), budget=b) for b in (0, 4, 8)]
    found = score_card.half_budgets(evidence(parts), settings).relearn
    assert found["x"] == 4 and numpy.isnan(found["y"])
