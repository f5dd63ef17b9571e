"""Test-only nodes that carry Python objects into a prompt and out of it again."""

import itertools
from typing import Any, ClassVar


class AnyType(str):
    """A type that no other differs from: a plain "*" fits every input only in newer versions."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class TestObject:
    """Gives the object that :func:`put` was given, under any type."""

    __test__ = False  # not a test class for pytest
    objects: ClassVar[dict[str, Any]] = {}
    CATEGORY = "test"
    FUNCTION = "give"
    RETURN_TYPES = (AnyType("*"),)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"key": ("STRING", {})}}

    def give(self, key: str) -> tuple:
        return (self.objects[key],)


class TestCapture:
    """An output node that keeps what it receives for :meth:`RunResult.captured`."""

    __test__ = False
    received: ClassVar[dict[str, Any]] = {}
    CATEGORY = "test"
    FUNCTION = "take"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"value": (AnyType("*"), {})}, "hidden": {"unique_id": "UNIQUE_ID"}}

    @classmethod
    def IS_CHANGED(cls, **inputs: Any) -> float:
        return float("nan")  # never from the cache

    def take(self, value: Any, unique_id: str) -> tuple:
        self.received[unique_id] = value
        return ()


NODES = {"TestObject": TestObject, "TestCapture": TestCapture}

_count = itertools.count()


def put(value: Any) -> dict:
    """A prompt node whose output 0 is ``value``. Another object is another node to the cache."""
    key = f"{type(value).__name__} {next(_count)}"
    TestObject.objects[key] = value
    return {"class_type": "TestObject", "inputs": {"key": key}}
