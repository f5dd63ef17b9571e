"""What all processes agree on before any goes on."""

from moga.errors import MogaError
from moga.parallel.processes import ElsewhereError, Processes


def check_what_one_cannot_do_none_does(rank, ranks):
    processes = Processes(rank, ranks, rank)
    for wrong in range(ranks):
        told = None
        try:
            with processes.agreed():
                if rank == wrong:
                    raise MogaError(f"disk {rank} is full")
        except MogaError as error:
            told = error
        if wrong == rank == 0:
            assert str(told) == "disk 0 is full"
        else:
            assert type(told) is ElsewhereError
            assert str(told) == f"process {wrong} of {ranks}: disk {wrong} is full."


def check_a_bug_is_shown_whole(rank, ranks):
    told = ""
    try:
        with Processes(rank, ranks, rank).agreed():
            if rank == 1:
                raise ZeroDivisionError("here")
    except ElsewhereError as error:
        told = str(error)
    assert "Traceback" in told and "ZeroDivisionError: here" in told


def check_what_all_can_do_is_done(rank, ranks):
    processes = Processes(rank, ranks, rank)
    with processes.agreed():
        made = processes.from_main({"rank": rank})
    assert made == {"rank": 0} and processes.main == (rank == 0)
