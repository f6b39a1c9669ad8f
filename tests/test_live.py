"""The widgets of the live notebooks: their controls are moved in Python and what they show is
compared with the rows; free text is compared with the model's own full pass."""

import json
import re
from html.parser import HTMLParser

import pandas
import pytest
import torch

from book import DATA, ROOT, TASK, computed, live
from lib.edit import delta
from lib.model.weights import trainable

PUBLISHED = ROOT / "data" / "tables"


class Table(HTMLParser):
    """Cells of the table that a panel shows, row by row, the first of each being its name."""

    def __init__(self, panel):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(panel.below.value)
        self.head, self.body = (self.rows or [[]])[0], self.rows[1:]

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def read(path) -> pandas.DataFrame:
    return pandas.read_csv(path, keep_default_na=False, na_values=[""], dtype={"variant": str})


def said(panel) -> str:
    return re.search(r"<p>(.*?)</p>", panel.below.value, re.S)[1]


def put(panel, **values) -> Table:
    """Move controls as a person would; the table that is shown then."""
    for name, value in values.items():
        panel.controls[name].value = value
    return Table(panel)


def test_the_map_and_the_guess_are_those_of_the_rows():
    panel, rows = live.trace(), read(DATA / "trace.csv")
    fact = rows.subject.unique()[3]
    for model in rows.model.unique():
        shown = put(panel, fact=fact, model=model, node="MLP", token=2, layer=7)
        mine = rows[(rows.subject == fact) & (rows.model == model) & (rows.node == "MLP")]
        gap = mine.p_clean - mine.p_corrupt
        for (_, row), part, line in zip(mine.iterrows(), gap, shown.body):
            assert row.token.strip() in line[0]
            wanted = [(row[str(k)] - row.p_corrupt) / part for k in range(18)]
            assert max(abs(float(c) - w) for c, w in zip(line[1:], wanted)) <= 0.00501
        assert len(shown.body) == len(mine)
        second = mine.iloc[1]
        guess = (second["7"] - second.p_corrupt) / gap.iloc[1]
        assert f"brings back {guess:.2f}" in said(panel)


def test_relearning_gives_what_was_published_and_the_sliders_drive_r():
    panel = live.relearning()
    published = read(PUBLISHED / "results" / TASK / "back.csv").set_index("localization")
    for name in ("fact-lookup", "mlp-4", "mlp-window-12"):
        put(panel, edit=name)
        shown = put(panel, step=panel.controls["step"].options[-1])
        row = published.loc[name]
        assert shown.body[0][1:3] == [str(row.back), str(row.n)]
        assert f"Measured: R = {row.R_value:.2f} with prior {row.R_prior:.2f}" in said(panel)
        assert ("" if pandas.isna(row.failed) else row.failed) in said(panel)
        assert f"sliders: R = {row.R_value:.2f}" in said(panel)
    put(panel, accuracy=0.0, prior=0.25)
    assert "sliders: R = -0.33" in said(panel)
    put(panel, prior=1.0)
    assert "sliders: R = nan" in said(panel)


def test_the_score_card_is_the_published_one_and_lies_with_its_rules_off():
    panel = live.score_card()
    table = read(PUBLISHED / "score_card" / TASK / "attacks.csv")
    shown = Table(panel)
    cells = {(line[0], edit): c for line in shown.body for edit, c in zip(shown.head[1:], line[1:])}
    assert len([c for c in cells.values() if c]) == len(table)
    for row in table.itertuples():
        cell = cells[row.attack, row.localization]
        assert f"{row.back} of {row.n}, R {row.value:.2f}" in cell
        counts = row.admitted and pandas.isna(row.failed)
        assert ("(" in cell) != counts, cell
        assert pandas.isna(row.failed) or row.failed in cell
    worst = read(PUBLISHED / "score_card" / TASK / "worst_case.csv").set_index("localization")
    for name in ("fact-lookup", "mlp-window-12"):
        row = worst.loc[name]
        assert f"{name} {row.back} of {row.n} by {row.attack} (R {row.value:.2f})" in said(panel)
    put(panel, no_readers=True)
    honest = said(panel)
    assert honest != said(live.score_card()) and "instead of" not in honest
    put(panel, failed_too=True, oracles=True, scored=True)
    assert "instead of" in said(panel)
    early = [text.split(";")[0] for text in (said(panel), honest)]
    (lied, instead), (told,) = ([float(r) for r in re.findall(r"R (.*?)\)", t)] for t in early)
    assert lied > told == instead
    counts = read(DATA / "card.csv")
    oracle = counts[(counts.attack == "transplant") & (counts.split == "forget_heldout")]
    for name, rows in oracle[oracle.excluded == "oracle"].groupby("localization"):
        shown = Table(panel)
        cell = next(line for line in shown.body if line[0] == "transplant")[shown.head.index(name)]
        assert f"{rows.right.max()} of {rows.n.max()}" in cell


