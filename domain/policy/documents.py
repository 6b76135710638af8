"""Documents that people write, read without trust, all problems at once; never what they mean."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import Any, Final, TypeVar, cast

import yaml

from domain.errors import FieldError as Problem
from domain.errors import Unprocessable
from domain.values import Json, format_time

MAX_TEXT: Final = 1024 * 1024  # bytes; the API's own limit of a body
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 200_000  # counted with every alias written out
MAX_WORD: Final = 200

T = TypeVar("T")
D = TypeVar("D")


class PolicyInvalid(Unprocessable):
    """The policy cannot be used; each error names its place and says what to do."""

    code = "POLICY_INVALID"

    def __init__(self, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(errors=problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(f"{problem.path or '/'}: {problem.message}" for problem in self.problems)


# -- text → mapping -------------------------------------------------------------------------------------


def read_policy_text(text: str | bytes) -> Mapping[str, Json]:
    """YAML or JSON as a mapping of JSON values; raises PolicyInvalid.

    Bounded in size, depth and written-out aliases before anything is built; a key given twice is refused.
    """
    written = _decode(text)
    if written.lstrip()[:1] == "{":
        try:
            return policy_to_json(json.loads(written, object_pairs_hook=_unique_pairs, parse_constant=_no_constant))
        except RecursionError:
            raise _unreadable(f"the document is nested deeper than {MAX_DEPTH} levels; flatten it") from None
        except json.JSONDecodeError:
            pass  # a YAML mapping may open with a brace too
        except ValueError as error:
            raise _unreadable(str(error)) from None
    return policy_to_json(_load_yaml(written))


def policy_to_json(document: object) -> dict[str, Json]:
    """The document as stored: JSON values, times as RFC 3339 in UTC, dates as text; raises PolicyInvalid."""
    problems: list[Problem] = []
    plain = _Plainer(problems).make_plain(document, "", 0)
    if not isinstance(plain, dict):
        problems.append(Problem("", f"write a mapping that begins with `policy: <name>`, not {describe(plain)}"))
    if problems:
        raise PolicyInvalid(tuple(problems))
    return cast("dict[str, Json]", plain)


def _unreadable(message: str) -> PolicyInvalid:
    return PolicyInvalid((Problem("", message),))


def _decode(text: str | bytes) -> str:
    if len(text) > MAX_TEXT:
        raise _unreadable(f"the document is larger than {MAX_TEXT // 1024} KiB; one policy never needs that much")
    if isinstance(text, str):
        return text.removeprefix("\N{BYTE ORDER MARK}")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(f"byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _unique_pairs(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice in one mapping; keep one of them")
    return found


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not a JSON number; write a finite one")


# Typed Any: the C classes exist wherever the wheel does, the stubs know only the Python ones.
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _load_yaml(text: str) -> object:
    try:
        _bound_depth(text)
        loader = _LOADER(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise _unreadable("the document is empty; begin with `policy: <name>`")
            _bound_nodes(node)
            return cast("object", loader.construct_document(node))
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _unreadable(f"this is not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, OverflowError, TypeError) as error:  # a scalar like 2026-13-45, a list as a key
        raise _unreadable(f"a value cannot be read ({error}); put it in quotes if it is meant as text") from None


def _bound_depth(text: str) -> None:
    # Events first: libyaml builds nodes recursively, and brackets deep enough kill the process.
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _unreadable(f"{_line(event)}nested deeper than {MAX_DEPTH} levels; flatten it")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _bound_nodes(root: yaml.Node) -> None:
    """Walks the document with its aliases written out: finds bombs, self-references, double keys unbuilt."""
    left = MAX_VALUES
    waiting = [(root, 1)]
    while waiting:
        node, depth = waiting.pop()
        left -= 1
        if left < 0:
            raise _unreadable(f"aliases blow the document up beyond {MAX_VALUES} values; write less by reference")
        if depth > MAX_DEPTH:
            raise _unreadable(f"{_line(node)}aliases nest deeper than {MAX_DEPTH} levels; write them out")
        if isinstance(node, yaml.MappingNode):
            _refuse_double_keys(node)
            waiting += ((child, depth + 1) for pair in node.value for child in pair)
        elif isinstance(node, yaml.SequenceNode):
            waiting += ((child, depth + 1) for child in node.value)


def _refuse_double_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise _unreadable(f"{_line(key)}the key {key.value!r} is given twice in one mapping; keep one of them")
            seen.add(key.value)


def _line(place: yaml.Node | yaml.Event) -> str:
    return f"line {place.start_mark.line + 1}: " if place.start_mark else ""


@dataclass(slots=True)
class _Plainer:
    problems: list[Problem]
    left: int = MAX_VALUES

    def make_plain(self, value: object, path: str, depth: int) -> Json:
        self.left -= 1
        if depth > MAX_DEPTH or self.left == 0:
            self.problems.append(Problem(path, f"too large: at most {MAX_DEPTH} levels and {MAX_VALUES} values"))
        if depth > MAX_DEPTH or self.left <= 0:
            return None
        match value:
            case None | bool():
                return value
            case int() if -(2**63) <= value < 2**63:
                return value
            case str():
                return self._storable(value, path)
            case float() if math.isfinite(value):
                return value
            case datetime():
                return format_time(value.astimezone(UTC)) if value.tzinfo else value.isoformat()
            case date():
                return value.isoformat()
            case Mapping():
                return dict(self._members(value, path, depth))
            case list() | tuple():
                return [self.make_plain(part, point(path, n), depth + 1) for n, part in enumerate(value)]
            case _:
                kind = type(value).__name__
                self.problems.append(Problem(path, f"{kind} has no place in JSON; write text or a number"))
                return None

    def _members(self, value: Mapping[Any, object], path: str, depth: int) -> Iterator[tuple[str, Json]]:
        for key, part in value.items():
            if isinstance(key, str):
                yield self._storable(key, path), self.make_plain(part, point(path, key), depth + 1)
            else:
                said = describe(key)
                self.problems.append(Problem(path, f"a key is text, but one is read as {said}; put it in quotes"))

    def _storable(self, text: str, path: str) -> str:
        if _UNSTORABLE.search(text):
            self.problems.append(Problem(path, "the text holds a NUL or half a character; remove it"))
            return ""
        return text


_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


# -- mapping → typed parts ------------------------------------------------------------------------------


class Refused(Exception):
    """A part could not be read; its problems are noted where they are."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One value of the document, its JSON pointer, and the list of what is wrong with the whole."""

    value: Json
    path: str
    key: str
    problems: list[Problem]

    def into(self, key: str | int, value: Json) -> Spot:
        return Spot(value, point(self.path, key), str(key), self.problems)

    def note(self, message: str) -> None:
        self.problems.append(Problem(self.path, message))

    def refuse(self, message: str) -> Refused:
        self.note(message)
        return Refused()

    def want(self, wanted: str) -> Refused:
        hint = "; put it in quotes if it is meant as text" if isinstance(self.value, (bool, int, float)) else ""
        return self.refuse(f"write {wanted}, not {describe(self.value)}{hint}")


