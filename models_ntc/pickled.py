"""The pickle of a file of torch.save, read as a description: no object of it is made.

    content = describe(io.BytesIO(archive.read("archive/data.pkl")))
    content["state_dict"]["g_a.0.weight"].shape

Python's own `pickletools` splits the pickle into operations. Of these, the ones that torch.save
writes are carried out on dicts, lists, tuples, numbers and strings. A tensor becomes a
`StoredTensor`, which says where its numbers lie. Nothing is imported and nothing is called.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import torch

from models_ntc.errors import CodecFileError

MOST_OPERATIONS = 500_000  # the paper's network with its optimizer has 40,000
MOST_DIMENSIONS = 8
DAMAGED = "its pickle is damaged"
OTHER = "it holds something else than dense tensors"
STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Storage:
    """Numbers that lie in a file one after the other."""

    dtype: torch.dtype
    key: str  # its name in the file
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A dense tensor of a file: a view of a storage that holds no more numbers than this.

    offset, strides: in numbers.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The format of its numbers."""
        return self.storage.dtype

    @property
    def count(self) -> int:
        """How many numbers it has."""
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def reach(self) -> int:
        """How many numbers lie between its first one and its last one, both included."""
        if not self.count:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        return 1 + sum((side - 1) * stride for side, stride in steps)


@dataclass(frozen=True)
class Global:
    """The name of something that the pickle would import, as "module name"."""

    name: str


@dataclass(frozen=True)
class Description:
    """What a pickle describes.

    content: a nest of dicts with keys of str or int, lists, tuples, str, int, float, bool, None,
        `StoredTensor`, `Storage` and `Global`. It may contain itself.
    storages: all that it names, by their keys.
    """

    content: object
    storages: dict[str, Storage]


def describe(file: BinaryIO) -> Description:
    """Return what a pickle describes; the file's position is behind it afterwards.

    Raises CodecFileError for operations or names that files of weights do not have, and
    ValueError for a pickle that is cut off.
    """
    machine = _Machine()
    for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if number == MOST_OPERATIONS:
            raise CodecFileError(f"its pickle has more than {MOST_OPERATIONS} operations")
        step = OPERATIONS.get(operation.name)
        if step is None:
            raise CodecFileError(f"its pickle has {operation.name}, which weights do not need")
        step(machine, argument)
    return Description(machine.pop(), machine.storages)


class _Machine:
    """The stack, the marks on it and the memo of a pickle, and the storages seen so far."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def pop(self) -> object:
        if not self.stack:
            raise CodecFileError(DAMAGED)
        return self.stack.pop()

    def top(self, kind: type) -> object:
        """Return the object on top, which must be of a type."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise CodecFileError(DAMAGED)
        return self.stack[-1]

    def pop_marked(self) -> list:
        """Return all objects above the last mark."""
        if not self.marks:
            raise CodecFileError(DAMAGED)
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_tuple(self, count: int) -> tuple:
        items = [self.pop() for _ in range(count)]
        return tuple(reversed(items))

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def put(self, number: int) -> None:
        value = self.pop()
        self.push(value)
        self.memo[number] = value

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise CodecFileError(DAMAGED)
        self.push(self.memo[number])

    def append(self, _: object) -> None:
        value = self.pop()
        self.top(list).append(value)

    def append_marked(self, _: object) -> None:
        items = self.pop_marked()
        self.top(list).extend(items)

    def set_item(self, _: object) -> None:
        value = self.pop()
        key = self.pop()
        self._set(key, value)

    def set_marked(self, _: object) -> None:
        items = self.pop_marked()
        if len(items) % 2:
            raise CodecFileError(DAMAGED)
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: object, value: object) -> None:
        # No other type: the hash of nested tuples may take forever.
        if type(key) not in (str, int):
            raise CodecFileError(f"its pickle has a {type(key).__name__} as a name")
        self.top(dict)[key] = value

    def name_global(self, name: str) -> None:
        if name not in CALLS and name not in STORAGES and not _is_constant(name):
            raise CodecFileError(f"it holds more than weights: {name.replace(' ', '.')}")
        self.push(Global(name))

    def call(self, _: object) -> None:
        """Describe what a call would return."""
        arguments = self.top(tuple)
        self.pop()
        made = CALLS.get(self.top(Global).name)
        if made is None:
            raise CodecFileError(DAMAGED)
        self.pop()
        self.push(made(*arguments))

    def build(self, _: object) -> None:
        """Drop the attributes of an OrderedDict: `_metadata`, which state dicts have."""
        self.pop()
        self.top(dict)

    def load_storage(self, _: object) -> None:
        storage = _storage(self.pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise CodecFileError(DAMAGED)
        self.push(storage)


def _is_constant(name: str) -> bool:
    """Return whether a name is that of a number format, such as "torch float32"."""
    module, _, attribute = name.partition(" ")
    return module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype)


def _storage(identity: object) -> Storage:
    """Return the storage that a persistent id names."""
    match identity:
        case ("storage", Global(name=name), str(key), str(), int(count), *views) if (
            name in STORAGES and count >= 0 and not any(views)
        ):
            return Storage(STORAGES[name], key, count)
    raise CodecFileError(OTHER)


def _tensor(
    storage: object = None,
    offset: object = None,
    shape: object = None,
    strides: object = None,
    *_: object,
) -> StoredTensor:
    """Return what torch._utils._rebuild_tensor_v2 would make of these arguments."""
    if not isinstance(storage, Storage) or not _are_numbers((offset,)):
        raise CodecFileError(OTHER)
    if not _are_numbers(shape) or not _are_numbers(strides) or len(shape) != len(strides):
        raise CodecFileError(OTHER)
    tensor = StoredTensor(storage, offset, shape, strides)
    if offset + tensor.reach > storage.count or tensor.count > storage.count:
        raise CodecFileError(
            f"it holds a tensor of {tensor.count} numbers in a storage of {storage.count}"
        )
    return tensor


def _are_numbers(values: object) -> bool:
    """Return whether these are a few integers from 0 up."""
    if type(values) is not tuple or len(values) > MOST_DIMENSIONS:
        return False
    return all(type(value) is int and 0 <= value < 2**62 for value in values)


def _parameter(tensor: object = None, *_: object) -> object:
    return tensor


def _dict(*items: object) -> dict:
    if items:
        raise CodecFileError(OTHER)
    return {}


def _size(sides: object = (), *_: object) -> object:
    return sides


def _unused(*_: object) -> None:
    """Return None for what no check looks at."""


# What a pickle of weights may call, and what describes the result.
CALLS: dict[str, Callable] = {
    "collections OrderedDict": _dict,
    "collections Counter": _unused,
    "torch Size": _size,
    "torch device": _unused,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}

OPERATIONS: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "MARK": _Machine.mark,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_marked())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_tuple(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_tuple(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_tuple(3)),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_marked,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_marked,
    "GLOBAL": _Machine.name_global,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.load_storage,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "BININT": _Machine.push,
    "BININT1": _Machine.push,
    "BININT2": _Machine.push,
    "LONG1": _Machine.push,
    "BINFLOAT": _Machine.push,
    "BINUNICODE": _Machine.push,
    "SHORT_BINSTRING": _Machine.push,
}
