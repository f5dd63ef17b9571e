"""The last word of a process that a signal reaches while it can't run Python."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Hashing releases the interpreter and hears no signal, as a process does that waits for a GPU.
DEAF = """
import hashlib, signal, sys
from moga.parallel.signals import last_word

signal.signal(signal.SIGTERM, lambda *_: sys.exit("heard"))
with last_word(lambda signum: print("ended by", signum, flush=True), grace=0.5):
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)
"""
IN_TIME = """
import signal, time
from moga.parallel.signals import last_word

try:
    with last_word(lambda signum: print("too late", flush=True), grace=2):
        print("begun", flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    time.sleep(3)
    print("in time", flush=True)
"""
MORE = """
import os, signal, time
from moga.parallel.signals import last_word

signal.signal(signal.SIGCHLD, lambda *_: None)  # what has ended a process ends its children too
try:
    with last_word(print):
        print("begun", flush=True)
        try:
            time.sleep(600)
        finally:
            for _ in range(3):
                time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGCHLD)
except KeyboardInterrupt:
    print("in time", flush=True)
"""


def stopped(program, signum):
    run = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert run.stdout.readline() == "begun\n"
    time.sleep(3)  # until it is deaf
    run.send_signal(signum)
    said = run.communicate(timeout=300)[0]
    return run.returncode, said


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_hears_nothing_has_a_last_word(signum):
    assert stopped(DEAF, signum) == (128 + signum, f"ended by {int(signum)}\n")


@pytest.mark.parametrize("program", [IN_TIME, MORE])
def test_one_that_hears_speaks_for_itself(program):
    assert stopped(program, signal.SIGINT) == (0, "in time\n")
