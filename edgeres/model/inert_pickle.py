"""Reading of a pickle as data: plain containers and records of what it names, without importing or calling anything.

A pickle is a program for a stack machine. Here its instructions are decoded by ``pickletools`` of the standard library
and carried out on plain values only: a class or function is its name, and calling it makes a ``Record`` of the name
and the arguments. Memory and time grow linearly with the file, and deep nesting is no recursion.
"""

from __future__ import annotations

import pickletools
from io import SEEK_END
from typing import IO, TYPE_CHECKING, Any

from edgeres.errors import ModelError
from edgeres.model.pickled_values import MOST_KEY, Name, Pickle, Record, extend, store

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_STEPS = 20_000_000  # instructions in one pickle; a ResNet-152 with its optimizer has 30,000
_SMALL = 1 << 16  # bytes that are read without asking how many there are
_MOST_PAIRS = 1_000_000  # pairs copied into dictionaries; a list of them may be used again
_DICTS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict")
_LISTS = ("builtins.list", "builtins.set", "builtins.frozenset", "builtins.tuple", "collections.deque")
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_MARK = object()


class _Bounded:
    """A stream that is asked for no more bytes than it has: a file allocates what is asked for before it reads."""

    def __init__(self, stream: IO[bytes]) -> None:
        place = stream.tell()
        self.end = stream.seek(0, SEEK_END)
        stream.seek(place)
        self.stream, self.readline, self.tell = stream, stream.readline, stream.tell

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes."""
        return self.stream.read(count if count < _SMALL else min(count, self.end - self.tell()))


def read_pickle(stream: IO[bytes]) -> Pickle:
    """Reads one pickle from a stream and leaves the stream behind it.

    Raises:
        ModelError: The pickle is damaged or larger than any checkpoint's.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(_Bounded(stream))):  # type: ignore[arg-type]
            if count >= _MOST_STEPS:
                raise ModelError(f"its pickle has more than {_MOST_STEPS:,} instructions", "no checkpoint has")
            if opcode.name == "STOP":
                return Pickle(machine.pop(), tuple(machine.called), tuple(machine.persistent_ids))
            machine.step(opcode.name, argument)
    except (ValueError, OverflowError) as failure:  # pickletools' for a damaged instruction
        raise ModelError(f"its pickle is damaged: {_first_line(failure)}", "fetch it again") from failure
    raise ModelError("its pickle has no end", "fetch it again")


def _first_line(failure: Exception) -> str:
    text = str(failure).strip()
    return text.splitlines()[0][:120] if text else type(failure).__name__


