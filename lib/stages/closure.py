"""What a stage computes with, as a few hashed lines: the code it runs and the defaults it uses.

A stage depends on one generated file that lists its notebook's code and every module of `lib` that
code reaches, each with a checksum of its syntax tree. Comments, docstrings, layout and line lengths
are not in a syntax tree as written here, and neither is the Python version. Prose and cells tagged
`parameters` or `play` are left out (parameters come from dvc.yaml); cells tagged `figure` belong to
the drawing stage of the notebook. The schema of the settings counts by the defaults of the blocks
that are read: a new default changes the stages that use it and no other.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from lib import tables
from lib.config.blocks import GROUPS, Settings

SCHEMA, COLUMNS = "lib.config.blocks", "lib.tables"
CHECKS_ONLY = ("lib.config", "lib.config.rules", "lib.config.errors", "lib.config.profiles")
UNHASHED = ("parameters", "play")  # tags of cells that no stage depends on
SKIPPED = ("ctx", "kind", "type_comment", "type_ignores")  # fields of syntax trees
FIGURE = "figure"  # tag of cells that draw saved tables


def canonical(source: str) -> str:
    """A syntax tree in one line: without positions, docstrings and what versions of Python write
    differently."""
    return _written(ast.parse(source))


def _written(node) -> str:
    if isinstance(node, list):
        return "[" + " ".join(map(_written, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {k: v for k, v in ast.iter_fields(node) if k not in SKIPPED}
    if "body" in fields and isinstance(node.body, list):
        fields["body"] = [n for n in node.body if not _is_text(n)]
    if isinstance(node, ast.JoinedStr):
        fields["values"] = list(_merged(node.values))
    parts = [f"{k}={_written(v)}" for k, v in fields.items() if v is not None and v != []]
    if isinstance(node, ast.Constant):
        parts = [repr(node.value)]
    return f"{type(node).__name__}({' '.join(parts)})"


def _is_text(node) -> bool:
    """Is it a docstring, or another text that stands by itself?"""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _merged(values: list) -> Iterator[ast.AST]:
    """Parts of an f-string with neighbouring texts joined: versions of Python cut them
    differently."""
    text = ""
    for value in values:
        if isinstance(value, ast.Constant):
            text += value.value
            continue
        if text:
            yield ast.Constant(text)
        yield value
        text = ""
    if text:
        yield ast.Constant(text)


def digest(text: str) -> str:
    """A short checksum of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Library:
    """The modules of `lib` in a folder, parsed once: what they reach and which settings they
    read."""

    def __init__(self, root: Path):
        files = sorted((root / "lib").rglob("*.py"))
        self.trees = {_module(f.relative_to(root)): ast.parse(f.read_text()) for f in files}
        self.attacks = [m for m, t in self.trees.items() if _is_attack(m, t)]
        self.imports = {m: self._imports(t) for m, t in self.trees.items()}
        self.settings = {m: _settings(t) for m, t in self.trees.items() if not _is_config(m)}
        self.columns = {m: _columns(t) for m, t in self.trees.items()}
        self.digests = {m: digest(_written(t)) for m, t in self.trees.items()}
        self.digests[SCHEMA] = digest(_written(_without_fields(self.trees[SCHEMA])))

    def reached(self, tree: ast.Module) -> list[str]:
        """Every module that code runs, directly or through another, in order of name."""
        todo, seen = self._imports(tree) | self._by_name(tree), {"lib"}
        while todo:
            module = todo.pop()
            seen.add(module)
            found = self.imports[module]
            if module == "lib.analysis.score_card":
                found |= set(self.attacks)  # it asks every attack what it sees
            todo |= found - seen
        return sorted(seen)

    def _imports(self, tree: ast.AST) -> set[str]:
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
            elif isinstance(node, ast.Import):
                found |= {a.name for a in node.names}
        packages = {m.rsplit(".", k)[0] for m in found for k in range(1, m.count(".") + 1)}
        return (found | packages) & set(self.trees)

    def _by_name(self, tree: ast.AST) -> set[str]:
        """Attacks that are found by name: those named in the code, all where settings name them."""
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        if "lib.attacks.battery" not in self._imports(tree):
            return set()
        if any(_chooses(n) for n in ast.walk(tree)):
            return set(self.attacks)
        return {m for m in self.attacks if m.rsplit(".", 1)[1] in texts}

    def blocks(self, tree: ast.Module) -> list[str]:
        """Blocks of params.yaml that code reads, itself or in modules it reaches."""
        found = set(_attributes(tree, {"settings"})) | _groups(tree)
        found |= {b for m in self.reached(tree) for b in self.settings.get(m, ())}
        if "lib.analysis.score_card" in self.reached(tree):
            found |= {f"attack_{group}" for group in GROUPS}
        names = {"task": "tasks", "localization": "localizations"}
        return sorted({names.get(b, b) for b in found} & set(Settings.model_fields))

    def lists(self, tree: ast.Module) -> list[tuple[str, object]]:
        """(name, value) of the lists of columns that code computes with."""
        found = _columns(tree).union(*(self.columns[m] for m in self.reached(tree)))
        return [(name, getattr(tables, name)) for name in sorted(found - {"TABLES", "STAGES"})]

    def manifest(self, code: str) -> str:
        """The lines that a stage depends on: code, modules reached, defaults of blocks read."""
        tree = ast.parse(code)
        lines = [f"code {digest(_written(tree))}"]
        for module in self.reached(tree):
            if module == COLUMNS:
                lines += [
                    f"{module}.{name} {digest(repr(value))}" for name, value in self.lists(tree)
                ]
            elif module not in CHECKS_ONLY:
                lines.append(f"{module} {self.digests[module]}")
        for block in self.blocks(tree):
            lines += [f"default {name} = {value}" for name, value in _defaults(block)]
        return "\n".join(lines) + "\n"


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _is_attack(module: str, tree: ast.Module) -> bool:
    names = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    return module.startswith("lib.attacks.") and "attack" in names


