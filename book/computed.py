"""What the widgets of `book.live` show: computed with `lib` from the rows of the site's explorers
(`book/data`, from the default run) and, where text is free, from the model itself."""

from __future__ import annotations

import html
import json
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pandas
import torch

from book import DATA, TASK
from lib import config, paths
from lib.analysis import score_card
from lib.analysis.edits import failed
from lib.attacks import battery
from lib.attacks.target import MASK
from lib.edit import delta
from lib.facts.formats import encode
from lib.model.loading import load_model
from lib.model.runner import Runner
from lib.stats import Recovery, recovery
from lib.tables import UNEDITED

HELDOUT, INVENTED = "forget_heldout", "never_known"
TOP = 8  # next words that are shown


@cache
def rows(name: str) -> pandas.DataFrame:
    """A table of the explorers, `book/data/<name>.csv`."""
    kinds = {"variant": str, "excluded": str}
    found = pandas.read_csv(
        DATA / f"{name}.csv", keep_default_na=False, na_values=[""], dtype=kinds
    )
    return found.fillna({c: "" for c in kinds if c in found})


@cache
def given() -> dict:
    """What the default run's score card was computed with, such as the share that was known."""
    return json.loads((DATA / "card.json").read_text())


def written(value) -> str:
    """A cell of a table in HTML: numbers with two decimals, without a sign before zero."""
    text = f"{value:.2f}".replace("-0.00", "0.00") if isinstance(value, float) else str(value)
    return "" if text == "nan" else html.escape(text)


# Trace


def share_map(fact: str, model: str, node: str) -> pandas.DataFrame:
    """Share of a fact's answer that returns, by token (rows) and layer (columns)."""
    mine = rows("trace").query("subject == @fact and model == @model and node == @node")
    layers = [c for c in mine if c.isdigit()]
    table = mine[layers].sub(mine.p_corrupt, axis=0).div(mine.p_clean - mine.p_corrupt, axis=0)
    table.index = [f"{i + 1}: {token.strip()}" for i, token in enumerate(mine.token)]
    return table


# Ask


def compared(person: str, question: str, edit: str) -> pandas.DataFrame:
    """Answer and probabilities of the old and the new one, before and after an edit of the sweep
    (one row if the edit was not asked this question)."""
    mine = rows("ask").query("subject == @person and format == @question")
    table = mine[mine.localization.isin([UNEDITED, edit])].set_index("localization")
    old, new = table.true.iloc[0], table.edit.iloc[0]
    table = table[["answer", "p_true", "p_edit"]].rename_axis(None)
    return table.set_axis(["answers", f"p of {old} (old)", f"p of {new} (new)"], axis=1)


@cache
def model():
    """The model of params.yaml, loaded once."""
    return load_model(config.load().model)


def stored_edits(home: str, task: str, seed: int) -> dict[str, Path]:
    """{name: folder} of the edits whose weights are at hand, with a home of one's own first."""
    found = {}
    for folder in (paths.DATA, paths.ROOT / home):
        weights = sorted((folder / "edit" / task).glob(f"*/{seed}/{delta.DELTA}"))
        found |= {path.parts[-3]: path.parent for path in weights}
    return found


def next_words(loaded, folder: Path | None, prompt: str, answers: list[str]):
    """({answer: probability of its first token}, [(token, probability)] of the likeliest) over the
    whole vocabulary, after a prompt; folder: of the stored edit that is on the model meanwhile.
    ValueError if there is no text, or the edit belongs to another model."""
    if not prompt.strip():
        raise ValueError("there is no text to go on from: type a prompt")
    with delta.applied(loaded, folder) if folder else nullcontext():
        logits = Runner(loaded.model).answer_logits(encode(loaded.tokenizer, [prompt]))
    p, words = logits[0].softmax(0), [a.strip() for a in answers if a.strip()]
    ids = {w: loaded.tokenizer(" " + w, add_special_tokens=False).input_ids[0] for w in words}
    top = torch.topk(p, TOP)
    likely = [(loaded.tokenizer.decode(int(t)), float(v)) for v, t in zip(*top)]
    return {word: float(p[token]) for word, token in ids.items()}, likely


# Relearning


def relearned(edit: str, step: int) -> pandas.DataFrame:
    """What is answered at a step of the attack, or at the last one before it."""
    mine = rows("relearn")[rows("relearn").localization == edit]
    return mine[mine.step == mine.step[mine.step <= step].max()].assign(relation=TASK)


