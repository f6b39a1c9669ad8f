"""Profiles: other values merged into params.yaml (JSON merge patch: null deletes a key)."""

from __future__ import annotations

from pathlib import Path

import yaml

from lib import paths
from lib.config.errors import read_yaml
from lib.config.rules import parse


def merge(base: dict, patch: dict) -> dict:
    """JSON merge patch (RFC 7386) in place: mappings merge, null deletes, anything else
    replaces."""
    for key, value in patch.items():
        if value is None:
            base.pop(key, None)
        elif isinstance(value, dict):
            base[key] = merge(base[key] if isinstance(base.get(key), dict) else {}, value)
        else:
            base[key] = value
    if not base and hasattr(base, "fa"):  # written with its comments: {} stays on the key's line
        base.fa.set_flow_style()
    return base


def apply_profile(profile: Path, params: Path = paths.PARAMS) -> None:
    """Merge a profile into params.yaml, keeping the comments; nothing is written if the result is
    bad."""
    from ruamel.yaml import YAML

    names = ", ".join(sorted(p.stem for p in (paths.ROOT / "profiles").glob("*.yaml")))
    patch = read_yaml(profile, "profile", f"name one of {names} in profiles/") or {}
    if not isinstance(patch, dict):
        raise ValueError(f"{profile.name} must map blocks of params.yaml to values: correct it")
    writer = YAML()
    writer.width = 110
    writer.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    # YAML 1.1 readers, pipelines among them, take 1e-05 for a word and 1.0e-05 for a number
    writer.representer.add_representer(
        float,
        lambda dumper, x: dumper.represent_scalar(
            "tag:yaml.org,2002:float", yaml.safe_dump(x).split("\n")[0]
        ),
    )
    parse(merge(yaml.safe_load(params.read_text()), patch))
    merged = merge(writer.load(params.read_text()), patch)
    with params.open("w") as file:
        writer.dump(merged, file)
