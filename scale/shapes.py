"""A model's shape by name, and the model itself without any weights.

The configuration comes from `shapes.yaml`, from a prepared, local or cached folder, or from the
hub. `meta_model` builds the model on PyTorch's meta device: all shapes, no bytes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import yaml

from lib import paths
from lib.config.blocks import ModelSettings
from lib.model.names import PACKAGED, TINY

HERE = Path(__file__).parent
OURS = ("type", "lookup")  # entries of shapes.yaml that are no names of transformers


@cache
def typed() -> dict[str, dict]:
    """shapes.yaml."""
    return yaml.safe_load((HERE / "shapes.yaml").read_text())


def config_of(name: str):
    """The transformers configuration of a model; OSError in one sentence if it cannot be had."""
    from transformers import AutoConfig

    if name in typed():
        shape = {k: v for k, v in typed()[name].items() if k not in OURS}
        return AutoConfig.for_model(typed()[name]["type"], **shape)
    prepared = name in (*PACKAGED, *TINY)
    source = paths.model(name) if prepared else name
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        cure = (
            f"run `dvc repro model` with model.name {name}"
            if prepared
            else (
                "type its shape into scale/shapes.yaml, or check the name, the network and "
                "your access (`hf auth login`)"
            )
        )
        raise OSError(f"the shape of model '{name}' is not at hand: {cure}") from error


def meta_model(settings: ModelSettings, config=None):
    """The model of some settings on the meta device, in its dtype, evaluation mode and frozen, as
    `lib.model.loading.load_model` would give it."""
    from transformers import AutoModelForCausalLM

    config = config or config_of(settings.name)
    dtype = getattr(torch, settings.dtype)
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
    return made.eval().requires_grad_(False)


def lookup_of(name: str, layers: int, number: int | None) -> list[int]:
    """The MLPs that a plan takes for fact lookup, which only a run can find: those of shapes.yaml,
    or `number` (default: a fifth of all) in the first third of the model."""
    known = typed().get(name, {}).get("lookup", [])
    count = min(number or len(known) or max(1, layers // 5), layers)
    start = known[0] if known else min(layers // 9, layers - count)
    return known if len(known) == count else list(range(start, start + count))
