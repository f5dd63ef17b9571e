"""Methods of a live model that something stands in for while it is loaded, and then no longer.

Other packs wrap what they find on a module, and may keep it for good. So what stood there before is
written down on the module and put back whoever stands there by then, and a stand-in that somebody
still calls after its time hands over to what it had covered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_COVERED = "_moga_covered"  # attribute of a module: {method name: _Cover}


@dataclass
class _Cover:
    """attribute: what the module itself had under the name, None for its class's method."""

    attribute: Any
    live: bool = True


def swap(module: nn.Module, name: str, make: Callable[[Callable[..., Any]], Callable]) -> None:
    """Let `make(previous)` stand in for the method `name`; `previous` is what stands there now.

    torch.compile never traces a stand-in, only what it calls: compile nodes drop the guards on
    transformer_options, so what a trace reads there would stay as it was in the first call.
    """
    previous = getattr(module, name)
    ours = untraced(make(previous))
    cover = _Cover(vars(module).get(name))

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        return (ours if cover.live else previous)(*args, **kwargs)

    stand_in = untraced(stand_in)
    # Packs that replace a foreign forward by the stock one (Sol-Attn) leave those alone that reach
    # optimized_attention, and with it their override, all the same.
    stand_in._uses_optimized_attention = True
    vars(module).setdefault(_COVERED, {})[name] = cover
    setattr(module, name, stand_in)


def restore(module: nn.Module) -> None:
    """Put back all that was swapped on the module; harmless where nothing was."""
    for name, cover in vars(module).pop(_COVERED, {}).items():
        cover.live = False
        if cover.attribute is not None:
            setattr(module, name, cover.attribute)
        elif name in vars(module):
            delattr(module, name)


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which torch.compile does not trace, though it may what the function calls."""
    return torch.compiler.disable(function, recursive=False)
