"""Protocol Buffers on the wire: fields, and packed varints read and written by NumPy.

Only what :mod:`gridnode.protocol.syft_proto` needs to read tensors in place. The rules are those of
https://protobuf.dev/programming-guides/encoding/. Everything here is bounded: a message is scanned one level deep,
holds a limited number of fields, and nothing is allocated from a number that the message merely declares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

VARINT: Final = 0
FIXED64: Final = 1
LENGTH_DELIMITED: Final = 2
FIXED32: Final = 5

_LONGEST_VARINT: Final = 10
# Temporaries of a block stay in the processor's cache, and bound the memory of decoding many small numbers.
_BLOCK_BYTES: Final = 1 << 16


class Malformed(ValueError):
    """The bytes are no message, or one that no client writes."""


def read_varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """Read one varint of at most 64 bits: its value (not negative) and the position after it."""
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        if position >= end:
            raise Malformed("the message is cut off inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position
    raise Malformed("a number has more than 64 bits")


def read_fields(data: memoryview, start: int, end: int, maximum: int) -> Iterator[tuple[int, int, int, int]]:
    """Go through the fields of the message in ``data[start:end]``.

    Yields:
        Field number, wire type, and the half-open range of the field's content in ``data``.

    Raises:
        Malformed: a field is cut off, uses groups, or there are more than ``maximum`` fields.
    """
    position = start
    while position < end:
        if maximum <= 0:
            raise Malformed("a message has too many fields")
        maximum -= 1
        key, position = read_varint(data, position, end)
        number, wire_type = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise Malformed(f"field number {number} does not exist")
        if wire_type == LENGTH_DELIMITED:
            length, position = read_varint(data, position, end)
            stop = position + length
        elif wire_type == VARINT:
            _, stop = read_varint(data, position, end)
        elif wire_type == FIXED32:
            stop = position + 4
        elif wire_type == FIXED64:
            stop = position + 8
        else:
            raise Malformed(f"field {number} has wire type {wire_type}, which is not in use")
        if stop > end:
            raise Malformed(f"field {number} is cut off")
        yield number, wire_type, position, stop
        position = stop


class Message:
    """One scanned message; its submessages are not looked into."""

    __slots__ = ("_fields", "data")

    def __init__(self, data: memoryview, start: int, end: int, maximum_fields: int) -> None:
        self.data = data
        self._fields: dict[int, list[tuple[int, int, int]]] = {}
        for number, wire_type, content, stop in read_fields(data, start, end, maximum_fields):
            self._fields.setdefault(number, []).append((wire_type, content, stop))

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def numbers(self) -> tuple[int, ...]:
        """The numbers of the fields that are present."""
        return tuple(self._fields)

    def content(self, number: int, wire_type: int = LENGTH_DELIMITED) -> tuple[int, int] | None:
        """Where the content of a field is, or None if the field is absent.

        Raises:
            Malformed: the field comes more than once, or has another wire type. Protocol Buffers would merge the first
                and skip the second; both would give other values than the sender meant.
        """
        occurrences = self._fields.get(number)
        if occurrences is None:
            return None
        if len(occurrences) > 1:
            raise Malformed(f"field {number} comes {len(occurrences)} times, once is expected")
        found, start, stop = occurrences[0]
        if found != wire_type:
            raise Malformed(f"field {number} has wire type {found}, {wire_type} is expected")
        return start, stop

    def number(self, number: int) -> int:
        """The value of a varint field, 0 if it is absent."""
        content = self.content(number, VARINT)
        return 0 if content is None else read_varint(self.data, *content)[0]

    def numbers_of(self, number: int) -> list[int]:
        """The values of a repeated varint field, packed or not. Meant for short ones."""
        values = []
        for wire_type, position, stop in self._fields.get(number, ()):
            if wire_type not in (LENGTH_DELIMITED, VARINT):
                raise Malformed(f"field {number} has wire type {wire_type}, {LENGTH_DELIMITED} is expected")
            while position < stop:
                value, position = read_varint(self.data, position, stop)
                values.append(value)
        return values


def write_varint(value: int) -> bytes:
    """Encode a number that is not negative."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def write_varint_field(number: int, value: int) -> bytes:
    """Encode a varint field."""
    return write_varint(number << 3 | VARINT) + write_varint(value)


def field_header(number: int, length: int) -> bytes:
    """What stands before ``length`` bytes of a length-delimited field."""
    return write_varint(number << 3 | LENGTH_DELIMITED) + write_varint(length)


def decode_packed_varints(packed: NDArray[np.uint8], count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read exactly ``count`` numbers from packed varints (two's complement for signed dtypes).

    Raises:
        Malformed: another number of values, a value outside the range of ``dtype``, a varint cut off or too long.
    """
    if count > packed.size:
        raise Malformed(f"at most {packed.size} values are present, {count} are declared")
    values = np.empty(count, dtype)
    lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    position = filled = 0
    while position < packed.size:
        block = packed[position : position + _BLOCK_BYTES]
        ends = np.flatnonzero(block < 0x80)
        if ends.size == 0:
            raise Malformed("a packed number is cut off or has more than 64 bits")
        block = block[: ends[-1] + 1]
        decoded = _decode_block(block, ends)
        if filled + decoded.size > count:
            raise Malformed(f"more values are present than the {count} declared")
        if decoded.min() < lowest or decoded.max() > highest:
            raise Malformed(f"a value does not fit {dtype.name}")
        values[filled : filled + decoded.size] = decoded
        position += block.size
        filled += decoded.size
    if filled != count:
        raise Malformed(f"{filled} values are present, {count} are declared")
    return values


def _decode_block(block: NDArray[np.uint8], ends: NDArray[np.intp]) -> NDArray[np.int64]:
    if ends.size == block.size:
        return block.astype(np.int64)
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > _LONGEST_VARINT or (longest == _LONGEST_VARINT and block[ends[lengths == longest]].max() > 1):
        raise Malformed("a packed number has more than 64 bits")
    values = (block[starts] & 0x7F).astype(np.uint64)
    for place in range(1, longest):
        longer = np.flatnonzero(lengths > place)
        digits = (block[starts[longer] + place] & 0x7F).astype(np.uint64)
        values[longer] |= digits << np.uint64(7 * place)
    return values.view(np.int64)


def encode_packed_varints(values: NDArray[Any]) -> bytes:
    """Write integers as packed varints, negative ones as 64-bit two's complement."""
    flat = values.reshape(-1)
    blocks = range(0, flat.size, _BLOCK_BYTES // 8)
    return b"".join(_encode_block(flat[start : start + _BLOCK_BYTES // 8]) for start in blocks)


def _encode_block(values: NDArray[Any]) -> bytes:
    remaining: NDArray[np.uint64] = values.astype(np.int64).view(np.uint64)
    lengths = np.ones(remaining.size, np.intp)
    for place in range(1, _LONGEST_VARINT):
        lengths += remaining >= np.uint64(1 << 7 * place)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    encoded = np.empty(int(ends[-1]), np.uint8)
    for place in range(int(lengths.max())):
        longer = np.flatnonzero(lengths > place)
        digits = (remaining[longer] >> np.uint64(7 * place)).astype(np.uint8) & 0x7F
        encoded[starts[longer] + place] = digits | np.where(lengths[longer] > place + 1, 0x80, 0).astype(np.uint8)
    return encoded.tobytes()
