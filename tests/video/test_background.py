"""The pipeline: order, bounds, and failures on either side."""

import threading
import time

import numpy as np
import pytest
import torch

from moga.vae.decode import to_uint8
from moga.video.background import Pipeline


def chunks(count, frames=2):
    make = torch.Generator().manual_seed(0)
    return [torch.rand(frames, 4, 6, 3, generator=make) for _ in range(count)]


def test_frames_arrive_in_order_in_another_thread():
    given, got, threads = chunks(20), [], set()

    def write(frames):
        got.append(frames.copy())
        threads.add(threading.current_thread())

    with Pipeline(write) as pipeline:
        for frames in given:
            pipeline.put(frames)
    assert np.array_equal(np.concatenate(got), to_uint8(torch.cat(given)).numpy())
    assert threads.isdisjoint({threading.current_thread()}) and len(threads) == 1
    assert not threads.pop().is_alive()


def test_frames_may_be_changed_once_they_are_handed_on():
    given, got, go = chunks(2), [], threading.Event()
    expected = to_uint8(torch.cat(given)).numpy()

    def write(frames):
        go.wait()
        got.append(frames.copy())

    with Pipeline(write) as pipeline:
        for frames in given:
            pipeline.put(frames)
            frames.zero_()
        go.set()
    assert np.array_equal(np.concatenate(got), expected)


def test_no_more_chunks_than_slots_are_on_their_way():
    on_the_way, most, lock = 0, 0, threading.Lock()

    def write(frames):
        nonlocal on_the_way
        time.sleep(0.002)
        with lock:
            on_the_way -= 1

    with Pipeline(write, slots=2) as pipeline:
        for frames in chunks(30):
            pipeline.put(frames)
            with lock:
                on_the_way += 1
                most = max(most, on_the_way)
    assert on_the_way == 0 and most <= 2 + 1  # one is counted by the time its write has ended


def test_chunks_travel_in_the_same_memory():
    """Not in new memory each, from which the C library makes a larger and larger heap."""
    places, given = [], chunks(30)
    with Pipeline(lambda frames: places.append(frames.ctypes.data), slots=3) as pipeline:
        for frames in given:
            pipeline.put(frames)
    assert len(places) == 30 and len(set(places)) <= 3


def test_a_larger_and_a_smaller_chunk_in_the_same_slot():
    given, got = [torch.rand(count, 4, 6, 3) for count in (1, 4, 2, 8, 1)], []
    with Pipeline(lambda frames: got.append(frames.copy()), slots=1) as pipeline:
        for frames in given:
            pipeline.put(frames)
    assert [len(each) for each in got] == [1, 4, 2, 8, 1]
    assert np.array_equal(np.concatenate(got), to_uint8(torch.cat(given)).numpy())


def test_the_next_frames_are_made_while_these_are_written():
    made = threading.Event()
    with Pipeline(lambda frames: made.wait(10)) as pipeline:
        first, second = chunks(2)
        pipeline.put(first)  # returns although its write cannot end yet
        made.set()
        pipeline.put(second)


def test_the_end_is_reached_after_the_last_write():
    done = []
    with Pipeline(lambda f: done.append(len(f)), finish=lambda: done.append("end")) as pipeline:
        for frames in chunks(3):
            pipeline.put(frames)
    assert done == [2, 2, 2, "end"]


def test_nothing_is_finished_after_a_failure():
    done = []
    with (
        pytest.raises(KeyError, match="out of luck"),
        Pipeline(lambda frames: None, finish=lambda: done.append("end")) as pipeline,
    ):
        pipeline.put(chunks(1)[0])
        raise KeyError("out of luck")
    assert done == []


def test_check_ends_waiting_for_an_end_that_hangs():
    stopped, ending = threading.Event(), threading.Event()

    def finish():
        ending.set()
        assert stopped.wait(10)

    def check():
        if ending.is_set():
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Pipeline(lambda f: None, stop=stopped.set, check=check, finish=finish) as pipeline,
    ):
        pipeline.put(chunks(1)[0])
    assert stopped.is_set()


def test_failing_write_ends_the_making():
    made = 0

    def write(frames):
        raise KeyError("full")

    with pytest.raises(KeyError, match="full"), Pipeline(write) as pipeline:
        for frames in chunks(1000):
            pipeline.put(frames)
            made += 1
    assert made < 1000


def test_failing_last_write_is_raised_at_the_end():
    got = []

    def write(frames):
        got.append(frames)
        if len(got) == 3:
            raise KeyError("full")

    with pytest.raises(KeyError, match="full"), Pipeline(write) as pipeline:
        for frames in chunks(3):
            pipeline.put(frames)


def test_failing_making_stops_a_write_that_waits():
    waiting, stopped = threading.Event(), threading.Event()

    def write(frames):
        waiting.set()
        assert stopped.wait(10)
        raise BrokenPipeError

    with (
        pytest.raises(KeyError, match="out of luck"),
        Pipeline(write, stop=stopped.set) as pipeline,
    ):
        pipeline.put(chunks(1)[0])
        waiting.wait(10)
        raise KeyError("out of luck")
    assert stopped.is_set()


@pytest.mark.parametrize("count", [2, 9], ids=["at the end", "in put"])
def test_check_ends_waiting_for_a_writer_that_hangs(count):
    stopped, looks = threading.Event(), []

    def check():
        looks.append(1)
        if len(looks) > 12:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Pipeline(lambda frames: stopped.wait(10), stop=stopped.set, check=check) as pipeline,
    ):
        for frames in chunks(count):
            pipeline.put(frames)
    assert stopped.is_set()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_frames_arrive_unharmed():
    given, got = [frames.repeat(1, 64, 64, 1) for frames in chunks(50, frames=4)], []
    with Pipeline(lambda frames: got.append(frames.copy())) as pipeline:
        for frames in given:
            pipeline.put(frames.to(device="cuda"))
    assert np.array_equal(np.concatenate(got), to_uint8(torch.cat(given)).numpy())
