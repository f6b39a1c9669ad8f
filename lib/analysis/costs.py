"""What an edit costs: on the way to its strength, and elsewhere in the model."""

from __future__ import annotations

from dataclasses import replace

import pandas

from lib.analysis.edits import KINDS, Measured, answer_table, carried_table, retained_by_format
from lib.config.blocks import Settings
from lib.facts.records import FORGET
from lib.measure.side_effects import NEIGHBOURS
from lib.stats import summarise
from lib.tables import UNEDITED


def condition_table(
    data: Measured, edits: pandas.DataFrame, answers: pandas.DataFrame, settings: Settings
) -> pandas.DataFrame:
    """The conditions under which settings were chosen, looked at again on the real edits: rows
    (localization, condition, value, limit, met). `vocabulary`: share of the unedited model's
    retained accuracy in formats with other answer words (missing where there are none)."""
    kept = answers[answers.kind == "vocabulary"].groupby("localization")[["retained", "unedited"]]
    share = kept.sum().retained / kept.sum().unedited
    wanted, rows = settings.edit, []
    for r in edits.itertuples():
        words = share.get(r.localization, float("nan"))
        found = {
            "retained": (r.kept, wanted.keep_retained, r.kept >= wanted.keep_retained),
            "text": (r.added, wanted.keep_text, r.added <= wanted.keep_text),
            "vocabulary": (words, wanted.keep_vocabulary, not words < wanted.keep_vocabulary),
        }
        rows += [(r.localization, condition, *of) for condition, of in found.items()]
    return pandas.DataFrame(rows, columns=["localization", "condition", "value", "limit", "met"])


def way_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Formats on the way to the strength: rows (localization, at, strength, what, value), what:
    new and old answers by kind of format, `training` (new answers there) and `retained` (share of
    the unedited model's accuracy on retained facts, mean over formats with other wording or
    vocabulary). All formats count, so that the same ones are compared along the way."""
    if data.way.empty:
        return pandas.DataFrame(columns=["localization", "at", "strength", "what", "value"])
    unedited = data.asked[data.asked.localization == UNEDITED]
    finals = data.asked[data.asked.localization.isin(data.way.localization)]
    strength = data.cards.set_index("localization").strength
    strength = finals.localization.map(strength.groupby(level=0).mean())
    finals = finals.assign(at=1.0, strength=strength)
    every = pandas.concat([data.way, finals], ignore_index=True)
    same = every.split.isin(FORGET) | every.id.isin(finals.id)  # fewer retained facts at the end
    every = every[same]
    base, parts = retained_by_format(unedited[unedited.id.isin(finals.id)]), []
    formats = [n for kind in KINDS for n in data.counted(kind)]
    for (name, at), rows in every.groupby(["localization", "at"], sort=False):
        key = {"localization": name, "at": at, "strength": rows.strength.mean()}
        edited = rows[rows.split.isin(FORGET)]
        shares = {"training new": (edited[edited.format == data.training], "edit")}
        for kind in KINDS:
            mine = edited[edited.format.isin(data.counted(kind))]
            shares |= {f"{kind} new": (mine, "edit"), f"{kind} old": (mine, "true")}
        for what, (part, column) in shares.items():
            if len(part):
                parts.append(key | {"what": what, "value": (part.answer == part[column]).mean()})
        kept = rows[(rows.split == "retain_test") & rows.format.isin(formats)]
        right = (kept.answer == kept.true).groupby(kept.format).mean()
        share = (right / base[UNEDITED].reindex(right.index)).mean()
        parts.append(key | {"what": "retained", "value": share})
    return pandas.DataFrame(parts, columns=["localization", "at", "strength", "what", "value"])


def wordings_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Edits trained on several wordings beside the same trained on one, both asked in formats that
    neither was trained on: `carried_table` with column trained_on."""
    if data.several.empty:
        return pandas.DataFrame(columns=["localization", "kind", "says", "trained_on"])
    number = int(data.several.trained_on.max()) - 1
    heldout = [n for n in data.formats.counted if n not in data.formats.rewordings[:number]]
    names = [n for n in data.several.localization.unique() if n in data.sets]
    unedited, parts = data.asked[data.asked.localization == UNEDITED], []
    for trained_on, rows in ((1, data.asked), (number + 1, data.several)):
        rows = pandas.concat([rows[rows.localization.isin(names)], unedited])
        rows = rows[rows.format.isin(heldout)]
        answers = answer_table(replace(data, asked=rows), settings)
        found = carried_table(data, answers, settings, rows)
        parts.append(found.assign(trained_on=trained_on))
    table = pandas.concat(parts, ignore_index=True)
    return table[table.localization != UNEDITED]


def side_effect_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """After the stored edits: shares of retained facts and of neighbours answered correctly, added
    loss and KL on held-out text, added loss on the second text."""
    kept = data.kept.assign(value=data.kept.answer == data.kept.true)
    near = kept[kept.group == NEIGHBOURS]
    parts = [
        summarise(rows, ["localization"], "value", settings.statistics).assign(measure=measure)
        for measure, rows in (("retained", kept), ("neighbours", near))
        if len(rows)
    ]
    keys = ["seed", "text", "passage"]
    base = data.texts[data.texts.localization == UNEDITED].set_index(keys).loss
    before = base.loc[pandas.MultiIndex.from_frame(data.texts[keys])].to_numpy()
    rows = data.texts.assign(loss=data.texts.loss - before)
    for text in ("heldout", "second"):
        for what in ("loss", "kl"):
            found = summarise(rows[rows.text == text], ["localization"], what, settings.statistics)
            parts.append(found.assign(measure=f"{text}_{what}"))
    table = pandas.concat(parts, ignore_index=True)
    return table[table.localization.isin([*data.sets, UNEDITED])]
