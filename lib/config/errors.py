"""What settings are made of, and what is wrong with one, or with a file, in one sentence that names
it and the cure."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lib import paths

NAME = re.compile(r"(?!(?:true|false|none|null|nan|inf|infinity)$)[a-z][a-z0-9_-]{0,63}", re.I)


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("a name is a letter and then at most 63 letters, digits, `_` and `-`")
    return name


def _distinct(items: list) -> list:
    twice = [item for item in items if items.count(item) > 1]
    if twice:
        raise ValueError(f"it lists {twice[0]!r} twice, delete one of the two")
    return items


T = TypeVar("T")
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=4_000_000)]  # 1000 times as much still fits 32 bits
Word = Annotated[str, Field(min_length=1)]
Name = Annotated[str, AfterValidator(_named)]  # of a folder and of a stage of the pipeline
Distinct = Annotated[list[T], AfterValidator(_distinct)]
Some = Annotated[list[T], Field(min_length=1), AfterValidator(_distinct)]


class Block(BaseModel):
    """A group of settings: unknown names and values of a wrong type are refused; immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def but(self, **changes) -> Self:
        """The same with other values, checked like those of params.yaml; ValueError in one
        sentence."""
        return checked(type(self), self.model_dump() | changes, type(self).__name__)


def checked(block: type[BaseModel], raw, where: str = ""):
    """A block made of plain values; ValueError in one sentence. where: its place in params.yaml."""
    try:
        return block.model_validate(raw)
    except ValidationError as error:
        raise ValueError(short(sentence(error.errors()[0], block, where), 400)) from None


def sentence(error: dict, block: type[BaseModel], where: str = "") -> str:
    """One of pydantic's errors about a block at `where` in words."""
    steps = (where, *error["loc"]) if where else error["loc"]
    place = ".".join(str(step) for step in steps if step != "[key]")
    if error["type"] == "extra_forbidden":
        known = _names_at(block, error["loc"][:-1])
        hint = closest(error["loc"][-1], known) or f" (known: {', '.join(known)})"
        return f"params.yaml has an unknown parameter '{place}'{hint}: correct or delete it"
    if error["type"] == "missing":
        return f"params.yaml lacks the parameter '{place}': add it"
    hint, says = "", str(error.get("ctx", {}).get("error", "")) or error["msg"].lower()
    if error["type"] == "literal_error":
        choices = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        hint = closest(error["input"], choices)
    if error["type"] in ("int_type", "float_type") and isinstance(error["input"], str):
        says += " without quotes" + " (1e-5 is written 1.0e-5)" * (error["type"] == "float_type")
    value = short(repr(error["input"]), 60)
    return f"params.yaml has a bad value {value} for '{place}'{hint}: {says}; correct it"


def _names_at(block, location: tuple) -> list[str]:
    """Names of the parameters allowed at a place inside a block."""
    for step in location:
        field = block.model_fields.get(step) if isinstance(block, type) else None
        kind = field.annotation if field else block
        arguments = getattr(kind, "__args__", ())
        block = arguments[-1] if arguments else kind
        if field and arguments:  # a dict of blocks: the next step is its key
            return list(block.model_fields)
    return list(block.model_fields)


@contextmanager
def on_the_command_line():
    """Ends the program with the one sentence of what is wrong, if anything is."""
    try:
        yield
    except (ValueError, OSError) as problem:
        sys.exit(f"error: {problem}")


def pick(kind: str, name: str, table: dict):
    """The entry of a table; ValueError names those there are."""
    if name not in table:
        hint = closest(name, table)
        raise ValueError(f"unknown {kind} {name!r}{hint}: use a key of `{kind}s` in params.yaml")
    return table[name]


def closest(name, names) -> str:
    """ " (did you mean ...?)", or nothing where no name is close."""
    close = get_close_matches(str(name), [str(n) for n in names], 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def short(text, most: int = 200) -> str:
    """A text on one line, without its middle where it is longer than `most`."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 43]}...{line[-40:]}"


def read_text(path: Path, what: str, cure: str) -> str:
    """A file of text; FileNotFoundError, OSError or ValueError in one sentence that ends in
    `cure`."""
    if not path.is_file():
        shown = path.relative_to(paths.ROOT) if path.is_relative_to(paths.ROOT) else path
        raise FileNotFoundError(f"no {what} at {shown}: {cure}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is no utf-8 text: save it as utf-8, or {cure}") from None
    except OSError as error:
        raise OSError(f"{what} {path} cannot be read ({error.strerror}): {cure}") from None


class _Loader(yaml.SafeLoader):
    """yaml in which a key stands once."""

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"'{key.value}' stands twice"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node


def read_yaml(path: Path, what: str, cure: str):
    """The content of a yaml file; FileNotFoundError, OSError or ValueError in one sentence."""
    text = read_text(path, what, cure)
    try:
        return yaml.load(text, _Loader)
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: a date like 2024-13-01
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        says = f" at line {mark.line + 1} ({problem})" if mark else f" ({short(error, 80)})"
        raise ValueError(
            short(f"{path.name} is no valid yaml{says}: correct it, or {cure}", 300)
        ) from None
