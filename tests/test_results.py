"""From rows of answers to tables: what counts, what is only shown, and what an edit costs."""

from __future__ import annotations

import dataclasses
import json

import pandas
import pytest

from lib import paths
from lib.analysis import contrasts as questions
from lib.analysis import costs
from lib.analysis import edits as results
from lib.facts.formats import Catalogue, Format, FormatSet
from lib.measure.formats import Formats
from lib.model.components import Component, Localization
from lib.stats import estimate
from lib.store import Store
from lib.tables import TABLES

N, KEPT, NOBODY = 12, 10, 6  # edited facts in two halves, retained facts, invented subjects
KINDS = {"training": "training", "question": "rewording", "profile": "rewording"}
KINDS |= {"sentence": "rewording", "league": "vocabulary", "french": "rewording"}
ANSWERABLE = {name: name != "french" for name in KINDS}
LAST = 12  # step of the last read-out

# {edit: {format: (new answers, old answers of N, retained facts right of KEPT)}}
ASKED = {
    "unedited": {form: (0, N, KEPT) for form in KINDS},
    "fact-lookup": {"question": (9, 3, 10), "profile": (6, 3, 8), "sentence": (0, 12, 7)},
    "depth-matched-mlps": {"question": (8, 4, 10), "profile": (8, 4, 10), "sentence": (8, 4, 10)},
    "mlp-window-0": {"question": (12, 0, 10), "profile": (12, 0, 10), "sentence": (12, 0, 10)},
    "mlp-window-6": {"question": (1, 11, 10), "profile": (3, 9, 10), "sentence": (2, 10, 10)},
    "nonlocalized": {"question": (6, 6, 2), "profile": (6, 6, 1), "sentence": (6, 6, 0)},
}
LEAGUE = {"fact-lookup": (9, 2, 9), "depth-matched-mlps": (6, 6, 4)}
SETS = {"fact-lookup": (1, 2), "depth-matched-mlps": (0, 3), "mlp-window-0": (0, 1)}
SETS |= {"mlp-window-6": (6, 7), "nonlocalized": tuple(range(9))}
BACK = {"fact-lookup": 1, "depth-matched-mlps": 2, "mlp-window-0": 0, "mlp-window-6": 6}
BACK |= {"nonlocalized": 3}


def facts(n: int, split: str, said: list[str], **more) -> pandas.DataFrame:
    """Answers about n facts, those that are not in `said` being answered "third"."""
    said = [*said, *["third"] * (n - len(said))]
    rows = {"id": [f"0/{split}{i:02}" for i in range(n)], "split": split, "relation": "r"}
    return pandas.DataFrame(rows | {"true": "old", "edit": "new", "answer": said, "seed": 0} | more)


def asked(name: str, form: str, new: int, old: int, kept: int, **more) -> pandas.DataFrame:
    """One edit's answers in one format."""
    said = ["new"] * new + ["old"] * old
    halves = ("forget_train", said[::2], 6), ("forget_heldout", said[1::2], 6)
    key = {"localization": name, "format": form} | more
    parts = [facts(n, split, part, **key) for split, part, n in halves]
    return pandas.concat([*parts, facts(KEPT, "retain_test", ["old"] * kept, **key)])


def relearned(name: str, back: int, taught: int = 6, kept: int = 10, step: int = LAST):
    """The read-outs of one relearning attack; half of the invented subjects get the old answer."""
    parts = []
    for at, right in ((0, (0, 0, 10)), (step, (taught, back, kept))):
        key = {"localization": name, "step": at, "format": "training"}
        sizes = {"forget_train": 6, "forget_heldout": 6, "retain_test": KEPT}
        for (split, n), hits in zip(sizes.items(), right):
            parts.append(facts(n, split, ["old"] * hits, **key))
        parts.append(facts(NOBODY, "never_known", ["old"] * 3, **key))
    return pandas.concat(parts)


def formats(answerable=ANSWERABLE) -> Formats:
    forms = tuple(Format(name, kind, "{subject} plays") for name, kind in KINDS.items())
    return Formats(Catalogue({"r": FormatSet("r", forms)}), answerable, 1 / 3)


def card(name: str, **more) -> dict:
    row = {"localization": name, "seed": 0, "steps": 10, "strength": 0.96, "reached": True}
    row |= {"retained": 0.9, "retained_before": 0.9, "text": 3.05, "text_before": 3.0}
    return row | more


