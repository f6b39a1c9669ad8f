"""Sentences about results: each number is a cell of a table, and the pages say what it says."""

from __future__ import annotations

import json
import re

import pandas
import pytest
from test_results import compared, measured

from lib import paths
from lib.analysis import contrasts as questions
from lib.analysis import edits as results
from lib.analysis import readme, words
from lib.analysis.words import MEASURES, Claim
from lib.store import Store
from lib.tables import VERSUS

WORDS = 12  # of a title, at most
DOCS = paths.ROOT / "docs"
TASKS = sorted(path.name for path in paths.DATA.glob("tables/results/*") if path.is_dir())

# A claim and its numbers

ROWS = pandas.DataFrame(
    {"name": ["a", "a", "b"], "kind": ["x", "y", "x"], "value": [0.256, -1.0, 3.0], "n": [5, 6, 7]}
)


def read(table: str) -> pandas.DataFrame:
    return {"rows": ROWS}[table]


def about(**where) -> Claim:
    cells = {"share": ("rows", where, "value", ".2f"), "count": ("rows", where, "n", "d")}
    return Claim("{share} of {count}", cells)


def test_numbers_come_from_the_one_row_that_matches():
    assert about(name="a", kind="x").filled(read) == "0.26 of 5"
    assert about(name="b").filled(read) == "3.00 of 7"
    assert about(name="a", kind="y").number("share", read) == "-1.00"
    assert Claim("no number").filled(read) == "no number"


@pytest.mark.parametrize("where, found", [({"name": "c"}, "0 rows"), ({"name": "a"}, "2 rows")])
def test_a_claim_without_its_one_row_is_refused(refuses, where, found):
    with refuses(ValueError, found, "of rows", "correct the claim"):
        about(**where).filled(read)


def test_a_claim_survives_json():
    claim = about(name="a", kind="x")
    again = Claim.from_json(json.loads(json.dumps(claim.as_json())))
    assert again == claim and again.filled(read) == claim.filled(read)


# The two questions


def contrast_rows(verdict="higher", value=0.25, **more) -> pandas.DataFrame:
    row = dict.fromkeys(VERSUS, 0.0) | {"value": value, "low": value - 0.125, "high": value + 0.125}
    row |= {"a_value": 0.75, "b_value": 0.75 - value, "verdict": verdict}
    key = {"question": "early-late", "measure": "new-wording", "a": "a", "b": "b"}
    return pandas.DataFrame([key | row | more, key | row | {"measure": "back", "value": 0.5}])


@pytest.mark.parametrize(
    "verdict, value, said",
    [
        ("higher", 0.25, "higher"),
        ("lower", -0.25, "lower"),
        ("alike", 0.0, "alike within the margin"),
        ("unresolved", 0.125, "unresolved"),
    ],
)
def test_a_comparison_is_said_as_its_verdict(verdict, value, said):
    rows = contrast_rows(verdict, value)
    claim = words.contrast(rows, "early-late", "new-wording", "early windows", "late windows")
    text = claim.filled(lambda table: {"contrasts": rows}[table])
    numbers, _, found = text.rpartition(": ")
    assert numbers == (
        f"New answer in another wording: early windows 0.75, late windows {0.75 - value:.2f}, "
        f"difference {value:+.2f} [{value - 0.125:+.2f}, {value + 0.125:+.2f}]"
    )
    assert said in found
    assert sum(word in found for word in ("higher", "lower", "alike", "unresolved")) == 1


@pytest.mark.parametrize("rows", [contrast_rows().head(0), contrast_rows(value=float("nan"))])
def test_what_cannot_be_compared_is_said_without_numbers(rows):
    claim = words.contrast(rows, "early-late", "new-wording", "early windows", "late windows")
    assert "cannot be compared" in claim.text and not claim.cells
    assert not re.search(r"\d", claim.filled(lambda table: rows))


def test_every_question_has_a_sentence_for_every_measure():
    found = words.questions(contrast_rows())
    assert set(found) == {"early-late", "lookup-depth"}
    assert all(len(claims) == len(MEASURES) for claims in found.values())
    said = [claim.text for claim in found["early-late"]]
    assert sum("cannot be compared" in text for text in said) == len(MEASURES) - 2
    assert said[-1].startswith("Old answer of the held-out half after relearning: early windows")


