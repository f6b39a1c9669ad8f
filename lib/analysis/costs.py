"""What an edit costs: on the way to its strength, and elsewhere in the model."""

from __future__ import annotations

import pandas

from lib.analysis.edits import Measured, depth_and_strength
from lib.config.blocks import Settings
from lib.measure.side_effects import NEIGHBOURS
from lib.stats import summarise
from lib.tables import UNEDITED


def frontier_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Where every pair of the grid led on validation facts: the trials with columns `retained`
    (share of the unedited model's probability that is kept), `text` (added loss, nats) and
    `chosen`, whether the rule took that pair."""
    keys = ["localization", "seed"]
    rows = data.trials.merge(
        data.cards[[*keys, *(c for c in ("lr", "weight_edit") if c in data.cards)]],
        on=keys,
        suffixes=("", "_chosen"),
    )
    groups = rows.groupby([*keys, "lr", "weight_edit"], sort=False)
    rows["retained"] /= groups.retained.transform("first")
    rows["text"] -= groups.text.transform("first")
    rows["chosen"] = (rows.lr == rows.lr_chosen) & (rows.weight_edit == rows.weight_edit_chosen)
    return rows.drop(columns=["lr_chosen", "weight_edit_chosen"])


def side_effect_table(data: Measured, settings: Settings) -> pandas.DataFrame:
    """Shares of retained facts and of neighbours answered correctly, added loss and KL on held-out
    text, added loss on the second text."""
    kept = data.kept[data.kept.localization != UNEDITED]
    kept = kept.assign(value=kept.answer == kept.true)
    near = kept[kept.group == NEIGHBOURS]
    parts = [
        summarise(rows, ["localization"], "value", settings.statistics).assign(measure=measure)
        for measure, rows in (("retained", kept), ("neighbours", near))
        if len(rows)
    ]
    keys = ["seed", "text", "passage"]
    base = data.texts[data.texts.localization == UNEDITED].set_index(keys).loss
    rows = data.texts[data.texts.localization != UNEDITED]
    rows = rows.assign(
        added=rows.loss - base.loc[pandas.MultiIndex.from_frame(rows[keys])].to_numpy()
    )
    for text, column, measure in (
        ("heldout", "added", "heldout_loss"),
        ("heldout", "kl", "heldout_kl"),
        ("second", "added", "second_loss"),
        ("second", "kl", "second_kl"),
    ):
        found = summarise(rows[rows.text == text], ["localization"], column, settings.statistics)
        parts.append(found.assign(measure=measure))
    table = pandas.concat(parts, ignore_index=True)
    return table.merge(depth_and_strength(data).reset_index(), on="localization")