def place(name: str, **more) -> Localization:
    return Localization(name, tuple(Component("mlp", i) for i in SETS[name]), 100, 100, **more)


def all_asked() -> pandas.DataFrame:
    tables = {name: {"training": (N, 0, KEPT)} | forms for name, forms in ASKED.items()}
    for name in SETS:
        tables[name]["league"] = LEAGUE.get(name, (6, 6, 10))
    tables["unedited"] |= {"training": (0, N, KEPT), "french": (0, 0, 0)}
    return pandas.concat(
        [asked(n, f, *counts) for n, forms in tables.items() for f, counts in forms.items()]
    )


def measured() -> results.Measured:
    """Five edits of twelve facts, all at the strength, their attacks within the gates."""
    rows = all_asked()
    return results.Measured(
        task="task",
        forget=False,
        formats=formats(),
        asked=rows,
        relearned=pandas.concat([relearned(n, back) for n, back in BACK.items()]),
        kept=pandas.DataFrame(),
        texts=pandas.DataFrame(),
        cards=pandas.DataFrame([card(name) for name in SETS]),
        several=rows[:0],
        way=rows[:0].assign(at=0.0, step=0, strength=0.0),
        sets={name: place(name) for name in SETS},
        also={},
        n_layers=9,
    )


@pytest.fixture(scope="module")
def data() -> results.Measured:
    return measured()


@pytest.fixture(scope="module")
def table(data, settings) -> pandas.DataFrame:
    """What the five edits answer, by format."""
    return results.answer_table(data, settings)


@pytest.fixture(scope="module")
def moved(data, table, settings) -> pandas.DataFrame:
    """What they carry over."""
    return by_kind(results.carried_table(data, table, settings))


def by_kind(carried: pandas.DataFrame) -> pandas.DataFrame:
    return carried.set_index(["localization", "kind", "says"]).sort_index()


def changed(data, name: str, form: str, *counts):
    """The same with other answers of one edit in one format."""
    other = data.asked[(data.asked.localization != name) | (data.asked.format != form)]
    rows = pandas.concat([other, asked(name, form, *counts)])
    return dataclasses.replace(data, asked=rows)


def compared(data, settings) -> dict[str, pandas.DataFrame]:
    edits, answers = results.edit_table(data, settings), results.answer_table(data, settings)
    return questions.measures(data, edits, answers, settings)


# What an edit says, by format


def test_answers_are_shares_that_sum_to_one(table):
    assert (table.new + table.old + table.other).to_numpy() == pytest.approx(1)
    row = table.set_index(["localization", "format"]).loc["fact-lookup", "profile"]
    assert (row.new, row.old, row.other, row.n) == pytest.approx((6 / 12, 3 / 12, 3 / 12, N))
    assert (row.new_low, row.new_high) == pytest.approx(ends_of([1] * 6 + [0] * 6))
    assert (row.old_low, row.old_high) == pytest.approx(ends_of([1] * 3 + [0] * 9))


def ends_of(values) -> tuple[float, float]:
    found = estimate(values)
    return found.low, found.high


def test_every_edit_has_a_row_for_each_format_that_the_unedited_model_can_answer(table):
    assert set(table.format) == set(KINDS) - {"french"}
    assert len(table) == len(ASKED) * 5 and not table.duplicated(["localization", "format"]).any()
    kinds = dict(zip(table.format, table.kind))
    wording = {"question": "wording", "profile": "wording", "sentence": "wording"}
    assert kinds == wording | {"training": "training", "league": "vocabulary"}


def test_a_format_counts_only_where_retained_facts_are_still_answered(table, settings):
    assert settings.attack_formats.keep == 0.8
    table = table.set_index(["localization", "format"])
    mine = table.loc["fact-lookup"]
    assert mine.retained.to_dict() == {
        "training": 1.0,
        "question": 1.0,
        "profile": 0.8,
        "sentence": 0.7,
        "league": 0.9,
    }
    assert mine.counts[mine.counts].index.to_list() == ["training", "question", "profile", "league"]
    assert not table.counts["nonlocalized", "profile"]
    assert table.loc["mlp-window-6"].counts.all()


def test_the_gate_is_relative_to_what_the_unedited_model_answers(data, settings):
    weak = changed(data, "unedited", "sentence", 0, N, 8)
    table = results.answer_table(weak, settings).set_index(["localization", "format"])
    row = table.loc["fact-lookup", "sentence"]
    assert (row.retained, row.unedited, row.counts) == (0.7, 0.8, True)