def test_fact_lookup_against_each_other_edit_in_words():
    verdicts = {"a": "higher", "b": "lower", "c": "alike", "d": "unresolved", "e": "higher"}
    rows = [{"measure": "back", "localization": n, "verdict": v} for n, v in verdicts.items()]
    other = {"measure": "new-wording", "localization": "z", "verdict": "lower"}
    said = words.against_each(pandas.DataFrame([*rows, other]), "back")
    assert said == (
        "Old answer of the held-out half after relearning, fact lookup is higher than `a`, `e`; "
        "lower than `b`; alike `c`; unresolved against `d`."
    )
    none = words.against_each(pandas.DataFrame([other]), "back")
    assert none.endswith("fact lookup is compared with no edit.")


# A line or a step


def fit_rows(step: float, line: float, slope: float = -0.05, measure="new-wording"):
    rows = [("line", 11, slope, line), ("step", 11, 3.5, step)]
    table = pandas.DataFrame(rows, columns=["model", "n", "at", "left_out"])
    ends = {"first": 0.9, "last": 0.1} if slope < 0 else {"first": 0.1, "last": 0.9}
    return table.assign(measure=measure, at_error=0.1, error=0.1, **ends)


@pytest.mark.parametrize(
    "step, line, better",
    [
        (0.05, 0.25, "a step"),
        (0.25, 0.05, "a line"),
        (0.2, 0.2, "neither clearly"),
        (0.2, 0.21, "neither clearly"),
        (0.21, 0.2, "neither clearly"),
        (0.2, 0.23, "a step"),
        (0.23, 0.2, "a line"),
    ],
)
def test_the_better_model_is_named_where_it_is_better_by_a_tenth(step, line, better):
    rows = fit_rows(step, line)
    text = words.step(rows, "new-wording").filled(lambda table: {"fits": rows}[table])
    assert text == (
        f"New answer in another wording, 11 single MLPs: left-out layers are missed by {step:.2f} "
        f"under a step at layer 3.5 and by {line:.2f} under a line; {better} predicts better."
    )


def test_without_fits_there_is_a_sentence_without_numbers():
    claim = words.step(fit_rows(0.1, 0.2, measure="back"), "new-wording")
    assert "too few single MLPs" in claim.text and not claim.cells


def test_the_worst_case_in_words():
    worst = {"localization": ["unedited", "fact-lookup"], "attack": ["x", "relearn"]}
    worst |= {"back": [16, 3], "n": 16, "value": [1.0, 0.125], "highest": 0.5, "luck": 0.25}
    said = words.worst_case(pandas.DataFrame(worst))
    assert said.endswith(
        "`fact-lookup` 3 of 16 by relearn (R 0.12; highest of any 0.50, by luck 0.25)."
    )
    assert "unedited" not in said


def test_edits_stand_in_the_order_of_the_argument(settings):
    names = ["nonlocalized", "mlp-12", "mlp-2", "mlp-window-12", "mlp-window-2", "random-mlps"]
    names += ["fact-lookup-swapped", "depth-matched-mlps", "my-layers", "fact-lookup"]
    assert words.order(names) == [
        *("fact-lookup", "fact-lookup-swapped", "depth-matched-mlps", "random-mlps"),
        *("mlp-window-2", "mlp-window-12", "mlp-2", "mlp-12", "nonlocalized", "my-layers"),
    ]
    assert sorted(words.order(settings.localizations)) == sorted(settings.localizations)


# Titles of figures


def short(title: str) -> str:
    """A title that has been counted."""
    assert len(title.split()) <= WORDS, title
    return title


@pytest.mark.parametrize(
    "fits, said",
    [
        (fit_rows(0.05, 0.25), "before layer 3.5, and less after it"),
        (fit_rows(0.25, 0.05), "The later the trained MLP, the less"),
        (fit_rows(0.25, 0.05, slope=0.05), "Where one MLP is trained"),
        (fit_rows(0.05, 0.25, slope=0.05), "Where one MLP is trained"),
        (fit_rows(0.2, 0.2), "Where one MLP is trained"),
        (fit_rows(0.05, 0.25, measure="back"), "Edits of one MLP and of windows"),
    ],
)
def test_the_title_of_the_sweep_says_what_fits(fits, said):
    assert said in short(words.sweep_title(fits))