def _attributes(tree: ast.AST, names: set[str]) -> Iterator[str]:
    """Attributes that code reads of variables called `names`."""
    for node in ast.walk(tree):
        of_name = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if of_name and node.value.id in names:
            yield node.attr


def _is_config(module: str) -> bool:
    return module.startswith("lib.config")


def _settings(tree: ast.Module) -> set[str]:
    """Blocks of params.yaml that the functions of a module read from a `Settings` argument."""
    found = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            given = {a.arg for a in function.args.args if _is_settings(a, tree)}
            found |= set(_attributes(function, given))
    return found


def _columns(tree: ast.Module) -> set[str]:
    """Names that code takes from the lists of columns."""
    nodes = (n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == COLUMNS)
    return {name for node in nodes for name in _names(node)}


def _is_settings(argument: ast.arg, tree: ast.Module) -> bool:
    """Is an argument the whole of params.yaml, and not a block of that name?"""
    imported = any(
        isinstance(n, ast.ImportFrom) and n.module == SCHEMA and "Settings" in _names(n)
        for n in tree.body
    )
    return (
        imported
        and isinstance(argument.annotation, ast.Name)
        and (argument.annotation.id == "Settings")
    )


def _names(node: ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names]


def _chooses(node) -> bool:
    """Is it a call of `battery.chosen`, which takes attacks from the settings?"""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "battery.chosen"


def _groups(tree: ast.Module) -> set[str]:
    """Groups of attacks that code chooses by name."""
    found = set()
    for node in ast.walk(tree):
        if _chooses(node):
            found |= {f"attack_{a.value}" for a in node.args if isinstance(a, ast.Constant)}
    return found


def _without_fields(tree: ast.Module) -> ast.Module:
    """The schema's code without its parameters, which count by their defaults."""
    tree = copy.deepcopy(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            node.body = [n for n in node.body if not isinstance(n, ast.AnnAssign)]
    return tree


@cache
def _schema() -> dict:
    return Settings.model_json_schema()


def _defaults(block: str) -> list[tuple[str, str]]:
    """(parameter, default) of a block of params.yaml and of the blocks in it."""
    schema = _schema()
    kinds = re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema["properties"][block]))
    found = []
    for kind in kinds:
        for name, field in sorted(schema["$defs"][kind].get("properties", {}).items()):
            if "default" in field:
                found.append((f"{block}.{name}", json.dumps(field["default"])))
    return found


def cells(notebook: dict, figures: bool = False) -> list[dict]:
    """The code cells that a stage runs: those that compute, or those that draw."""
    found = []
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        hashed = cell["cell_type"] == "code" and not set(UNHASHED) & set(tags)
        if hashed and (FIGURE in tags) == figures:
            found.append(cell)
    return found


def code_of(notebook: dict, figures: bool = False) -> str:
    """The code that is hashed, as one text."""
    return "\n\n".join("".join(cell["source"]) for cell in cells(notebook, figures))


def runnable(notebook: dict, figures: bool = False) -> dict:
    """The notebook that a stage executes: parameters, the cells it runs and, if it computes, the
    prose; what is not hashed does not run."""
    kept = {cell["id"] for cell in cells(notebook, figures)}
    prose = set() if figures else {"markdown"}
    shown = [
        cell
        for cell in notebook["cells"]
        if cell["id"] in kept
        or cell["cell_type"] in prose
        or "parameters" in cell["metadata"].get("tags", [])
    ]
    return notebook | {"cells": shown}