def test_the_gate_looks_at_the_retained_facts_that_every_model_was_asked(data, settings):
    """The first five were asked of the unedited model alone, so 05 to 09 count for both."""
    weak = changed(data, "unedited", "sentence", 0, N, 8)
    alone = weak.asked.id.isin([f"0/retain_test{i:02}" for i in range(5)])
    fewer = weak.asked[~alone | (weak.asked.localization == "unedited")]
    table = results.answer_table(dataclasses.replace(weak, asked=fewer), settings)
    row = table.set_index(["localization", "format"]).loc["fact-lookup", "sentence"]
    assert (row.retained, row.unedited, row.counts) == (2 / 5, 3 / 5, False)


def test_what_an_edit_carries_over_is_the_mean_over_formats_that_count(moved):
    new = moved.loc[("fact-lookup", "wording", "new")]
    assert (new.value, new.formats, new.n) == (pytest.approx((9 + 6) / 24), 2, N)
    assert new.all_formats == pytest.approx((9 + 6 + 0) / 36)
    old = moved.loc[("fact-lookup", "wording", "old")]
    assert old.value == pytest.approx((3 + 3) / 24)
    assert old.all_formats == pytest.approx((3 + 3 + 12) / 36)
    assert old.low < old.value < old.high
    assert moved.loc[("mlp-window-0", "wording", "new")].value == 1


def test_an_edit_that_broke_every_format_of_a_kind_has_no_value_there(moved):
    for says in ("new", "old"):
        broken = moved.loc[("nonlocalized", "wording", says)]
        assert broken[["value", "low", "high", "n"]].isna().all()
        assert (broken.formats, broken.all_formats) == (0, 0.5)
    assert moved.loc[("nonlocalized", "vocabulary", "new")].value == 0.5
    broken = moved.loc[("depth-matched-mlps", "vocabulary", "new")]
    assert pandas.isna(broken.value) and broken.all_formats == 0.5


def test_answers_by_fact_hold_their_share_of_formats(data, table):
    facts = results.by_fact(data.asked, table, "wording", "new")
    assert len(facts) == N and set(facts) == set(ASKED) - {"nonlocalized"}
    assert facts["fact-lookup"].value_counts().to_dict() == {1.0: 6, 0.5: 3, 0.0: 3}
    assert not facts.index.str.contains("retain").any()


def test_a_task_without_other_answer_words_has_no_rows_about_them(data, settings):
    plain = dataclasses.replace(data, formats=formats(ANSWERABLE | {"league": False}))
    answers = results.answer_table(plain, settings)
    table = results.carried_table(plain, answers, settings)
    assert set(table.kind) == {"wording"} and set(table.localization) == set(ASKED)


def test_the_tables_have_the_columns_that_are_promised(data, table, moved, settings):
    made = {"edits": results.edit_table(data, settings), "answers": table}
    made |= {"carried": moved.reset_index()}
    made |= {"relearning": results.relearn_table(data, settings)}
    made |= {"back": results.back_table(data, settings)}
    for name, rows in made.items():
        assert set(TABLES[f"results/{name}"]) <= set(rows), name


# Edits and their conditions


def test_an_edit_is_one_row_with_its_place_and_its_cost(data, settings):
    cards = [card(n, seed=seed, steps=10 + 4 * seed) for n in SETS for seed in (0, 1)]
    cards[1] |= {"retained": 0.45, "text": 3.15, "reached": False}  # fact lookup, second seed
    table = results.edit_table(dataclasses.replace(data, cards=pandas.DataFrame(cards)), settings)
    assert table.localization.to_list() == list(SETS)
    row = table.set_index("localization").loc["fact-lookup"]
    assert (row.mlp, row.attention, row.first_layer, row.depth) == ("1 2", "", 1, 1.5 / 8)
    assert (row.steps, row.kept, row.added) == pytest.approx((12, 0.75, 0.1))
    assert not row.reached and table.reached[1:].all()


def test_localizations_that_train_the_same_weights_stand_in_one_row(data, settings):
    twins = dataclasses.replace(data, also={"fact-lookup": ["causal-tracing-mlps", "random"]})
    table = results.edit_table(twins, settings).set_index("localization")
    assert table["also"]["fact-lookup"] == "causal-tracing-mlps random"
    assert (table["also"].drop("fact-lookup") == "").all() and table.index.is_unique


