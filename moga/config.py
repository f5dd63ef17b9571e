"""Settings of a MoGA model: what a checkpoint was trained with and carries in its header."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSION = 1
BRANCHES = ("routed", "windows", "frames")
COMBINES = ("mean", "lse")
MAX_GROUPS = 256  # group ids are sorted as bytes


class ConfigError(ValueError):
    """A MoGA setting that cannot be used; the message names the field, the value and the fix."""


@dataclass(frozen=True)
class MoGAConfig:
    """How one MoGA attention layer attends (arXiv 2510.18692, section 3).

    groups: number of routed groups M.
    windows: spatial windows per latent frame, (rows, columns).
    window_frames: latent frames per temporal group of a window, at most.
    boundary_frames: latent frames of keys and values borrowed from each adjacent shot.
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
                f"windows is {self.windows!r}; give two whole numbers, rows and columns."
            )
        for count in self.windows:
            _whole("windows", count, 1)
        _whole("window_frames", self.window_frames, 1)
        _whole("boundary_frames", self.boundary_frames, 0)
        if not isinstance(self.gate, bool):
            raise ConfigError(f"gate is {self.gate!r}; give true or false.")
        if self.combine not in COMBINES:
            raise ConfigError(f"combine is {self.combine!r}; choose one of {', '.join(COMBINES)}.")
        chosen = self.branches
        if not isinstance(chosen, (tuple, list)) or not chosen or len(set(chosen)) != len(chosen):
            raise ConfigError(
                f"branches is {chosen!r}; name each branch once, out of {', '.join(BRANCHES)}."
            )
        for branch in chosen:
            if branch not in BRANCHES:
                raise ConfigError(
                    f"branches names {branch!r}; choose out of {', '.join(BRANCHES)}."
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
        except json.JSONDecodeError as error:
            raise ConfigError(f"the moga metadata is not JSON ({error}); save it again.") from None
        if not isinstance(data, Mapping):
            raise ConfigError(f"the moga metadata is {data!r}; it must be a JSON object.")
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MoGAConfig:
        """Like `from_json`, from decoded JSON."""
        values = dict(data)
        version = values.pop("version", None)
        if type(version) is not int or version < 1:
            raise ConfigError(f"the moga metadata has version {version!r}; expected {VERSION}.")
        if version > VERSION:
            raise ConfigError(
                f"the moga metadata has version {version} and this ComfyUI-MoGA reads up to "
                f"{VERSION}; update ComfyUI-MoGA."
            )
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(
                f"the moga metadata has the unknown setting {unknown[0]!r}; "
                "it was not written by ComfyUI-MoGA, or its header was edited."
            )
        return cls(**values)


def _whole(name: str, value: object, low: int, high: int | None = None) -> None:
    if type(value) is not int or value < low or (high is not None and value > high):
        limit = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise ConfigError(f"{name} is {value!r}; give a whole number {limit}.")
