"""Packed attention: the table of what can run it, the choice, and a module for each way."""

from .choose import Assignment, Work, assign, report, select
from .segments import Segments
from .table import AUTO, BACKENDS, Backend, BackendError, backend_names, backend_table, require

__all__ = [
    "AUTO",
    "BACKENDS",
    "Assignment",
    "Backend",
    "BackendError",
    "Segments",
    "Work",
    "assign",
    "backend_names",
    "backend_table",
    "report",
    "require",
    "select",
]