def conditions(data, settings) -> pandas.DataFrame:
    edits, answers = results.edit_table(data, settings), results.answer_table(data, settings)
    table = costs.condition_table(data, edits, answers, settings)
    return table.set_index(["localization", "condition"])


def test_conditions_say_what_was_kept_and_whether_that_is_enough(data, settings):
    cards = [card(name) for name in SETS]
    cards[0] |= {"retained": 0.9 * 0.89, "text": 3.11}
    table = conditions(dataclasses.replace(data, cards=pandas.DataFrame(cards)), settings)
    wanted = settings.edit.keep_retained, settings.edit.keep_text, settings.edit.keep_vocabulary
    assert table.loc["fact-lookup"].limit.to_list() == list(wanted)
    assert table.loc["fact-lookup"].value.to_list() == pytest.approx([0.89, 0.11, 0.9])
    assert table.loc["fact-lookup"].met.to_list() == [False, False, True]
    assert table.loc["depth-matched-mlps"].value.to_list() == pytest.approx([1, 0.05, 0.4])
    assert table.loc["depth-matched-mlps"].met.to_list() == [True, True, False]
    assert len(table) == 3 * len(SETS)


def test_a_condition_on_other_answer_words_is_met_where_there_are_none(data, settings):
    plain = dataclasses.replace(data, formats=formats(ANSWERABLE | {"league": False}))
    table = conditions(plain, settings).xs("vocabulary", level="condition")
    assert table.value.isna().all() and table.met.all()


# Relearning


def test_what_came_back_is_counted_where_the_attacker_stopped(data, settings):
    early = relearned("mlp-window-6", 4, step=8)
    rest = data.relearned[data.relearned.localization != "mlp-window-6"]
    stopped = dataclasses.replace(data, relearned=pandas.concat([rest, early]))
    table = results.back_table(stopped, settings).set_index("localization")
    assert list(table.index) == [
        "fact-lookup",
        "depth-matched-mlps",
        "mlp-window-0",
        "nonlocalized",
        "mlp-window-6",
    ]
    assert table.back.to_dict() == BACK | {"mlp-window-6": 4} and (table.n == 6).all()
    assert table.step["mlp-window-6"] == 8 and table.step["fact-lookup"] == LAST
    assert (table.value["mlp-window-6"], table.low["mlp-window-6"]) == (
        pytest.approx(4 / 6),
        estimate([1] * 4 + [0] * 2).low,
    )
    assert (table.failed == "").all()


def test_recovery_counts_from_guessing_to_what_was_known(data, settings):
    """Guessing gives the old answer to half of the invented subjects; all six facts were known."""
    table = results.back_table(data, settings).set_index("localization")
    assert (table.R_prior == 0.5).all() and (table.R_floor == -1).all()
    assert table.R_value["mlp-window-6"] == 1 and table.R_value["mlp-window-0"] == -1
    assert table.R_value["nonlocalized"] == 0
    weaker = changed(data, "unedited", "training", 0, 9, KEPT)  # 4 of the 6 held-out facts
    assert results.known(weaker.asked, "training") == pytest.approx(4 / 6)
    table = results.back_table(weaker, settings).set_index("localization")
    assert table.R_value["nonlocalized"] == pytest.approx(0)
    assert table.R_value["mlp-window-6"] == pytest.approx(0.5 / (4 / 6 - 0.5))


@pytest.mark.parametrize(
    "failure, words",
    [
        ({"taught": 5}, "taught 0.83"),
        ({"kept": 8}, "retained 0.80"),
        ({"taught": 0, "kept": 0}, "retained 0.00, taught 0.00"),
        ({"kept": 9}, ""),
    ],
)
def test_an_attack_that_misses_its_gates_says_which(data, settings, failure, words):
    rows = relearned("fact-lookup", 6, **failure)
    one = dataclasses.replace(data, relearned=rows)
    assert results.back_table(one, settings).failed.to_list() == [words]


def test_relearning_is_read_at_every_step_and_split(data, settings):
    table = results.relearn_table(data, settings)
    table = table.set_index(["localization", "split", "step"]).value
    assert table["mlp-window-6", "forget_heldout", 0] == 0
    assert table["mlp-window-6", "forget_heldout", LAST] == 1
    assert table["fact-lookup", "forget_heldout", LAST] == pytest.approx(1 / 6)
    assert table["fact-lookup", "retain_test", LAST] == 1