def brought_back(answers: pandas.DataFrame) -> Recovery:
    """Recovery R of the held-out half, from answers about all people."""
    heldout, nobody = (answers[answers.split == s] for s in (HELDOUT, INVENTED))
    return recovery(heldout, nobody, given()["known"], resamples=2)


# The score card, with any of its rules off


@cache
def records() -> score_card.AttackRecords:
    """The counts of the score card as rows of answers, as many as were counted."""
    options = [c.removeprefix("true ") for c in rows("card") if c.startswith("true ")]
    true, said = [], []
    for row in rows("card").to_dict("records"):
        asked = [o for o in options for _ in range(row[f"true {o}"])]
        true += asked
        if row["split"] == INVENTED:
            said += [o for o in options for _ in range(row[f"said {o}"])]
        else:  # how many are right is counted, not which
            said += asked[: row["right"]] + [""] * (len(asked) - row["right"])
    keys = ["localization", "attack", "variant", "budget", "split", "excluded"]
    whole = rows("card").loc[rows("card").index.repeat(rows("card").n), keys].astype(object)
    whole = whole.assign(true=true, answer=said, seed=0, relation=TASK).astype(object)
    whole = whole.reset_index(drop=True).astype({"budget": float, "seed": int})
    ledger = rows("card")[["attack", "teaches"]].rename(columns={"teaches": "taught"})
    return score_card.AttackRecords(whole, ledger, given()["known"], {}, given()["masks"])


@cache
def attacks(oracles: bool = False, scored: bool = False) -> pandas.DataFrame:
    """Where each attacker stops: localization, attack, variant, budget, chosen_on, back, n, value
    (R), prior, retained and failed, as `lib.analysis.score_card.attack_table` has them.

    oracles: what needs the unedited model is allowed; scored: attackers choose on what is scored.
    """
    found, settings = [], config.load()
    teaches = records().ledger.groupby("attack").taught.any()
    mine = records().rows
    mine = mine[mine.excluded.isin(["", "oracle"] if oracles else [""])]
    for (name, attack), part in mine.groupby(score_card.KEY, sort=False):
        if scored:
            looked = part[part.split == HELDOUT].assign(split=battery.CHOOSING)
            part = pandas.concat([part[part.split != battery.CHOOSING], looked])
        end, chosen_on = score_card.stop(part)
        heldout = end[end.split == HELDOUT]
        right = (end.answer == end.true).groupby(end.split).mean()
        row = {"localization": name, "attack": attack, "chosen_on": chosen_on}
        row |= {c: end[c].iloc[0] for c in score_card.STOP}
        row |= {"back": int((heldout.answer == heldout.true).sum())}
        row |= vars(brought_back(end))
        row |= {"retained": right.get("retain_test")}
        found.append(row | {"failed": failed(right, settings) if teaches[attack] else ""})
    return score_card._retaining(pandas.DataFrame(found), records(), settings)


@cache
def card(failed_too: bool, oracles: bool, scored: bool, no_readers: bool) -> tuple:
    """(attacks, worst case) under some rules; attacks with columns admitted and verdict.

    failed_too: attacks that failed their gates count; no_readers: those that read a layer do not.
    """
    table = attacks(oracles, scored)
    below = rows("card").query("excluded == 'below'").attack.unique()
    out = table.attack.isin(below if no_readers else [])
    passes = ~out if failed_too else ~out & (table.failed == "")
    works = passes & (table.localization == MASK) & (table.value >= score_card.ADMITTED)
    admitted = table.attack.isin(table.attack[works]) & records().masks
    verdict = admitted.map({True: "", False: "not shown to work"})
    why = table.failed.where(table.failed == "", "failed: " + table.failed)
    verdict = verdict.where((table.failed == "") | failed_too, why).where(~out, "left out")
    table = table.assign(admitted=admitted, verdict=verdict)
    asked = table.assign(failed=verdict, chosen_on=table.value if scored else table.chosen_on)
    asked = asked[asked.localization != UNEDITED]
    return table, score_card.worst_case(asked, records(), config.load())


def worst_of(edit: str, **rules: bool) -> str:
    """The worst case of an edit in words."""
    worst = card(**rules)[1]
    for row in worst[worst.localization == edit].itertuples():
        return f"{row.back} of {row.n} by {row.attack} (R {row.value:.2f})"
    return "no attack counts"
