"""Students' notebooks, solutions and slides, all from the masters: `python -m course.generate`.

A notebook in `course/master` is the only source of a session. In its code cells a solution stands
between the lines `### BEGIN SOLUTION` and `### END SOLUTION`; `ClearSolutions` of nbgrader puts a
stub there (its database is not used). Cells whose metadata have a slide type become slides.
A second run changes no byte.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from traitlets.config import Config

from course import FOLDER

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = "# write your code here\nraise NotImplementedError"
SLIDES = {
    "template_name": "template",
    "extra_template_basedirs": [str(FOLDER / "slides")],
    "reveal_url_prefix": "reveal.js",
    "reveal_theme": "serif",
    "embed_images": True,
    "exclude_input_prompt": True,
    "exclude_anchor_links": True,
}


def masters() -> list[Path]:
    """The masters, in the order of the sessions."""
    return sorted((FOLDER / "master").glob("*.ipynb"))


def student(master):
    """The notebook without solutions and outputs; ImportError without nbgrader."""
    from nbgrader.preprocessors import ClearSolutions

    settings = Config({"ClearSolutions": {"code_stub": {"python": STUB}}})
    settings.ClearSolutions.enforce_metadata = False
    cleared, _ = ClearSolutions(config=settings).preprocess(_without_outputs(master), {})
    return cleared


def solution(master):
    """The notebook with its solutions, without their marks and without outputs."""
    book = _without_outputs(master)
    for cell in book.cells:
        lines = cell.source.split("\n")
        cell.source = "\n".join(line for line in lines if line.strip() not in (BEGIN, END))
    return book


def slides(book, name: str) -> str:
    """The cells with a slide type as one page that loads nothing but the folder `reveal.js`."""
    book = copy.deepcopy(book)
    for cell in book.cells:
        cell.metadata.setdefault("slideshow", {"slide_type": "skip"})
    page, _ = SlidesExporter(**SLIDES).from_notebook_node(book, {"metadata": {"name": name}})
    return "\n".join(line.rstrip() for line in page.splitlines()) + "\n"


def generated() -> dict[Path, str]:
    """{file: its text} of all that is made from the masters."""
    files = {}
    for path in masters():
        master, session = nbformat.read(path, 4), path.stem.split("_")[0]
        cleared = student(master)
        files[FOLDER / "student" / path.name] = nbformat.writes(cleared) + "\n"
        files[FOLDER / "solutions" / path.name] = nbformat.writes(solution(master)) + "\n"
        files[FOLDER / "slides" / f"{session}.html"] = slides(cleared, f"Session {session[1:]}")
    return files


def _without_outputs(master):
    book = copy.deepcopy(master)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return book


def main() -> None:
    """Write everything."""
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(path.relative_to(FOLDER.parent))


if __name__ == "__main__":
    try:
        main()
    except ModuleNotFoundError as missing:
        sys.exit(f"error: {missing.name} is missing: run `make course`, which installs it")