def test_each_seeds_attacker_stops_where_it_stopped(data, settings):
    late = data.relearned.assign(seed=1, step=data.relearned.step * 2)
    late = late.assign(id="1/" + late.id.str.removeprefix("0/"))
    both = dataclasses.replace(data, relearned=pandas.concat([data.relearned, late]))
    table = results.back_table(both, settings).set_index("localization")
    assert (table.n == 12).all() and table.back["mlp-window-6"] == 12
    assert len(results.heldout_by_fact(both)) == 12


# On the way, several wordings, side effects


@pytest.fixture
def walked(data):
    """Fact lookup, asked at half the strength: fewer new answers, retained facts all kept."""
    forms = {"training": (8, 4, 10), "question": (3, 9, 10), "profile": (3, 9, 10)}
    forms |= {"sentence": (0, 12, 10), "league": (3, 6, 5)}
    rows = [asked("fact-lookup", form, *counts, trained_on=3) for form, counts in forms.items()]
    way = pandas.concat(rows).assign(at=0.5, step=4, strength=0.55)
    return dataclasses.replace(data, way=way)


def test_the_way_to_the_strength_ends_at_the_edit(walked, settings):
    table = costs.way_table(walked, settings)
    assert set(table.localization) == {"fact-lookup"}
    assert dict(zip(table["at"], table.strength)) == pytest.approx({0.5: 0.55, 1.0: 0.96})
    wide = table.pivot(index="what", columns="at", values="value")
    assert set(wide.index) == {
        "training new",
        "wording new",
        "wording old",
        "vocabulary new",
        "vocabulary old",
        "retained",
    }
    assert wide.loc["training new"].to_list() == pytest.approx([8 / 12, 1])
    assert wide.loc["vocabulary new"].to_list() == pytest.approx([3 / 12, 9 / 12])
    assert wide.loc["vocabulary old"].to_list() == pytest.approx([6 / 12, 2 / 12])
    # the format that the edit broke counts at both ends, so that the same ones are compared
    assert wide.loc["wording new"].to_list() == pytest.approx([6 / 36, 15 / 36])
    assert wide.loc["wording old"].to_list() == pytest.approx([30 / 36, 18 / 36])


def test_what_is_kept_on_the_way_is_relative_to_the_unedited_model(walked, settings):
    table = costs.way_table(walked, settings).set_index(["what", "at"]).value
    assert table["retained", 0.5] == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert table["retained", 1.0] == pytest.approx((1 + 0.8 + 0.7 + 0.9) / 4)
    weak = changed(walked, "unedited", "league", 0, N, 5)
    table = costs.way_table(weak, settings).set_index(["what", "at"]).value
    assert table["retained", 0.5] == pytest.approx(1)


def test_what_is_kept_on_the_way_is_counted_over_the_same_facts(walked, settings):
    """The finished edit is asked 05 to 09 only: of what was right in league on the way, none."""
    alone = walked.asked.id.isin([f"0/retain_test{i:02}" for i in range(5)])
    fewer = walked.asked[~alone | (walked.asked.localization == "unedited")]
    table = costs.way_table(dataclasses.replace(walked, asked=fewer), settings)
    table = table.set_index(["what", "at"]).value
    assert table["retained", 0.5] == pytest.approx((1 + 1 + 1 + 0) / 4)
    assert table["retained", 1.0] == pytest.approx((1 + 3 / 5 + 2 / 5 + 4 / 5) / 4)


def test_an_edit_that_was_never_read_on_the_way_has_no_rows(data, settings):
    table = costs.way_table(data, settings)
    assert table.empty and set(TABLES["results/way"]) <= set(table)


@pytest.fixture
def taught_wordings(data):
    """Fact lookup trained on three wordings, the first two rewordings being taught."""
    forms = {"training": (12, 0, 10), "question": (12, 0, 10), "profile": (12, 0, 10)}
    forms |= {"sentence": (3, 6, 9), "league": (12, 0, 9)}
    rows = [asked("fact-lookup", form, *counts, trained_on=3) for form, counts in forms.items()]
    return dataclasses.replace(data, several=pandas.concat(rows))


