"""Safetensors files with something wrong in them: bytes, header, or what the tensors say.

Of the kinds below, the first ones break the format. The others keep it, so that a reader has to
look at what is in the file.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

COUNT = int(os.environ.get("MOGA_DAMAGED_FILES", "40"))  # more of them where time allows

BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4},
    **{"F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1},
    **{"I8": 1, "U8": 1, "BOOL": 1},
}
NO_TYPES = ("F4", "F6_E2M3", "F99", "", None, 3)
NUMBERS = (
    *(0, 1, 2, 3, -1, 7, 127, 128, 1024, 1025, 10**9, 2**31, 2**32, 2**62, 2**63, 2**64),
    *(1e300, 1.5, True, None, "4", [], float("nan")),
)
SHAPES = (
    *([], [0], [0, 5], [5, 0], [0, 2**62], [0, 2**63], [1], [2, 3], [7, 1], [128], [256, 128]),
    *([3] * 5, [1] * 70),
)
METADATA = (
    *(None, [], "x", {"moga": 1}, {"moga": None}, {"moga": {"a": "b"}}, {"a": "b"}),
    *({"moga": text} for text in ("", "{}", "[" * 100_000, '{"version": %s}' % ("9" * 5000))),
)
HEADERS = (
    *(b"", b"{}", b"null", b"[]", b"\xff\xfe{}", b'{"a": 1}', b'{"a": {}}', b'{"a": NaN}'),
    *(b"[" * 100_000, b'{"a":' * 100_000, b'{"a": {}, "a": {}}', b'{"__metadata__": {}, ' * 2),
)
SETTINGS = (
    *("version", "groups", "windows", "window_frames", "boundary_frames", "gate", "combine"),
    *("branches", "heads"),
)
VALUES = (
    *([10**9, 10**9], [1, 2, 3], [[1], [2]], ["routed"], ["routed", "routed"], [{}], {"a": 1}),
    *("lse", "x" * 10_000, [True, 1], [1024, 1024], [2, 2]),
)
NAMES = (
    *("", "a\nb", "\0", "scaled_fp8", "a.lora_A.weight", "vace_blocks.0.x"),
    *("blocks.99999999999.self_attn.q.weight", "blocks.9999.self_attn.router.weight"),
    *("a.blocks.0.self_attn.router.weight", "blocks.0.attn1.router.weight"),
    "blocks.\N{ARABIC-INDIC DIGIT THREE}.self_attn.router.weight",
    "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
)


class Parts:
    """A whole file, taken apart: entries of the header and bytes of the tensors by key."""

    def __init__(self, whole: bytes) -> None:
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + length])
        self.metadata = header.pop("__metadata__", {})
        self.entries: dict[str, dict[str, Any]] = header
        self.data = whole[8 + length :]
        self.bytes = {k: self.data[slice(*e["data_offsets"])] for k, e in header.items()}

    def as_they_are(self) -> bytes:
        """Entries as someone left them, over the data as it was."""
        return packed(json.dumps({"__metadata__": self.metadata, **self.entries}), self.data)

    def in_order(self) -> bytes:
        """A file whose offsets fit the bytes."""
        entries, data = {}, b""
        for key, entry in self.entries.items():
            start, data = len(data), data + self.bytes[key]
            entries[key] = {**entry, "data_offsets": [start, len(data)]}
        return packed(json.dumps({"__metadata__": self.metadata, **entries}), data)

    def fill(self, key: str, chance: random.Random) -> None:
        """As many bytes as the entry says: zeros, ones (of floats, NaN) or any."""
        size = BYTES[self.entries[key]["dtype"]]
        for edge in self.entries[key]["shape"]:
            size *= edge
        kinds = (bytes(size), b"\xff" * size, chance.randbytes(size))
        self.bytes[key] = chance.choice(kinds)


def packed(header: str | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    return len(text).to_bytes(8, "little") + text + data


def damaged(whole: bytes, seed: int, count: int = COUNT) -> Iterator[bytes]:
    """So many files that were made from a whole one, each with something wrong, or just odd."""
    chance = random.Random(seed)
    for _ in range(count):
        yield chance.choice(KINDS)(whole, chance)


def damaged_bytes(whole: bytes, seed: int, count: int = COUNT) -> Iterator[bytes]:
    """The same for contents of any other format."""
    chance = random.Random(seed)
    for _ in range(count):
        yield chance.choice((_any_bytes, _cut, _longer))(whole, chance)


def _any_bytes(whole: bytes, chance: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(chance.randrange(1, 9)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def _cut(whole: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(len(whole))]


def _longer(whole: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(whole))
    return whole[:at] + chance.randbytes(chance.randrange(1, 20)) + whole[at:]


def _header_signs(whole: bytes, chance: random.Random) -> bytes:
    content, length = bytearray(whole), int.from_bytes(whole[:8], "little")
    for _ in range(chance.randrange(1, 4)):
        content[8 + chance.randrange(length)] = chance.choice(b'{}[]",:0129-eEtfn\\ \0\xff')
    return bytes(content)


def _header(whole: bytes, chance: random.Random) -> bytes:
    return packed(chance.choice(HEADERS), chance.choice((b"", Parts(whole).data)))


def _entry(whole: bytes, chance: random.Random) -> bytes:
    parts = Parts(whole)
    entry = parts.entries[chance.choice(list(parts.entries))]
    name = chance.choice(("dtype", "shape", "data_offsets"))
    if name == "dtype":
        entry[name] = chance.choice((*BYTES, *NO_TYPES))
    elif entry[name]:
        entry[name][chance.randrange(len(entry[name]))] = chance.choice(NUMBERS)
    else:
        entry[name] = chance.choice(NUMBERS)
    return parts.as_they_are()


def _metadata(whole: bytes, chance: random.Random) -> bytes:
    parts = Parts(whole)
    parts.metadata = chance.choice(METADATA)
    return parts.as_they_are()


def _settings(whole: bytes, chance: random.Random) -> bytes:
    parts = Parts(whole)
    settings = json.loads(parts.metadata.get("moga", '{"version": 1}'))
    settings[chance.choice(SETTINGS)] = chance.choice((*NUMBERS, *VALUES))
    parts.metadata = {"moga": json.dumps(settings)}
    return parts.as_they_are()


def _fewer(whole: bytes, chance: random.Random) -> bytes:
    parts = Parts(whole)
    del parts.entries[chance.choice(list(parts.entries))]
    return parts.in_order()


def _renamed(whole: bytes, chance: random.Random) -> bytes:
    parts = Parts(whole)
    old = chance.choice(list(parts.entries))
    near = (old.upper(), f"{old}x", f"a.{old}", old.replace(".0.", ".7."), f"diffusion_model.{old}")
    new = chance.choice((*NAMES, *near))
    parts.bytes[new] = parts.bytes[old]
    keep = chance.choice((True, False))
    parts.entries |= {new: dict(parts.entries[old])}
    if not keep and new != old:
        del parts.entries[old]
    return parts.in_order()


def _other_tensors(whole: bytes, chance: random.Random) -> bytes:
    parts = Parts(whole)
    for _ in range(chance.randrange(1, 3)):
        key = chance.choice(list(parts.entries))
        name, choices = chance.choice((("shape", SHAPES), ("dtype", tuple(BYTES)), ("", ("",))))
        if name:
            parts.entries[key][name] = chance.choice(choices)
        parts.fill(key, chance)
    return parts.in_order()


KINDS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_any_bytes, _cut, _longer, _header_signs, _header, _entry, _metadata, _settings),
    *(_fewer, _renamed, _renamed, _other_tensors, _other_tensors),
)
