"""The explorers as widgets for the live notebooks: `trace`, `ask`, `relearning`, `score_card`.

They show the rows of the site's explorers, and `ask` also puts free text to the model, before and
after any stored edit. Where no front end draws widgets, each shows its table as it is at first.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable

import ipywidgets as widgets
import pandas

from book import DATA, EARLY, LATE, TASK
from book import computed as get
from lib import config
from lib.analysis.edits import failed
from lib.tables import UNEDITED

WIDE = {"style": {"description_width": "90px"}, "layout": {"width": "34em"}}
PADDED = [{"selector": "td, th", "props": "padding: 2px 8px; text-align: left"}]
GROUPS = {get.HELDOUT: "held-out half, never taught", "forget_train": "taught half"}
GROUPS |= {"retain_test": "retained facts"}


class Panel(widgets.VBox):
    """Controls and below them a sentence and a table, made anew when a control changes.

    controls: {name: widget}; show: their values, by name, to (sentence, table); shade: colours
    behind numbers from 0 to 1; more: panels that stand below.
    """

    def __init__(self, controls: dict, show: Callable, shade: bool = False, more: tuple = ()):
        self.controls, self.show, self.shade, self.more = controls, show, shade, more
        self.below = widgets.HTML()
        for control in controls.values():
            control.observe(self.draw, "value")
        self.draw()
        super().__init__([*controls.values(), self.below, *more])

    def draw(self, *_) -> None:
        """Show what belongs to the present values."""
        said, table = self.show(**{name: c.value for name, c in self.controls.items()})
        style = table.style.format(get.written).set_table_styles(PADDED)
        if self.shade:
            style = style.background_gradient("Blues", axis=None, vmin=0, vmax=1)
        self.below.value = f"<p>{html.escape(said)}</p>{style.to_html()}"

    def still(self) -> str:
        return "".join([self.below.value, *(panel.still() for panel in self.more)])

    def _repr_mimebundle_(self, **how) -> dict:
        """A front end takes the widget; whatever has none, the table."""
        return super()._repr_mimebundle_(**how) | {"text/html": self.still()}


def control(kind: str, label: str, **more):  # kind: name of the widget's class
    return getattr(widgets, kind)(description=label, **WIDE, **more)


def choice(label: str, options, **more):
    return control("Dropdown", label, options=list(options), **more)


def trace() -> Panel:
    """The maps of causal tracing: choose a fact, guess a cell, read the map."""
    rows = get.rows("trace")

    def show(fact, model, node, token, layer):
        table = get.share_map(fact, model, node)
        first = rows.query("subject == @fact and model == @model").iloc[0]
        guess = table.index[min(token, len(table)) - 1]
        name = table.iloc[:-1].stack()  # at the last token everything returns in the end
        place, best = name.idxmax(), name.max()
        return (
            f"Answer {first.answer}: {first.p_clean:.2f}, with noise on the name "
            f"{first.p_corrupt:.2f}. Your guess, {guess} in layer {layer}, brings back "
            f"{table.loc[guess, str(layer)]:.2f} of what is lost; most before the last token: "
            f"{place[0]} in layer {place[1]}, {best:.2f}."
        ), table

    last = int(rows.columns[-1])
    longest = int(rows.groupby(["model", "subject", "node"]).size().max())
    lists = {"fact": rows.subject, "model": rows.model, "node": rows.node}
    controls = {name: choice(name, column.unique()) for name, column in lists.items()}
    controls["token"] = control("IntSlider", "guess: token", value=1, min=1, max=longest)
    controls["layer"] = control("IntSlider", "guess: layer", min=0, max=last)
    return Panel(controls, show, shade=True)


def ask(loaded=None, home: str = "data/play", task: str = TASK, seed: int = 0) -> Panel:
    """Old and new answer of a person after every edit of the sweep, and free text to a stored one.

    loaded: an unedited model (default: that of params.yaml, loaded once); home: where edits are.
    """
    rows, loaded = get.rows("ask"), loaded or get.model()
    forms = {f["name"]: f for f in json.loads((DATA / "formats.json").read_text())}
    folders = {UNEDITED: None} | get.stored_edits(home, task, seed)

    def compare(person, question, edit):
        table = get.compared(person, question, edit)
        missing = "" if edit in table.index else f" {edit} was not asked this question."
        return "Probabilities among the answers of the question." + missing, table

    def free(edit, prompt, old, new):
        columns, said = {}, []
        try:
            for name in dict.fromkeys((UNEDITED, edit)):
                of, top = get.next_words(loaded, folders[name], prompt, [old, new])
                said.append(f"{name}: " + ", ".join(f"{w} {p:.3f}" for w, p in of.items()))
                columns |= {name: [repr(t) for t, _ in top], f"p, {name}": [p for _, p in top]}
        except ValueError as problem:
            return f"{problem}.", pandas.DataFrame()
        table = pandas.DataFrame(columns, range(1, get.TOP + 1))
        return f"Probability of the next token. {'; '.join(said)}.", table

    names = [n for n in rows.localization.unique() if n != UNEDITED]
    above = {"person": choice("person", rows.subject.unique())}
    above |= {"question": choice("question", [n for n in forms if n in set(rows.format)])}
    above |= {"edit": choice("edit", names, value=EARLY)}
    first, late = EARLY if EARLY in folders else UNEDITED, {"continuous_update": False}
    below = {"edit": choice("stored edit", folders, value=first)}
    below |= {"prompt": control("Textarea", "your text", rows=5, **late)}
    below |= {name: control("Text", f"{name} answer", **late) for name in ("old", "new")}

    def fill(*_):
        form, person = forms[above["question"].value], above["person"].value
        for name, answer in (("old", "true"), ("new", "edit")):
            said = rows[rows.subject == person][answer].iloc[0]
            below[name].value = form["answers"][said]
        below["prompt"].value = form["template"].replace("{subject}", person)

    fill()
    above["person"].observe(fill, "value")
    above["question"].observe(fill, "value")
    return Panel(above, compare, more=(Panel(below, free),))


def relearning() -> Panel:
    """What relearning brings back, by edit and step, and recovery R of values set by hand."""
    rows, known, settings = get.rows("relearn"), get.given()["known"], config.load()

    def show(edit, step, accuracy, prior):
        mine = get.relearned(edit, step)
        found, right = get.brought_back(mine), (mine.answer == mine.true).groupby(mine.split)
        table = right.agg(["sum", "size", "mean"]).loc[list(GROUPS)]
        why = failed(table["mean"], settings)
        gates = f"gates not passed at this step: {why}" if why else "both gates are passed"
        by_hand = (accuracy - prior) / (known - prior) if prior < known else float("nan")
        table = table.set_axis(["answered correctly", "of", "share"], axis=1).set_axis(
            GROUPS.values()
        )
        return (
            f"Measured: R = {found.value:.2f} with prior {found.prior:.2f}; {gates}. "
            f"With the sliders: R = {by_hand:.2f}."
        ), table

    edit = choice("edit", rows.localization.unique())
    step = control("SelectionSlider", "step", options=[0])
    unit = {"min": 0, "max": 1, "step": 0.01}
    accuracy, prior = (control("FloatSlider", n, **unit) for n in ("a", "prior"))

    def follow(change):
        if change["owner"] is edit:
            step.options = sorted(set(rows.step[rows.localization == edit.value]))
        mine = get.relearned(edit.value, step.value)
        heldout = mine[mine.split == get.HELDOUT]
        accuracy.value = float((heldout.answer == heldout.true).mean())
        prior.value = get.brought_back(mine).prior

    for cause in (edit, step):
        cause.observe(follow, "value")
    edit.value = EARLY
    return Panel({"edit": edit, "step": step, "accuracy": accuracy, "prior": prior}, show)


def score_card() -> Panel:
    """The score card with its rules on and off, and the worst case that they give."""

    def show(**rules):
        table = get.card(**rules)[0]
        honest = dict.fromkeys(rules, False) | {"no_readers": rules["no_readers"]}
        said = []
        for name in (EARLY, LATE):
            now, then = (get.worst_of(name, **how) for how in (rules, honest))
            said.append(f"{name} {now}" + (f" instead of {then}" if now != then else ""))
        cell = [f"{r.back} of {r.n}, R {r.value:.2f}" for r in table.itertuples()]
        cell = [f"({c}, {v})" if v else c for c, v in zip(cell, table.verdict)]
        wide = table.assign(cell=cell).pivot(index="attack", columns="localization", values="cell")
        wide = wide.loc[table.attack.unique(), table.localization.unique()]
        wide = wide.rename_axis(index=None, columns=None)
        return f"Worst case: {'; '.join(said)}. In brackets: does not count.", wide

    words = {"failed_too": "count failed attacks", "oracles": "allow oracles"}
    words |= {"scored": "choose on the scored half", "no_readers": "leave out readers of layers"}
    box = {"indent": False, "layout": WIDE["layout"]}
    return Panel({n: widgets.Checkbox(description=w, **box) for n, w in words.items()}, show)
