"""Plain text that an edit must leave alone: sampled once from the unedited model, or from a file.

Nothing can be downloaded on a fresh laptop, so the default text is what the model itself writes
(temperature 1, fixed seed): text it is good at, on which any damage shows. A second text that no
training ever used comes from the documentation that ships with Python (`pydoc_data.topics`).
`lib.stages.text` is the stage.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lib import paths
from lib.config.blocks import Text
from lib.store import Store


@torch.no_grad()
def sample(model, tokenizer, n: int, length: int, seed: int, batch: int = 64) -> list[list[int]]:
    """N passages of `length` tokens sampled from the model after its first token, as token ids."""
    from tqdm.auto import tqdm

    device = next(model.parameters()).device
    torch.manual_seed(seed)
    passages = []
    for start in tqdm(range(0, n, batch), desc="sampling text"):
        size = min(batch, n - start)
        first = torch.full((size, 1), tokenizer.bos_token_id, device=device)
        out = model.generate(
            first,
            attention_mask=torch.ones_like(first),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            min_new_tokens=length - 1,
            max_new_tokens=length - 1,
            pad_token_id=tokenizer.pad_token_id,
        )
        passages += out.tolist()
    return passages


def chunks(tokenizer, text: str, n: int, length: int) -> list[list[int]]:
    """The first n passages of `length` tokens of a text, each opened like a document.

    ValueError if the text is too short.
    """
    ids = tokenizer(text, add_special_tokens=False).input_ids
    size = length - 1
    if len(ids) < n * size:
        raise ValueError(
            f"the text has {len(ids)} tokens, {n * size} are needed: lower text.passages or "
            "add text"
        )
    return [[tokenizer.bos_token_id, *ids[i * size : (i + 1) * size]] for i in range(n)]


def second_text() -> str:
    """Python's own reference documentation: a text that no edit and no attack is trained on."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[key] for key in sorted(topics))


def split(passages: list[list[int]], train_share: float) -> dict[str, list[tuple[int, ...]]]:
    """{"train": ..., "heldout": ...} by passage."""
    cut = round(len(passages) * train_share)
    as_tuples = [tuple(p) for p in passages]
    return {"train": as_tuples[:cut], "heldout": as_tuples[cut:]}


def load(folder: Path) -> dict[str, list[tuple[int, ...]]]:
    """{"train", "heldout", "second"}: passages as token ids, made by the `text` stage."""
    found = json.loads((folder / "passages.json").read_text())
    return {k: [tuple(p) for p in v] for k, v in found.items()}


def make(loaded, settings: Text) -> dict[str, list]:
    """{"train", "heldout", "second"}: passages as token ids, sampled or cut from a file."""
    if settings.source:
        text = (paths.ROOT / settings.source).read_text(encoding="utf-8")
        passages = chunks(loaded.tokenizer, text, settings.passages, settings.tokens)
    else:
        size = settings.passages, settings.tokens, settings.seed
        passages = sample(loaded.model, loaded.tokenizer, *size)
    parts = split(passages, settings.train)
    second = chunks(loaded.tokenizer, second_text(), len(parts["heldout"]), settings.tokens)
    return parts | {"second": second}


def save(parts: dict[str, list], folder: Path) -> None:
    """Write passages.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "passages.json").write_text(json.dumps(parts) + "\n")


def at_hand(loaded, settings: Text, store: Store) -> None:
    """Make the passages if nobody has (half a minute): for stepping by hand before the pipeline
    ran."""
    if not store.has("text", file="passages.json"):
        save(make(loaded, settings), store.folder("text"))