Shape = Callable[[Spot], T]


@dataclass(slots=True)
class Record:
    """A mapping with fixed keys: those asked for are those it may have. A broken part stops nothing."""

    spot: Spot
    asked: list[str] = field(default_factory=list)
    broken: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.spot.value, dict):
            raise self.spot.want("a mapping (key: value)")

    def need(self, key: str, shape: Shape[T]) -> T:
        self.asked.append(key)
        if self.spot.value.get(key) is None:
            self.spot.note(f"`{key}` is missing; add it")
            return cast("T", self._break())
        return self._read(key, shape)

    def get(self, key: str, shape: Shape[T], default: D) -> T | D:
        self.asked.append(key)
        return default if self.spot.value.get(key) is None else self._read(key, shape)

    def _read(self, key: str, shape: Shape[T]) -> T:
        try:
            return shape(self.spot.into(key, self.spot.value[key]))
        except Refused:
            return cast("T", self._break())

    def _break(self) -> Any:
        self.broken = True
        return None  # never seen: `build` refuses before anybody looks

    def forbid(self, key: str, message: str) -> None:
        self.asked.append(key)
        if self.spot.value.get(key) is not None:
            self.broken = True
            self.spot.into(key, None).note(message)

    def build(self, make: Callable[[], T]) -> T:
        """Refuses keys nobody asked for, then whatever was broken; only a whole record is made."""
        for key in (key for key in self.spot.value if key not in self.asked):
            self.broken = True
            self.spot.into(key, None).note(f"there is no key `{key}` here; {suggest(key, self.asked)}")
        if self.broken:
            raise Refused
        return make()