class _Machine:
    """Stack and memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, object] = {}
        self.called: dict[str, None] = {}
        self.persistent_ids: list[object] = []
        self.copied = 0
        self.encoded: dict[int, tuple[str, bytes]] = {}

    def step(self, name: str, argument: Any) -> None:
        """One instruction; ``ValueError`` where it is damaged."""
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _FETCHED:
            if argument not in self.memo:
                raise ValueError(f"memo {argument} is empty")
            self.stack.append(self.memo[argument])
        elif name in _STORED:
            if argument >= MOST_KEY:
                raise ValueError(f"memo {argument} is not of a checkpoint")
            self.memo[argument] = self.top()
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in _IGNORED:
            raise ValueError(f"instruction {name} is not of a checkpoint")

    def pop(self) -> Any:
        """The topmost value, removed."""
        value = self.top()
        self.stack.pop()
        return value

    def top(self) -> Any:
        """The topmost value."""
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("the stack is empty")
        return self.stack[-1]

    def marked(self) -> list[Any]:
        """The values above the topmost mark, removed with it."""
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise ValueError("a mark is missing")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def several(self, count: int) -> list[Any]:
        """The topmost values in the order in which they were pushed, removed."""
        return [self.pop() for _ in range(count)][::-1]

    def dup(self, _: object) -> None:
        self.stack.append(self.top())

    def discard(self, _: object) -> None:
        if not self.stack:
            raise ValueError("the stack is empty")
        self.stack.pop()  # also a mark

    def mark(self, _: object) -> None:
        self.stack.append(_MARK)

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.top()

    def pop_mark(self, _: object) -> None:
        self.marked()

    def new_list(self, _: object) -> None:
        self.stack.append([])

    def new_dict(self, _: object) -> None:
        self.stack.append({})

    def list_of_marked(self, _: object) -> None:
        self.stack.append(self.marked())

    def dict_of_marked(self, _: object) -> None:
        values = self.marked()
        self.stack.append({})
        store(self.top(), values)

    def tuple_of_marked(self, _: object) -> None:
        self.stack.append(tuple(self.marked()))

    def append(self, _: object) -> None:
        value = self.pop()
        extend(self.top(), [value])

    def extend_marked(self, _: object) -> None:
        values = self.marked()
        extend(self.top(), values)

    def store_one(self, _: object) -> None:
        values = self.several(2)
        store(self.top(), values)

    def update(self, _: object) -> None:
        values = self.marked()
        store(self.top(), values)

    def named(self, argument: str) -> None:
        self.stack.append(_name(*argument.split(" ", 1)))

    def named_from_stack(self, _: object) -> None:
        module, name = self.several(2)
        self.stack.append(_name(module, name))

    def reduce(self, _: object) -> None:
        called, arguments = self.several(2)
        self.stack.append(self.record(called, arguments))

    def new_with_keywords(self, _: object) -> None:
        called, arguments, _keywords = self.several(3)
        self.stack.append(self.record(called, arguments))

    def object_of_marked(self, _: object) -> None:
        values = self.marked()
        if not values:
            raise ValueError("a class is missing")
        self.stack.append(self.record(values[0], tuple(values[1:])))

    def instance(self, argument: str) -> None:
        self.stack.append(self.record(_name(*argument.split(" ", 1)), tuple(self.marked())))

    def build(self, _: object) -> None:
        """The state of an object; that of a plain container, such as the ``_metadata`` of a state dict, is dropped."""
        state = self.pop()
        if isinstance(self.top(), Record):
            self.top().state = state

    def persistent(self, argument: object) -> None:
        self.persistent_ids.append(argument)
        if isinstance(argument, tuple) and argument[:1] == ("module",) and len(argument) > 1:
            self.stack.append(argument[1])  # a class, which files before PyTorch 1.6 store with its source
        else:
            self.stack.append(Record("", (argument,)))

    def persistent_from_stack(self, _: object) -> None:
        self.persistent(self.pop())

    def record(self, called: object, arguments: object) -> object:
        """The record of a call, or the plain container that it makes."""
        name = called.text if isinstance(called, Name) else "a computed function"
        values = arguments if isinstance(arguments, tuple) else ()
        if name in ("copyreg._reconstructor", "copyreg.__newobj__") and values and isinstance(values[0], Name):
            name, values = values[0].text, values[1:]
        if name in _DICTS:
            return self.dict_of(values)
        if name in _LISTS:
            return values[0] if values and isinstance(values[0], list | tuple) else []
        if name == "_codecs.encode" and values and isinstance(values[0], str):
            return self.encoding(values[0])
        self.called[name] = None
        return Record(name, values)

    def encoding(self, text: str) -> bytes:
        """The bytes of a text in Latin-1, as protocols before 3 store bytes; once for a text that is used again."""
        if id(text) not in self.encoded:
            self.encoded[id(text)] = text, text.encode("latin1")
        return self.encoded[id(text)][1]

    def dict_of(self, arguments: tuple[object, ...]) -> dict[object, object]:
        """The dictionary of a list of pairs, where the call had one; a list may be used again, so copies count."""
        filled: dict[object, object] = {}
        pairs = next((value for value in arguments if isinstance(value, list | tuple)), ())
        self.copied += len(pairs)
        if self.copied > _MOST_PAIRS:
            raise ValueError("more pairs than any checkpoint has")
        for pair in pairs:
            if isinstance(pair, list | tuple) and len(pair) == 2:
                store(filled, list(pair))
        return filled


def _name(module: object, name: object) -> Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a class without a name")  # as for every damaged instruction
    return Name(f"{_PYTHON_2.get(module, module)}.{name}")


_PUSHED = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "NEXT_BUFFER": None}
_FETCHED = frozenset({"GET", "BINGET", "LONG_BINGET"})
_STORED = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_IGNORED = frozenset({"PROTO", "FRAME", "READONLY_BUFFER"})


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple(machine.several(count)))


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "DUP": _Machine.dup,
    "POP": _Machine.discard,
    "MARK": _Machine.mark,
    "POP_MARK": _Machine.pop_mark,
    "MEMOIZE": _Machine.memoize,
    "EMPTY_LIST": _Machine.new_list,
    "EMPTY_SET": _Machine.new_list,
    "EMPTY_DICT": _Machine.new_dict,
    "LIST": _Machine.list_of_marked,
    "FROZENSET": _Machine.list_of_marked,
    "DICT": _Machine.dict_of_marked,
    "TUPLE": _Machine.tuple_of_marked,
    **{f"TUPLE{count}": _tuple_of(count) for count in (1, 2, 3)},
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend_marked,
    "ADDITEMS": _Machine.extend_marked,
    "SETITEM": _Machine.store_one,
    "SETITEMS": _Machine.update,
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.named_from_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "OBJ": _Machine.object_of_marked,
    "INST": _Machine.instance,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent,
    "BINPERSID": _Machine.persistent_from_stack,
}
