"""A plan that cannot be made."""

from __future__ import annotations

from ..errors import MogaError


class PlanError(MogaError, ValueError):
    """A request that no plan fits; the message names the option, the value and the fix."""