def carried_rows(values: dict, kind="wording", says="old") -> pandas.DataFrame:
    table = pandas.DataFrame({"localization": list(values), "value": list(values.values())})
    return table.assign(kind=kind, says=says)


def test_the_title_of_answers_names_the_least_and_the_most(settings):
    values = {"unedited": 1.0, "fact-lookup": 0.25, "mlp-0": 0.125, "mlp-15": 0.75}
    other = (
        carried_rows({"mlp-3": 0.0}, kind="vocabulary"),
        carried_rows({"mlp-3": 0.0}, says="new"),
    )
    rows = pandas.concat([carried_rows(values | {"broken": float("nan")}), *other])
    title = short(words.answers_title(rows))
    assert title == "Old answers in another wording: 0.12 (mlp-0) to 0.75 (mlp-15)"
    assert short(words.answers_title(rows.tail(2))) == "New, old and other answers by format"
    for name in settings.localizations:
        short(words.answers_title(carried_rows({name: 0.1, f"other-{name}": 1.0})))


def test_the_title_of_the_way_says_what_strength_brings():
    columns = ["localization", "at", "strength", "what", "value"]
    rows = [("fact-lookup", at, at + 0.02, "wording new", at / 2) for at in (1.0, 0.5, 0.8)]
    rows += [("mlp-0", 0.5, 0.5, "wording new", 1.0), ("fact-lookup", 0.5, 0.5, "retained", 1.0)]
    way = pandas.DataFrame(rows, columns=columns)
    title = short(words.way_title(way))
    assert title == "Fact lookup, strength 0.52 to 1.02: new answers elsewhere 0.25 to 0.50"
    assert short(words.way_title(way[way["at"] == 1.0])) == "What strength costs"


def back_rows(counts: dict, failed=()) -> pandas.DataFrame:
    rows = [
        {"localization": n, "back": b, "n": 16, "value": b / 16}
        | {"failed": "taught 0.50" if n in failed else ""}
        for n, b in counts.items()
    ]
    return pandas.DataFrame(rows)


def test_the_title_of_relearning_names_the_least_and_the_most_that_count(settings):
    rows = back_rows({"a": 3, "b": 9, "c": 1, "d": 0, "not shown": 16}, failed=["d"])
    title = short(words.back_title(rows, ["a", "b", "c", "d"]))
    assert title == "Relearning brings back 1 of 16 (c) to 9 of 16 (b)"
    assert short(words.back_title(rows, ["d"])) == "No relearning attack passed its gates"
    for name in settings.localizations:
        short(words.back_title(back_rows({name: 12, "mlp-0": 10}), [name, "mlp-0"]))


def test_the_title_of_several_wordings_compares_old_answers(settings):
    for name in settings.localizations:
        parts = [carried_rows({name: 0.5}).assign(trained_on=1)]
        parts += [carried_rows({name: 0.25}).assign(trained_on=4)]
        parts += [carried_rows({name: 0.75}, says="new").assign(trained_on=4)]
        title = short(words.wordings_title(pandas.concat(parts)))
        assert title == f"Trained on 4 wordings, {name} leaves 0.25 old answers, on one 0.50"


def test_counts_are_listed_layer_by_layer_with_what_does_not_count():
    names = ["mlp-10", "mlp-2", "mlp-3", "mlp-window-0", "fact-lookup"]
    edits = pandas.DataFrame({"localization": names, "also": ["", "", "", "", "mlp-window-2"]})
    edits["reached"] = [False, True, True, True, True]
    back = pandas.DataFrame({"localization": names, "back": [9, 2, 5, 1, 3], "n": 16})
    back["failed"] = ["", "", "retained 0.88", "", ""]
    single, window = words.by_layer(edits, back)
    said = single.filled({"back": back}.get)
    assert said.endswith("one MLP that is trained: 2: 2, 3: 5 (failed a gate), 10: 9 (missed).")
    assert window.filled({"back": back}.get).endswith("of a window that is trained: 0: 1, 2: 3.")
    assert words.by_layer(edits[:0], back) == []


# From tables to pages, in a folder of its own

TASK = "sports-athletes"


