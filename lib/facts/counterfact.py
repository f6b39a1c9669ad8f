"""CounterFact in every public form, mapped to one table; malformed rows are counted and named.

The *ROME* distribution is a json list whose `requested_rewrite` holds a prompt template with `{}`
for the subject and targets as records with `str`; the *tracing* distribution has flat rows with
filled prompts and targets with a leading space (section 1.2). ROME's `target_new` is tracing's
`target_false`: the edit target. In csv files lists and records are written out as text. A row is
read by what it holds, so all forms go through one function. No file is in this repository: give a
path, or the id of a data set on the hub.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pandas

from lib import paths
from lib.config.errors import read_text, short
from lib.facts.tables import read_csv
from lib.model.names import is_hub_id

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
COLUMNS = ["id", "relation", "subject", "prompt", "true", "edit", "paraphrases", "neighbors"]
FIELDS = ("relation_id", "prompt", "subject", "target_true")
RECORDS = ("requested_rewrite", "target_true", "target_new", "target_false")
LISTS = ("paraphrase_prompts", "neighborhood_prompts")


def load_counterfact(source: str) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """(facts, rejected): facts with COLUMNS, rejected with columns row, reason.

    source: path of a json, jsonl, csv or parquet file, or a hub id such as
    NeelNanda/counterfact-tracing. FileNotFoundError or ValueError in one sentence if it cannot be
    read or is no CounterFact.
    """
    rows = _read(source)
    if not rows or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{source} holds no facts: make it a list of CounterFact records")
    first = {str(name).removeprefix("requested_rewrite.").split(".")[0] for name in rows[0]}
    if "requested_rewrite" not in first and not set(FIELDS) <= first:
        has = short(", ".join(map(str, rows[0])))
        raise ValueError(
            f"{source} has neither CounterFact schema (it has {has}): "
            f"give it `requested_rewrite`, or {', '.join(FIELDS)} and target_false or target_new"
        )
    facts, rejected = [], []
    for number, row in enumerate(rows):
        try:
            facts.append(_checked(_fact(number, _flat(row))))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            rejected.append(
                {"row": number, "reason": f"field {error} is missing or of a wrong kind"}
            )
        except ValueError as error:
            rejected.append({"row": number, "reason": short(error)})
    table = pandas.DataFrame(facts, columns=COLUMNS)
    return table, pandas.DataFrame(rejected, columns=["row", "reason"])


def _flat(row: dict) -> dict:
    """A row without nesting: {field: text, or list of texts}, whatever form it came in."""
    found = {}
    for name, value in row.items():
        value = _opened(name, value)
        if name == "requested_rewrite":
            found |= _flat(dict(value))
        elif isinstance(value, dict) and name in RECORDS:
            found[name] = value["str"]
        else:
            found[str(name).removeprefix("requested_rewrite.").removesuffix(".str")] = value
    return found


def _opened(name: str, value):
    """A list or record that a csv cell holds as text; ValueError if it cannot be read."""
    nested = name in RECORDS and str(value).startswith("{") or name in LISTS
    if not isinstance(value, str) or not nested:
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value) if value.strip() else []
        except (ValueError, SyntaxError):
            continue
    raise ValueError(f"{name} is no {'list of texts' if name in LISTS else 'record'}")


def _fact(number: int, row: dict) -> dict:
    prompt, subject = row["prompt"], row["subject"].strip()
    if prompt.count("{}") > 1 or "{}" not in prompt and subject not in prompt:
        raise ValueError(f"the prompt has no single place {{}} for the subject, nor '{subject}'")
    return {
        "id": f"counterfact/{row.get('case_id', number)}",
        "relation": row["relation_id"],
        "subject": subject,
        "prompt": prompt.replace("{}", subject).rstrip(),
        "true": row["target_true"].strip(),
        "edit": (row["target_new"] if "target_new" in row else row["target_false"]).strip(),
        "paraphrases": _texts(row, "paraphrase_prompts"),
        "neighbors": _texts(row, "neighborhood_prompts"),
    }


def _texts(row: dict, name: str) -> list[str]:
    found = row.get(name)
    found = [] if found is None or isinstance(found, float) else list(found)  # parquet: arrays
    if not all(isinstance(text, str) for text in found) or isinstance(row.get(name), str):
        raise ValueError(f"{name} is no list of texts")
    return [text.rstrip() for text in found]


def _checked(fact: dict) -> dict:
    empty = [name for name in ("relation", "subject", "prompt", "true", "edit") if not fact[name]]
    if empty:
        raise ValueError(f"{empty[0]} is empty")
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
