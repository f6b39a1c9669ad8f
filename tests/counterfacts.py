"""A CounterFact file of real shape, written from the project's own world facts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pandas

from lib import paths
from lib.facts.formats import load_formats

RELATIONS = ("country-continent", "animal-class", "country-language")


def records(number: int = 200) -> list[dict]:
    """Rows of the ROME distribution: prompt template, targets as records, two paraphrases, two
    neighbours with the same true answer."""
    rng, found = random.Random(0), []
    table = pandas.read_csv(paths.ROOT / "data/raw/world.csv")
    formats = load_formats(paths.ROOT / "data/raw/world_formats.yaml")
    for relation in RELATIONS:
        rows = table[table.relation == relation]
        count = rows.object.value_counts()
        common = count[count >= 3].index[:6]  # so that every fact has two neighbours
        rows = rows[rows.object.isin(common)].groupby("object").head(number // 8)
        training, question, statement = (f.template for f in formats.sets[relation].formats[:3])
        for row in rows.itertuples():
            others = rows[(rows.object == row.object) & (rows.subject != row.subject)].subject
            near = [training.replace("{subject}", s) for s in others[:2]]
            found.append(
                {
                    "case_id": len(found),
                    "pararel_idx": len(found),
                    "requested_rewrite": {
                        "prompt": training.replace("{subject}", "{}"),
                        "relation_id": relation,
                        "subject": row.subject,
                        "target_true": {"str": row.object, "id": f"Q{common.get_loc(row.object)}"},
                        "target_new": _other(rng, list(common), row.object),
                    },
                    "paraphrase_prompts": [
                        form.replace("{subject}", row.subject) for form in (question, statement)
                    ],
                    "neighborhood_prompts": near,
                }
            )
    return found


def _other(rng: random.Random, labels: list[str], true: str) -> dict:
    label = rng.choice([label for label in labels if label != true])
    return {"str": label, "id": f"Q{labels.index(label)}"}


def write(folder: Path) -> dict[str, Path]:
    """{form: file} of the same facts in every public form."""
    rows = records()
    flat = [
        {
            "relation": row["requested_rewrite"]["relation_id"],
            "relation_id": row["requested_rewrite"]["relation_id"],
            "prompt": row["requested_rewrite"]["prompt"].replace(
                "{}", row["requested_rewrite"]["subject"]
            ),
            "subject": " " + row["requested_rewrite"]["subject"],
            "target_true": " " + row["requested_rewrite"]["target_true"]["str"],
            "target_false": " " + row["requested_rewrite"]["target_new"]["str"],
        }
        for row in rows
    ]
    files = {
        "rome-json": folder / "rome.json",
        "rome-csv": folder / "rome.csv",
        "tracing-csv": folder / "tracing.csv",
        "tracing-parquet": folder / "tracing.parquet",
    }
    files["rome-json"].write_text(json.dumps(rows))
    pandas.DataFrame(rows).to_csv(files["rome-csv"], index=False)
    pandas.DataFrame(flat).to_csv(files["tracing-csv"], index=False)
    pandas.DataFrame(flat).to_parquet(files["tracing-parquet"])
    return files
