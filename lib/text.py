"""Plain text that an edit must leave alone: sampled once from the unedited model, or from a file.

Nothing can be downloaded on a fresh laptop, so the default text is what the model itself writes
(temperature 1, fixed seed): text it is good at, on which any damage shows. A second text that no
training ever used comes from the documentation that ships with Python (`pydoc_data.topics`).
`python -m lib.text` is the `text` stage.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lib import paths


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


def load(folder: Path = paths.TEXT) -> dict[str, list[tuple[int, ...]]]:
    """{"train", "heldout", "second"}: passages as token ids, made by the `text` stage."""
    path = folder / "passages.json"
    if not path.exists():
        raise FileNotFoundError(f"no text at {path.name}: run `dvc repro text` first")
    return {k: [tuple(p) for p in v] for k, v in json.loads(path.read_text()).items()}


def main() -> None:
    """The `text` stage: sample or cut the passages and write them."""
    from lib import config, models

    settings = config.load()
    loaded = models.load(settings.model.name, settings.model.device, settings.model.dtype)
    wanted = settings.text
    if wanted.source:
        text = Path(wanted.source).read_text()
        passages = chunks(loaded.tokenizer, text, wanted.passages, wanted.tokens)
    else:
        passages = sample(
            loaded.model, loaded.tokenizer, wanted.passages, wanted.tokens, wanted.seed
        )
    parts = split(passages, wanted.train)
    n_second = len(parts["heldout"])
    parts["second"] = chunks(loaded.tokenizer, second_text(), n_second, wanted.tokens)
    paths.TEXT.mkdir(parents=True, exist_ok=True)
    (paths.TEXT / "passages.json").write_text(json.dumps(parts) + "\n")
    print(
        f"text: {', '.join(f'{len(v)} {k}' for k, v in parts.items())} passages of "
        f"{wanted.tokens} tokens"
    )


if __name__ == "__main__":
    main()
