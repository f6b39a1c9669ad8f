"""Language models by name: packaged weights, hub ids, local folders, tiny models of every family.

`load_model` gives the model that every notebook works on, from the plain folder that
`lib.model.prepare` has written.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from lib import paths
from lib.config.blocks import ModelSettings
from lib.model.matmul import set_matmul
from lib.model.names import PACKAGED, TINY, check_name

IDENTITY = "identity.json"  # written beside the weights: which bytes a stored edit belongs to


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to use: eval mode, no gradients; checksum identifies its weights."""

    name: str
    model: torch.nn.Module
    tokenizer: object
    checksum: str


def load_model(settings: ModelSettings) -> LoadedModel:
    """The model of params.yaml in evaluation mode with frozen weights, on its device.

    Raises ValueError for an unknown name, FileNotFoundError if its folder has not been prepared,
    OSError with the cure if a hub model cannot be had.
    """
    from transformers import AutoModelForCausalLM

    name = settings.name
    check_name(name)
    prepared = name in (*PACKAGED, *TINY)
    source = str(paths.model(name)) if prepared else name
    local = Path(source).is_dir()
    if prepared and not local:
        raise FileNotFoundError(
            f"model '{name}' has not been prepared: run `dvc repro model` first"
        )
    try:
        tokenizer = _prepared_tokenizer(Path(source)) if prepared else _tokenizer(source)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, settings.dtype), attn_implementation="eager"
        )
    except (OSError, ValueError) as error:  # transformers raises either for a bad folder
        raise OSError(
            f"model '{name}' could not be loaded from the hub or a local folder: check the "
            "name, the network and "
            f"your access (`hf auth login`), or use a packaged model such as {next(iter(PACKAGED))}"
        ) from error
    set_matmul(settings.matmul)
    model = model.to(pick_device(settings.device)).eval().requires_grad_(False)
    checksum = _checksum(Path(source), model) if local else _commit(model)
    return LoadedModel(name, model, tokenizer, checksum)


def pick_device(device: str) -> torch.device:
    """The named device, or for "auto" an accelerator if there is one; ValueError if it is not
    there."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device == "auto":
        return found or torch.device("cpu")
    wanted = torch.device(device)
    if wanted.type != "cpu" and (found is None or found.type != wanted.type):
        raise ValueError(
            f"model.device is '{device}', but this machine has no such device for torch: set it to "
            "auto or cpu in params.yaml"
        )
    return wanted


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch, and ask torch for repeatable kernels."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tokenizer(source: str):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source)


def _prepared_tokenizer(folder: Path):
    """The tokenizer that `prepare` saved, without parsing its 33 MB file in Python several times.

    Every notebook run loads it; this takes a third of the usual time and gives the same tokens.
    """
    from transformers import PreTrainedTokenizerFast

    saved = json.loads((folder / "tokenizer_config.json").read_text())
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    special = {name: saved[name] for name in names if saved.get(name)}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)


def _checksum(folder: Path, model) -> str:
    identity = folder / IDENTITY
    if identity.exists():
        return json.loads(identity.read_text())["sha256"]
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(sha256(file).encode())
    return digest.hexdigest()


def _commit(model) -> str:
    return f"commit {getattr(model.config, '_commit_hash', None)}"
