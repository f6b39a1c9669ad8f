"""The floors of the library: which may stand on which, how large they are, what they load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from lib import paths

FILES = sorted((paths.ROOT / "lib").rglob("*.py"))


def code_lines(path: Path) -> int:
    """Lines that are neither empty, comments nor docstrings."""
    source = path.read_text()
    documented = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    texts = sum(
        node.body[0].end_lineno - node.body[0].lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, documented) and ast.get_docstring(node)
    )
    lines = [line.strip() for line in source.splitlines()]
    return sum(1 for line in lines if line and not line.startswith("#")) - texts


def test_no_floor_stands_on_one_above_it():
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [program, "--no-cache"], cwd=paths.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "2 kept, 0 broken" in done.stdout


def test_the_settings_load_no_torch():
    code = "import sys; from lib import config; config.load(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(paths.ROOT)))
def test_files_and_functions_are_short(path):
    source = path.read_text()
    assert len(source.splitlines()) < 330
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 45, node.name


def test_the_library_stays_thin():
    assert sum(map(code_lines, FILES)) <= 7833, "structure and libraries pay for features"
    assert len((paths.ROOT / "dvc.yaml").read_text().splitlines()) < 600