def record(read: Callable[[Record], T]) -> Shape[T]:
    return lambda spot: read(Record(spot))


def listing(shape: Shape[T], *, unique: bool = False) -> Shape[tuple[T, ...]]:
    """A list, whole or refused."""

    def read(spot: Spot) -> tuple[T, ...]:
        whole = True
        found: list[T] = []
        for part in _parts(spot):
            try:
                made = shape(part)
            except Refused:
                whole = False
                continue
            if unique and made in found:
                whole = False
                part.note(f"{part.value!r} is listed twice; remove one")
            found.append(made)
        if not whole:
            raise Refused
        return tuple(found)

    return read


def table(row: Shape[T], *, key: Shape[Any], whole: bool = True) -> Shape[dict[str, T]]:
    """A mapping with free keys. `whole`: refused when a row is; otherwise the rows that could be read."""

    def read(spot: Spot) -> dict[str, T]:
        if not isinstance(spot.value, dict):
            raise spot.want("a mapping (name: …)")
        found: dict[str, T] = {}
        for name, value in spot.value.items():
            part = spot.into(name, value)
            try:
                key(Spot(name, part.path, name, spot.problems))
                found[name] = row(part)
            except Refused:
                continue
        if whole and len(found) < len(spot.value):
            raise Refused
        return found

    return read


def _parts(spot: Spot) -> Iterator[Spot]:
    if not isinstance(spot.value, list):
        raise spot.want("a list")
    return (spot.into(n, value) for n, value in enumerate(spot.value))


def text(spot: Spot) -> str:
    if not isinstance(spot.value, str) or not spot.value.strip():
        raise spot.want("a text")
    if len(spot.value) > MAX_WORD:
        raise spot.refuse(f"the text has {len(spot.value)} characters; {MAX_WORD} are the most")
    return spot.value


def word(pattern: str, wanted: str) -> Shape[str]:
    """A text that matches the whole pattern; `wanted` says it in words, with an example."""
    compiled = re.compile(pattern, re.ASCII)

    def read(spot: Spot) -> str:
        if not isinstance(spot.value, str) or len(spot.value) > MAX_WORD or not compiled.fullmatch(spot.value):
            raise spot.want(wanted)
        return spot.value

    return read


def one_of(options: Collection[str]) -> Shape[str]:
    def read(spot: Spot) -> str:
        if not isinstance(spot.value, str):
            raise spot.want(f"one of {', '.join(options)}")
        if spot.value not in options:
            raise spot.refuse(f"{spot.value!r} is not known here; {suggest(spot.value, options)}")
        return spot.value

    return read


def boolean(spot: Spot) -> bool:
    if not isinstance(spot.value, bool):
        raise spot.want("true or false")
    return spot.value


def whole_number(least: int, most: int) -> Shape[int]:
    def read(spot: Spot) -> int:
        if isinstance(spot.value, bool) or not isinstance(spot.value, int) or not least <= spot.value <= most:
            raise spot.refuse(f"write a whole number from {least} to {most}, not {describe(spot.value)}")
        return spot.value

    return read


# -- words ----------------------------------------------------------------------------------------------


def point(path: str, *keys: str | int) -> str:
    """The JSON pointer (RFC 6901) of a member."""
    return path + "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def suggest(given: str, known: Collection[str]) -> str:
    """The nearest known name, or all of them: what a person who mistyped wants to read."""
    near = get_close_matches(given, known, 1, 0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known: {_enumerate(sorted(known))}" if known else "none are declared"


def _enumerate(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


def describe(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {str(value)[:40]}"
        case str():
            return f"the text {value[:60]!r}" if value.strip() else "an empty text"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"