@pytest.fixture(scope="module")
def tables(settings) -> dict[str, pandas.DataFrame]:
    """Results of one task, of which one edit missed the strength and one attack failed."""
    data = measured()
    answers, edits = results.answer_table(data, settings), results.edit_table(data, settings)
    found = {"edits": edits.assign(reached=edits.localization != "nonlocalized")}
    found["carried"] = results.carried_table(data, answers, settings)
    back = results.back_table(data, settings)
    found["back"] = back.assign(failed=(back.localization == "mlp-window-0").map({True: "x"}))
    measures = compared(data, settings)
    found["contrasts"] = questions.contrasts(data, measures, settings)
    found["pairwise"] = questions.pairwise(measures, settings)
    found["fits"] = pandas.concat([fit_rows(0.05, 0.25), fit_rows(0.2, 0.1, measure="back")])
    return found


@pytest.fixture
def page(tmp_path, monkeypatch, tables) -> Store:
    """These results with sentences about them, as notebook 50 leaves them."""
    for name, folder in (("ROOT", tmp_path), ("DATA", tmp_path / "data")):
        monkeypatch.setattr(paths, name, folder)
    home = Store("data")
    for name, rows in tables.items():
        home.save(f"results/{name}", rows, TASK)
    said = words.questions(tables["contrasts"])
    said |= {"steps": [words.step(tables["fits"], measure) for measure in MEASURES]}
    said |= {"by_layer": words.by_layer(tables["edits"], tables["back"])}
    found = {name: [claim.as_json() for claim in claims] for name, claims in said.items()}
    found |= {"each": [words.against_each(tables["pairwise"], measure) for measure in MEASURES]}
    home.save_json("results/findings", found, TASK)
    return home


def test_sentences_are_filled_from_the_tables_that_were_written(page):
    found = readme.findings(TASK)
    assert len(found) == 4 * len(MEASURES) + 1
    windows = "early windows 1.00, late windows 0.17, difference +0.83"
    assert sum(text.startswith(f"New answer in another wording: {windows}") for text in found) == 1
    assert any(text.endswith("under a line; a step predicts better.") for text in found)
    table = page.load("results/contrasts", TASK)
    page.save("results/contrasts", table.assign(value=0.5), TASK)
    assert sum("difference +0.50" in text for text in readme.findings(TASK)) >= 5


def test_the_summary_says_what_is_broken_missed_and_failed(page):
    table = readme.summary(TASK)
    assert list(table.index) == words.order(table.index) and table.index[0] == "fact-lookup"
    assert table["new, reworded"]["fact-lookup"].startswith("0.62 [")
    assert table["new, reworded"]["nonlocalized"] == "broken (0.50)"
    assert table["old, other words"]["depth-matched-mlps"] == "broken (0.50)"
    assert table.strength["nonlocalized"] == "0.96 (missed)"
    assert table.strength["fact-lookup"] == "0.96"
    assert table["back after relearning"]["mlp-window-0"] == "0/6 (failed)"
    assert table["back after relearning"]["mlp-window-6"] == "6/6"


def test_pages_get_new_numbers_between_their_marks(page, tmp_path):
    numbered = f"{readme.BEGIN}\nstale\n{readme.END}"
    pages = {"docs/CLAIMS.md": numbered}
    pages |= {"README.md": f"{numbered}{readme.TABLE}\nstale\n{readme.TABLE_END}"}
    pages |= {"docs/RESULTS.md": f"{readme.MACHINE}\nstale\n{readme.MACHINE_END}{numbered}"}
    pages |= {"docs/SPEED.md": f"{readme.SPEED}\nstale\n{readme.SPEED_END}"}
    (tmp_path / "docs").mkdir()
    for name, text in pages.items():
        (tmp_path / name).write_text(f"before {text}\nafter\n")
    readme.write_docs([TASK], tmp_path)
    first = {name: (tmp_path / name).read_text() for name in pages}
    readme.write_docs([TASK], tmp_path)
    for name, text in first.items():
        assert text.startswith("before <!--") and text.endswith("-->\nafter\n")
        assert "stale" not in text and (tmp_path / name).read_text() == text
    results, claims = first["docs/RESULTS.md"], first["docs/CLAIMS.md"]
    assert not unsaid(results, TASK) and not unlisted(claims, TASK)
    assert numbers(claims, TASK) and not wrong_numbers(claims, TASK)
    assert "early windows 1.00" in first["README.md"] and "`fact-lookup`" in first["README.md"]