@pytest.fixture
def at_hand(fresh, middle, tmp_path, monkeypatch):
    """A tiny model, and a home with one edit of it that is stored and one of another model."""
    monkeypatch.setattr("lib.paths.DATA", tmp_path / "data")
    base, edited = fresh("gemma3"), fresh("gemma3")
    for parameter in trainable(edited.model, middle).values():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    for name, checksum in (("mine", base.checksum), ("foreign", "b" * 64)):
        folder = tmp_path / "play" / "edit" / TASK / name / "0"
        folder.mkdir(parents=True)
        delta.save(edited.model, middle, {"base_checksum": checksum}, folder)
    return base, edited, str(tmp_path / "play")


def plain(loaded, prompt: str) -> torch.Tensor:
    """Probabilities of the next token by the model's own pass."""
    ids = loaded.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        return loaded.model(input_ids=ids).logits[0, -1].softmax(0)


def test_free_text_is_answered_by_the_unedited_and_the_edited_model(at_hand):
    base, edited, home = at_hand
    panel = live.ask(base, home)
    free = panel.more[0]
    assert set(free.controls["edit"].options) == {"unedited", "mine", "foreign"}
    prompt = "Fact: Tiger Woods plays the sport of"
    shown = put(free, edit="mine", prompt=prompt, old="golf", new="tennis")
    for column, loaded in ((1, base), (3, edited)):
        p = plain(loaded, prompt)
        top = p.topk(computed.TOP)
        assert [line[column] for line in shown.body] == [
            repr(loaded.tokenizer.decode(int(t))) for t in top.indices
        ]
        found = [float(line[column + 1]) for line in shown.body]
        assert max(abs(a - b) for a, b in zip(found, top.values.tolist())) <= 0.0051
        for word in ("golf", "tennis"):
            token = loaded.tokenizer(" " + word, add_special_tokens=False).input_ids[0]
            assert f"{word} {p[token]:.3f}" in said(free)
    assert plain(base, prompt).equal(plain(at_hand[0], prompt)), "the edit is off again"


def test_what_cannot_be_asked_is_said_in_a_sentence(at_hand):
    free = live.ask(at_hand[0], at_hand[2]).more[0]
    put(free, edit="foreign")
    assert "made from weights bbbb" in said(free)
    put(free, edit="unedited", prompt="  ")
    assert "type a prompt" in said(free)


def test_edit_and_ask_shows_the_rows_and_fills_the_text(at_hand):
    panel, rows = live.ask(at_hand[0], at_hand[2]), read(DATA / "ask.csv")
    person = rows.subject.unique()[5]
    shown = put(panel, person=person, question="league", edit="mlp-window-14")
    wanted = rows[(rows.subject == person) & (rows.format == "league")].set_index("localization")
    for line, name in zip(shown.body, ("unedited", "mlp-window-14")):
        row = wanted.loc[name]
        assert line[:2] == [name, row.answer]
        assert abs(float(line[2]) - row.p_true) <= 0.0051
        assert abs(float(line[3]) - row.p_edit) <= 0.0051
    assert person in panel.more[0].controls["prompt"].value


def test_without_a_front_end_the_table_is_shown():
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    book = new_notebook(cells=[new_code_cell("from book import live\nlive.trace()")])
    NotebookClient(book, resources={"metadata": {"path": ROOT}}).execute()
    (output,) = book.cells[0].outputs
    assert "<table" in output.data["text/html"] and "Your guess" in output.data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in output.data


def test_notebooks_call_them_in_cells_that_no_stage_runs():
    called = {"10": "trace", "20": "ask", "31": "relearning", "52": "score_card"}
    for number, name in called.items():
        (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        cells = [c for c in json.loads(path.read_text())["cells"] if c["id"] == "live"]
        (cell,) = cells
        assert f"live.{name}(" in "".join(cell["source"]) and cell["metadata"]["tags"] == ["play"]
