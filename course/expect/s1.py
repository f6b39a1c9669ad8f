"""Session 1: probabilities of all athletes, which formats count, the lens."""

from __future__ import annotations

import pandas
import torch

from course import TABLES
from lib import config, paths
from lib.attacks.logit_lens import answer_states
from lib.facts.formats import answer_tokens, encode, load_formats
from lib.facts.tables import load_table
from lib.measure.formats import Formats
from lib.model import unembed
from lib.model.anatomy import final_norm
from lib.model.loading import load_model
from lib.model.runner import Runner
from lib.store import Store

TASK, SEED, SUBJECT, GATE = "sports-athletes", 0, "Tyrese Haliburton", 0.8
SEVERAL = "pickleball"  # a sport that is two tokens for the default model
CHUNK = 32  # prompts at a time: one row of logits holds a megabyte


def found() -> dict:
    """What the checks of session 1 expect; writes `course/tables/athletes.csv`."""
    settings, store = config.load(), Store("data")
    loaded, formats = load_model(settings.model), load_formats(paths.ROOT / _task(settings).formats)
    form = formats.sets["plays-sport"].training
    tokens = answer_tokens(loaded.tokenizer, form)
    table = athletes(loaded, form, tokens, _table(settings, form))
    table.to_csv(TABLES / "athletes.csv", index=False, float_format="%.6g")
    table = pandas.read_csv(TABLES / "athletes.csv")  # what students read
    return {
        "answer_id": ids(loaded.tokenizer, tokens),
        "p_answer": one_subject(table),
        "known_right": known_right(table, store),
        "answerable": answerable(store),
        "lens": lens(loaded, form, tokens),
    }


def _task(settings):
    return settings.task(TASK)


def _table(settings, form) -> pandas.DataFrame:
    task = _task(settings)
    labels = {"plays-sport": list(form.answers)}
    return load_table(paths.ROOT / task.table, task.subject_column, task.label_column, None, labels)


def athletes(loaded, form, tokens: dict[str, int], table: pandas.DataFrame) -> pandas.DataFrame:
    """Every athlete with the probability of each sport over the whole vocabulary."""
    runner, parts = Runner(loaded.model), []
    for start in range(0, len(table), CHUNK):
        prompts = [form.prompt(s) for s in table.subject[start : start + CHUNK]]
        logits = runner.answer_logits(encode(loaded.tokenizer, prompts))
        parts.append(logits.log_softmax(1)[:, list(tokens.values())].exp())
    p = pandas.DataFrame(torch.cat(parts).numpy(), columns=[f"p_{label}" for label in tokens])
    return pandas.concat([table[["subject", "label"]], p], axis=1)


def ids(tokenizer, tokens: dict[str, int]) -> dict:
    """Ids of the answers, the ids without their space, and a word that is no single token."""
    bare = {w: tokenizer(w, add_special_tokens=False).input_ids[0] for w in tokens}
    return {"ids": tokens, "without_space": bare, "several_tokens": SEVERAL}


def one_subject(table: pandas.DataFrame) -> dict:
    """The three probabilities for one athlete, and what they would be among three words only."""
    p = table.set_index("subject").loc[SUBJECT].filter(like="p_").astype(float)
    among = {"p": p, "among_options": p / p.sum()}
    return {name: [round(float(x), 6) for x in values] for name, values in among.items()}


def known_right(table: pandas.DataFrame, store: Store) -> dict:
    """How many facts are known and how many right, as notebook 01 counted them, and how many each
    typical mistake would call known."""
    asked = store.load("facts/asked", TASK, SEED)
    p = table.filter(like="p_")
    names = [f"p_{label}" for label in table.label]
    true = pandas.Series([p.at[i, name] for i, name in enumerate(names)])
    assert (true - asked.probability).abs().max() < 1e-4, "the facts are those of another model"
    right = int((asked.answer == asked.label).sum())
    mistakes = {
        "right is known": right,
        "confident": int((p.max(axis=1) >= 0.5).sum()),
        "among options": int((true / p.sum(axis=1) >= 0.5).sum()),
    }
    known = int((asked.probability >= 0.5).sum())
    return {"facts": len(asked), "known": known, "right": right, "mistakes": mistakes}


def answerable(store: Store) -> dict:
    """Which formats count, as notebook 01 decided; and which would with each typical mistake."""
    rows = store.load("unedited/unedited", TASK, SEED)
    right = rows.assign(right=rows.answer == rows.true)
    kept = right[right.split == "retain_test"].groupby("format", sort=False)
    by_mistake = {
        "above": kept.right.mean() > GATE,
        "edited facts": right.groupby("format", sort=False).right.mean() >= GATE,
        "mean probability": kept.p_true.mean() >= GATE,
    }
    counts = Formats.load(store.find("unedited", TASK, SEED)).answerable
    mistakes = {n: {k: bool(v) for k, v in found.items()} for n, found in by_mistake.items()}
    shares = {name: round(float(v), 4) for name, v in kept.right.mean().items()}
    different = {name: found for name, found in mistakes.items() if found != counts}
    return {"counts": counts, "shares": shares, "mistakes": different}


def lens(loaded, form, tokens: dict[str, int]) -> dict:
    """Probability of the true answer after each block, read with and without the final norm."""
    states = answer_states(Runner(loaded.model), encode(loaded.tokenizer, [form.prompt(SUBJECT)]))
    hidden, column = states[1:, 0].to(loaded.model.device), list(tokens.values())[1]

    def read(vectors) -> list[float]:
        with torch.no_grad():
            p = unembed.logits(loaded.model, vectors).float().softmax(1)[:, column]
        return [round(x, 6) for x in p.tolist()]

    with torch.no_grad():
        normed = final_norm(loaded.model)(hidden[None])[0]
    return {"p_true": read(normed), "without_norm": read(hidden)}
