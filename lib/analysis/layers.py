"""What readers of activations find, layer by layer: the table behind the figure of notebook 34."""

from __future__ import annotations

import pandas

from lib.config.blocks import Settings
from lib.stats import estimate


def by_layer(rows: pandas.DataFrame, settings: Settings) -> pandas.DataFrame:
    """Share of facts for which an answer is read: columns localization, reader, layer, split
    (forget, retain_test), answer (true, edit), value, low, high, n.

    rows: of `battery.on_all`, budget being the layer; the reader is attack and variant.
    """
    rows = rows[rows.split != "never_known"]
    rows = rows.assign(
        split=rows.split.replace({"forget_train": "forget", "forget_heldout": "forget"}),
        reader=(rows.attack.str.replace("-", " ") + " " + rows.variant).str.strip(),
    )
    found = []
    for answer in ("true", "edit"):
        hit = (rows.answer == rows[answer]).groupby(
            [rows[c] for c in ("localization", "reader", "budget", "split")], sort=False
        )
        for (name, reader, layer, split), group in hit:
            if answer == "edit" and split != "forget":
                continue
            key = {"localization": name, "reader": reader, "layer": layer, "split": split}
            share = estimate(group, settings.statistics.level, settings.statistics.resamples)
            found.append(key | {"answer": answer} | vars(share))
    return pandas.DataFrame(found)
