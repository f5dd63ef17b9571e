"""Settings of a MoGA model: what a checkpoint was trained with and carries in its header."""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import MogaError

VERSION = 1
BRANCHES = ("routed", "windows", "frames")
COMBINES = ("mean", "lse")
MAX_GROUPS = 256  # group ids are sorted as bytes
MAX_POSITIONS = 1024  # that Wan's RoPE reaches in each direction, so no latent is longer or wider


class ConfigError(MogaError, ValueError):
    """A MoGA setting that cannot be used; the message names the field, the value and the fix."""


@dataclass(frozen=True)
class MoGAConfig:
    """How one MoGA attention layer attends (arXiv 2510.18692, section 3).

    groups: number of routed groups M, up to 256.
    windows: spatial windows per latent frame, (rows, columns), each up to 1024.
    window_frames: latent frames per temporal group of a window, at most; up to 1024.
    boundary_frames: latent frames of keys and values borrowed from each adjacent shot, up to 1024.
    gate: multiply the routed branch by the winning probability.
    combine: "mean" of the branches (the paper), or "lse": one softmax over all neighbourhoods,
        without the gate, for routers that were fitted rather than trained.
    branches: the branches that run, out of "routed", "windows" and "frames".

    Raises ConfigError for a value that cannot be used.
    """

    groups: int = 5
    windows: tuple[int, int] = (2, 2)
    window_frames: int = 10
    boundary_frames: int = 2
    gate: bool = True
    combine: str = "mean"
    branches: tuple[str, ...] = BRANCHES

    def __post_init__(self) -> None:
        _whole("groups", self.groups, 1, MAX_GROUPS)
        if not isinstance(self.windows, (tuple, list)) or len(self.windows) != 2:
            raise ConfigError(
                f"windows is {_show(self.windows)}; give two whole numbers, rows and columns."
            )
        for count in self.windows:
            _whole("windows", count, 1, MAX_POSITIONS)
        _whole("window_frames", self.window_frames, 1, MAX_POSITIONS)
        _whole("boundary_frames", self.boundary_frames, 0, MAX_POSITIONS)
        if not isinstance(self.gate, bool):
            raise ConfigError(f"gate is {_show(self.gate)}; give true or false.")
        if self.combine not in COMBINES:
            raise ConfigError(
                f"combine is {_show(self.combine)}; choose one of {', '.join(COMBINES)}."
            )
        chosen = self.branches
        names = chosen if isinstance(chosen, (tuple, list)) else ()
        for branch in names:
            if branch not in BRANCHES:
                raise ConfigError(
                    f"branches names {_show(branch)}; choose out of {', '.join(BRANCHES)}."
                )
        if not names or len(set(names)) != len(names):
            raise ConfigError(
                f"branches is {_show(chosen)}; name each branch once, out of {', '.join(BRANCHES)}."
            )
        object.__setattr__(self, "windows", tuple(self.windows))
        object.__setattr__(self, "branches", tuple(b for b in BRANCHES if b in chosen))

    def to_json(self) -> str:
        """The settings with a format version, as stored under `moga` in a safetensors header."""
        return json.dumps({"version": VERSION, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> MoGAConfig:
        """Read `to_json` output. Raises ConfigError on anything this version cannot honour."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:  # numbers and lists can be too long for it
            raise ConfigError(f"the moga metadata is not JSON ({error}); save it again.") from None
        if not isinstance(data, Mapping):
            raise ConfigError(f"the moga metadata is {_show(data)}; it must be a JSON object.")
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MoGAConfig:
        """Like `from_json`, from decoded JSON."""
        values = dict(data)
        version = values.pop("version", None)
        if type(version) is not int or version < 1:
            raise ConfigError(
                f"the moga metadata has version {_show(version)}; expected {VERSION}."
            )
        if version > VERSION:
            raise ConfigError(
                f"the moga metadata has version {_show(version)} and this ComfyUI-MoGA reads up to "
                f"{VERSION}; update ComfyUI-MoGA."
            )
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(
                f"the moga metadata has the unknown setting {_show(unknown[0])}; "
                "it was not written by ComfyUI-MoGA, or its header was edited."
            )
        return cls(**values)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name} is {_show(value)}; give a whole number from {low} to {high}.")


def _show(value: object) -> str:
    """A value as a message quotes it: in one line, however large it is."""
    return reprlib.repr(value)