def test_several_wordings_are_compared_in_formats_that_neither_was_taught(
    taught_wordings, settings
):
    table = costs.wordings_table(taught_wordings, settings)
    assert set(table.localization) == {"fact-lookup"} and set(table.trained_on) == {1, 3}
    table = table.set_index(["kind", "says", "trained_on"])
    several, one = table.loc["wording", "new", 3], table.loc["wording", "new", 1]
    assert (several.value, several.formats) == (pytest.approx(3 / 12), 1)
    assert (one.all_formats, one.formats) == (0, 0) and pandas.isna(one.value)
    assert table.value["wording", "old", 3] == pytest.approx(6 / 12)
    assert table.value["vocabulary", "new", 3] == 1
    assert table.value["vocabulary", "new", 1] == pytest.approx(9 / 12)


def test_without_edits_on_several_wordings_there_is_an_empty_table(data, settings):
    table = costs.wordings_table(data, settings)
    assert table.empty and set(TABLES["results/wordings"]) <= set(table)


def texts(name: str, heldout, second, kl: float = 0.0) -> pandas.DataFrame:
    losses = [("heldout", i, x) for i, x in enumerate(heldout)]
    losses += [("second", i, x) for i, x in enumerate(second)]
    table = pandas.DataFrame(losses, columns=["text", "passage", "loss"])
    return table.assign(localization=name, kl=kl, seed=0)


def test_side_effects_are_what_the_edit_added(data, settings):
    near = ["neighbours"] * 4 + ["other retained facts"] * 6
    kept = [
        facts(KEPT, "retain_test", ["old"] * n, localization=name, group=near)
        for name, n in (("unedited", 10), ("fact-lookup", 3), ("forgotten", 0))
    ]
    passages = [texts("unedited", [3.0, 4.0], [5.0]), texts("fact-lookup", [3.1, 4.3], [4.5], 0.2)]
    passages.append(texts("forgotten", [9.0, 9.0], [9.0]))
    after = dataclasses.replace(data, kept=pandas.concat(kept), texts=pandas.concat(passages))
    table = costs.side_effect_table(after, settings)
    assert set(TABLES["results/side_effects"]) <= set(table)
    assert set(table.localization) == {"unedited", "fact-lookup"}
    table = table.set_index(["measure", "localization"])
    assert table.value["retained", "fact-lookup"] == pytest.approx(0.3)
    assert table.value["neighbours", "fact-lookup"] == pytest.approx(0.75)
    assert table.value["heldout_loss", "fact-lookup"] == pytest.approx(0.2)
    assert table.value["second_loss", "fact-lookup"] == pytest.approx(-0.5)
    assert table.value["heldout_kl", "fact-lookup"] == pytest.approx(0.2)
    assert table.n["retained", "fact-lookup"] == 10 and table.n["neighbours", "fact-lookup"] == 4
    assert table.value["heldout_loss", "unedited"] == 0


# Reading what the stages wrote


TASK = "sports-athletes"
COMPARED, SWEPT = ["fact-lookup", "depth-matched-mlps"], ["mlp-window-0", "mlp-window-6"]
TWINS = {"depth-matched-mlps": "", "mlp-window-0": "depth-matched-mlps"}


@pytest.fixture
def small(settings):
    """Two edits to compare and two of the sweep, of which one trains the same weights."""
    sweep = {"localizations": {TASK: SWEPT}, "several": {TASK: ["fact-lookup"]}}
    sweep = settings.sweep.model_copy(update=sweep)
    return settings.model_copy(update={"compare": COMPARED, "sweep": sweep, "seeds": [0]})


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    """Everything that the stages leave for one task, made from the answers above."""
    for name, folder in (("ROOT", tmp_path), ("DATA", tmp_path / "data")):
        monkeypatch.setattr(paths, name, folder)
    home = Store("data")
    for name in (*COMPARED, *SWEPT):
        chosen = place(name, equals=TWINS.get(name, ""))
        chosen.save(home.folder("choose_components", TASK, 0) / f"{name}.json")
    formats().save(home.folder("unedited", TASK, 0))
    home.save_json("fact_lookup/lookup", {"n_layers": 9}, TASK, 0)
    write_answers(home)
    for name in COMPARED:
        folder = home.folder("edit", TASK, name, 0)
        (folder / "card.json").write_text(json.dumps(card(name)))
        way = raw(asked(name, "question", 3, 9, 10)).assign(at=0.5, step=4, strength=0.6)
        home.save("edit/way", way, TASK, name, 0)
    return home