def test_a_number_that_is_not_that_of_its_cell_is_noticed(page):
    text = readme.cells([TASK])
    assert wrong_numbers(text, TASK) == []
    table = page.load("results/contrasts", TASK)
    page.save("results/contrasts", table.assign(low=table.low + 0.02), TASK)
    assert {column for _, column, _, _ in wrong_numbers(text, TASK)} == {"low"}
    text = "\n\n".join(f"- {claim.filled(readme.reader(TASK))}" for claim in readme.claims(TASK))
    assert unsaid(f"**{TASK}**\n\n{text}", TASK) == []
    page.save("results/contrasts", table.assign(high=9.0), TASK)
    assert len(unsaid(f"**{TASK}**\n\n{text}", TASK)) >= 5


def unsaid(text: str, task: str) -> list[str]:
    """Claims about a task that its part of a page does not make."""
    mine = text.split(f"**{task}**")[1].split("\n**")[0].splitlines()
    said = [claim.filled(readme.reader(task)) for claim in readme.claims(task)]
    return [sentence for sentence in said if f"- {sentence}" not in mine]


def unlisted(text: str, task: str) -> list[str]:
    """Claims with numbers that the page of claims does not begin a line with."""
    filled = [c.filled(readme.reader(task)) for c in readme.claims(task) if c.cells]
    return [sentence for sentence in filled if f"\n| {sentence} | " not in text]


LINE = re.compile(
    r"^\|[^|]*\| (?P<number>[-+.\d]+) "
    r"\| `results/(?P<task>[^/`]+)/(?P<table>\w+)\.csv`: `(?P<column>\w+)` where (?P<where>.+) \|$"
)


def numbers(text: str, task: str) -> list[tuple[str, str, dict, str]]:
    """(table, column, {column: value}, number) of every line of the page of claims on a task."""
    lines = [found for line in text.splitlines() if (found := LINE.match(line))]
    return [
        (m["table"], m["column"], dict(w.split(" = ") for w in m["where"].split(", ")), m["number"])
        for m in lines
        if m["task"] == task
    ]


def wrong_numbers(text: str, task: str) -> list[tuple]:
    """Those of `numbers` that differ from the one cell they name by more than rounding."""
    wrong = []
    for table, column, where, number in numbers(text, task):
        path = paths.DATA / "tables" / "results" / task / f"{table}.csv"
        rows = pandas.read_csv(path)
        for key, value in where.items():
            rows = rows[rows[key].astype(str) == value]
        step = 10.0 ** -len(number.partition(".")[2])
        cells = rows[column].to_list()
        if len(cells) != 1 or not abs(cells[0] - float(number)) <= 0.5001 * step:
            wrong.append((table, column, where, number))
    return wrong


# The results that are in git


@pytest.fixture(params=TASKS or ["none"])
def task(request) -> str:
    if not (paths.DATA / "tables" / "results" / request.param / "carried.csv").exists():
        pytest.skip(f"results of {request.param} are of an older layout: make them anew")
    return request.param


def test_every_claim_about_the_results_can_be_filled(task):
    found = readme.claims(task)
    assert len(found) == (1 + len(words.SIDES)) * len(MEASURES) + 2
    for claim in found:
        text = claim.filled(readme.reader(task))
        assert not re.search(r"[{}]|\bnan\b", text), text
        assert set(re.findall(r"{(\w+)}", claim.text)) == set(claim.cells)


def test_no_number_is_typed_into_a_claim(task):
    for claim in readme.claims(task):
        assert not re.search(r"\d", re.sub(r"{\w+}|\b\d+: (?={b)", "", claim.text)), claim.text


def test_every_claim_stands_on_the_page_of_results(task):
    assert unsaid((DOCS / "RESULTS.md").read_text(), task) == []


def test_every_number_of_a_claim_is_listed_and_equals_its_cell(task):
    path = DOCS / "CLAIMS.md"
    if not path.exists():
        pytest.skip("docs/CLAIMS.md is not there: `make readme` writes it")
    text = path.read_text()
    assert len(numbers(text, task)) == sum(len(claim.cells) for claim in readme.claims(task))
    assert wrong_numbers(text, task) == [] and unlisted(text, task) == []
