"""What a check asks for that cannot be had."""

from moga.parallel import ParallelismError


def refused(do, *given):
    """The sentence in which processes refuse `do(*given)`."""
    try:
        do(*given)
    except ParallelismError as error:
        return str(error)
    raise AssertionError("it was not refused")
