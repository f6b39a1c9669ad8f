"""CounterFact in both public schemas, mapped to one table; malformed rows are counted and named.

The *ROME* distribution is a json list whose `requested_rewrite` holds a prompt template with `{}`
for the subject and targets without a leading space; the *tracing* distribution has flat rows with
filled prompts and targets with one (section 1.2). ROME's `target_new` is tracing's `target_false`:
the edit target. Neither file is in this repository: give a path, or the id of a data set on the
hub.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas

from lib import paths
from lib.config.errors import read_text, short
from lib.facts.tables import read_csv
from lib.model.names import is_hub_id

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
COLUMNS = ["id", "relation", "subject", "prompt", "true", "edit", "paraphrases", "neighbors"]
KEY = ["relation", "subject", "true", "edit"]
TRACING = ("relation_id", "prompt", "subject", "target_true", "target_false")


def load_counterfact(source: str) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """(facts, rejected): facts with COLUMNS, rejected with columns row, reason.

    source: path of a json, jsonl, csv or parquet file, or a hub id such as
    NeelNanda/counterfact-tracing. FileNotFoundError or ValueError in one sentence if it cannot be
    read or has neither schema.
    """
    rows = _read(source)
    if not rows or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{source} holds no facts: make it a list of CounterFact records")
    first = rows[0]
    if isinstance(first.get("requested_rewrite"), str):
        raise ValueError(
            f"{source} holds `requested_rewrite` as text, as csv files do: save it as json or "
            "parquet"
        )
    if "requested_rewrite" in first:
        parse = _rome
    elif set(TRACING) <= set(first):
        parse = _tracing
    else:
        has = short(", ".join(map(str, first)))
        raise ValueError(
            f"{source} has neither CounterFact schema (it has {has}): "
            f"give it `requested_rewrite`, or {', '.join(TRACING)}"
        )
    facts, rejected = [], []
    for number, row in enumerate(rows):
        try:
            facts.append(_checked(parse(number, row)))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            rejected.append(
                {"row": number, "reason": f"field {error} is missing or of a wrong kind"}
            )
        except ValueError as error:
            rejected.append({"row": number, "reason": short(error)})
    table = pandas.DataFrame(facts, columns=COLUMNS)
    return table, pandas.DataFrame(rejected, columns=["row", "reason"])


def join(
    tracing: pandas.DataFrame, rome: pandas.DataFrame
) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """(facts, rejected): tracing facts with the paraphrases and neighbors of their ROME twins.

    Twins agree in relation, subject and both targets; facts without exactly one twin are rejected,
    by name.
    """
    sides = [t.groupby(KEY).filter(lambda g: len(g) == 1) for t in (tracing, rome)]
    lists = sides[1][[*KEY, "paraphrases", "neighbors"]]
    joined = sides[0].drop(columns=["paraphrases", "neighbors"]).merge(lists, on=KEY)
    lost = tracing[~tracing.id.isin(joined.id)]
    reasons = [
        {"row": r.id, "reason": f"'{r.subject}' has no single twin"} for r in lost.itertuples()
    ]
    return joined[COLUMNS], pandas.DataFrame(reasons, columns=["row", "reason"])


def _rome(number: int, row: dict) -> dict:
    asked = row["requested_rewrite"]
    if asked["prompt"].count("{}") != 1:
        raise ValueError("the prompt has no single place {} for the subject")
    return {
        "id": f"counterfact/{row.get('case_id', number)}",
        "relation": asked["relation_id"],
        "subject": asked["subject"].strip(),
        "prompt": asked["prompt"].replace("{}", asked["subject"].strip()),
        "true": asked["target_true"]["str"].strip(),
        "edit": asked["target_new"]["str"].strip(),
        "paraphrases": _texts(row, "paraphrase_prompts"),
        "neighbors": _texts(row, "neighborhood_prompts"),
    }


def _texts(row: dict, name: str) -> list[str]:
    found = [] if row.get(name) is None else list(row[name])  # parquet gives arrays
    if isinstance(row.get(name), str) or not all(isinstance(text, str) for text in found):
        raise ValueError(f"{name} is no list of texts")
    return found


def _tracing(number: int, row: dict) -> dict:
    return {
        "id": f"counterfact/{row.get('case_id', number)}",
        "relation": row["relation_id"],
        "subject": row["subject"].strip(),
        "prompt": row["prompt"].rstrip(),
        "true": row["target_true"].strip(),
        "edit": row["target_false"].strip(),
        "paraphrases": [],
        "neighbors": [],
    }


def _checked(fact: dict) -> dict:
    empty = [name for name in ("relation", "subject", "prompt", "true", "edit") if not fact[name]]
    if empty:
        raise ValueError(f"{empty[0]} is empty")
    if fact["subject"] not in fact["prompt"]:
        raise ValueError(f"subject '{fact['subject']}' is not in its prompt")
    if fact["true"] == fact["edit"]:
        raise ValueError(f"the edit target of '{fact['subject']}' equals the truth")
    return fact


def _read(source: str):
    path, cure = paths.ROOT / source, "correct the path in `table` of the task"
    if not path.exists() and path.suffix not in SUFFIXES and is_hub_id(source):
        path = _from_hub(source)
    if path.suffix == ".parquet" and path.is_file():
        try:
            return pandas.read_parquet(path).to_dict("records")
        except (ValueError, OSError):  # what pyarrow raises for a file of another kind
            raise ValueError(f"{path.name} is no valid parquet file: get it anew") from None
    if path.suffix == ".csv":
        return read_csv(path, "CounterFact file", cure).to_dict("records")
    text = read_text(path, "CounterFact file", cure)
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except json.JSONDecodeError as error:
        near = short(error.doc[max(error.pos - 20, 0) : error.pos + 20])
        raise ValueError(f"{path.name} is no valid json near {near!r}: get it anew") from None


def _from_hub(name: str) -> Path:
    """The first data file of a hub data set, downloaded once."""
    from huggingface_hub import HfApi, hf_hub_download

    try:
        files = HfApi().list_repo_files(name, repo_type="dataset")
        data = next(f for f in sorted(files) if f.endswith((".parquet", ".json", ".jsonl")))
        return Path(hf_hub_download(name, data, repo_type="dataset"))
    except Exception as error:  # the hub client raises many kinds, all mean the same here
        raise FileNotFoundError(
            f"data set '{name}' could not be had from the hub: check name and network, or give "
            "the path of a local file"
        ) from error