def raw(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Rows as a stage writes them: ids without their seed, no column for it."""
    rows = rows.assign(id=rows.id.str.removeprefix("0/"), p_true=0.5, p_edit=0.5)
    return rows.drop(columns="seed")


def write_answers(home: Store) -> None:
    rows = raw(all_asked())
    key = {"attack": "formats", "variant": "", "budget": 0}
    home.save("unedited/unedited", rows[rows.localization == "unedited"], TASK, 0)
    stored = rows[rows.localization.isin(COMPARED)]
    rehearsal = stored.assign(split="choosing")
    every = pandas.concat([stored, rehearsal, stored.assign(localization="elsewhere")])
    home.save("attack_formats/rows", every.assign(**key), TASK, 0)
    taught = pandas.concat([relearned(n, BACK[n]) for n in COMPARED])
    taught = raw(taught).rename(columns={"step": "budget"}).assign(attack="relearn", variant="")
    home.save("attack_relearn/rows", taught, TASK, 0)
    write_sweep(home, rows, taught)
    kept = raw(facts(KEPT, "retain_test", ["old"] * 9, localization="fact-lookup"))
    home.save("side_effects/retained", kept.assign(group="", format="training"), TASK, 0)
    home.save("side_effects/text", texts("unedited", [1.0], [1.0]), TASK, 0)


def write_sweep(home: Store, rows: pandas.DataFrame, taught: pandas.DataFrame) -> None:
    swept = rows[rows.localization.isin(SWEPT)].assign(trained_on=1)
    several = rows[rows.localization == "fact-lookup"].assign(trained_on=4)
    home.save("sweep/asked", pandas.concat([swept, several]), TASK, 0)
    again = taught[taught.localization == "fact-lookup"]
    parts = [again.assign(localization=n, trained_on=1) for n in SWEPT]
    parts.append(again.assign(trained_on=4))
    home.save("sweep/relearned", pandas.concat(parts), TASK, 0)
    cards = [card(n, trained_on=1) for n in SWEPT] + [card("fact-lookup", trained_on=4, steps=99)]
    home.save("sweep/edits", pandas.DataFrame(cards).drop(columns="seed"), TASK, 0)


def test_localizations_that_train_the_same_weights_are_read_as_one_edit(store, small):
    data = results.collect(store, TASK, small)
    assert list(data.sets) == ["fact-lookup", "depth-matched-mlps", "mlp-window-6"]
    assert data.also == {"depth-matched-mlps": ["mlp-window-0"]}
    for rows in (data.relearned, data.cards, data.asked):
        assert set(rows.localization) - {"unedited"} == set(data.sets)
    table = results.edit_table(data, small).set_index("localization")
    assert table["also"]["depth-matched-mlps"] == "mlp-window-0"
    tables = compared(data, small)
    assert set(questions.pairwise(tables, small).localization) == {*data.sets} - {"fact-lookup"}


def test_one_prompt_and_several_are_kept_apart(store, small):
    data = results.collect(store, TASK, small)
    assert set(data.several.trained_on) == {4} and set(data.several.localization) == {"fact-lookup"}
    assert results.edit_table(data, small).steps.to_list() == [10, 10, 10]
    mine = data.asked[data.asked.localization == "fact-lookup"]
    assert not mine.duplicated(["id", "format"]).any()


def test_rehearsals_of_attackers_are_no_answers(store, small):
    data = results.collect(store, TASK, small)
    assert "choosing" not in set(data.asked.split)
    assert data.asked.id.str.startswith("0/").all() and set(data.way.strength) == {0.6}


def test_to_forget_is_to_give_any_other_answer(store, small):
    task = small.task(TASK).model_copy(update={"change": "forget"})
    small = small.model_copy(update={"tasks": small.tasks | {TASK: task}})
    data = results.collect(store, TASK, small)
    assert data.forget
    table = results.answer_table(data, small).set_index(["localization", "format"])
    row = table.loc["fact-lookup", "profile"]  # 6 new, 3 old, 3 third answers
    assert (row.new, row.old, row.other) == pytest.approx((9 / 12, 3 / 12, 0))


def test_a_format_counts_for_two_seeds_if_it_does_for_both():
    second = formats(ANSWERABLE | {"league": False})
    both = formats().both(second)
    assert both.counted == ["training", "question", "profile", "sentence"]
    assert both.vocabulary == [] and both.rewordings == ["question", "profile", "sentence"]
