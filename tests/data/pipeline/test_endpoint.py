"""Captions from a server over HTTP that does all that servers do wrong."""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial

import numpy as np
import pytest
from chat_server import CAPTION, ChatServer, completion, cut_off, dropped, prompt_of, raw, slow
from PIL import Image

from moga.data.pipeline.captions import stage
from moga.data.pipeline.captions.endpoint import Endpoint, EndpointError
from moga.data.pipeline.captions.memory import Memory, Spent
from moga.data.pipeline.captions.stage import caption, check_captions
from moga.data.pipeline.records import Boundary, Box, Film, Shot, Source
from moga.data.pipeline.settings import Caption, Merge, Settings

SHOTS, FRAMES = 3, 30
SAME = "It shows the same bright square as before, seen from the other side."


@pytest.fixture(scope="module")
def film(make, tmp_path_factory):
    path = make.lossless(
        tmp_path_factory.mktemp("film") / "square.mkv", make.square(90, size=64), 16
    )
    edge, shots = Boundary("cut", 0, 0), []
    for i in range(SHOTS):
        start = i * FRAMES
        shots.append(
            Shot(f"s{i}", "s", i, start, start + FRAMES, edge, edge, crop=Box(8, 4, 48, 32))
        )
    return Film(Source("s", str(path), "square.mkv", 64, 64, Fraction(16), 90), tuple(shots))


def asked(server, **changed):
    base = {"by": "endpoint", "url": server.url, "model": "vision", "tries": 4, "timeout": 20,
            "frames": 2, "side": 24, "make_global": False}  # fmt: skip
    return Settings(caption=Caption(**{**base, **changed}), merge=Merge(fps=16))


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Endpoints that wait for a moment instead of a second before they try again."""
    monkeypatch.setattr(stage, "_endpoint", cache(lambda how: Endpoint(how, first_wait=0.01)))


def captions(film):
    return [shot.caption for shot in film.shots]


def test_what_a_server_is_asked(film, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with ChatServer(key="secret") as server:
        done = caption(film, asked(server, key_variable="MY_KEY"), tmp_path)
    assert captions(done) == [CAPTION] * SHOTS
    assert {shot.caption_source for shot in done.shots} == {"vision"}
    assert len(server.calls) == SHOTS
    for call in server.calls:
        assert call["model"] == "vision"
        text, *pictures = call["messages"][0]["content"]
        assert "2 frames" in text["text"] and "1.9 seconds" in text["text"]
        assert "in English" in text["text"] and "5 to 100 words" in text["text"]
        for picture in pictures:
            head, _, data = picture["image_url"]["url"].partition(",")
            assert head == "data:image/jpeg;base64"
            opened = Image.open(io.BytesIO(base64.b64decode(data)))
            assert opened.size == (24, 16)  # of 48 x 32, cropped
        assert len(pictures) == 2


BAD = {
    "429": 429,
    "500": 500,
    "503": 503,
    "broken JSON": raw(b"{"),
    "other JSON": raw(b"[1]"),
    "no choices": raw(b'{"choices": []}'),
    "no JSON": raw(b"<html>"),
    "not UTF-8": raw(b"\xff\xfe\xfd"),
    "not gzip": raw(b"plain", Content_Encoding="gzip"),
    "empty": "",
    "blank": " \n ",
    "null": raw(b'{"choices": [{"message": {"content": null}}]}'),
    "dropped": dropped,
    "cut off": cut_off,
    "slow": slow(3),
    "refusal": "I'm sorry, but I can't help with describing these pictures at all.",
    "curly refusal": "I\u2019m sorry, but I can\u2019t help with that, whatever it may be about.",
    "no pictures": "No images were provided, so please attach them and ask again, thank you.",
    "too short": "A square.",
    "too long": "square " * 301,
    "other language": "Un carré clair se déplace lentement sur un fond sombre, plan large.",
    "a shot's opening": "Wide shot of a square [4s] that moves over a dark ground.",
}


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("bad", BAD)
def test_whatever_goes_wrong_is_tried_again(film, tmp_path, bad, times):
    timeout = 1.5 if bad == "slow" else 20
    with ChatServer(*[BAD[bad]] * times) as server:
        settings = asked(server, timeout=timeout, concurrency=1)
        done = caption(replace(film, shots=film.shots[:1]), settings, tmp_path)
    assert captions(done) == [CAPTION]
    assert len(server.calls) == times + 1


@pytest.mark.parametrize("kept", ["<think>Hm, a square.</think>\n\n{}", "Hm.</think>{}", '"{}"',
                                  "Caption: {}", "```\n{}\n```", "“{}”"])  # fmt: skip
def test_what_models_put_around_a_caption_is_taken_off(film, tmp_path, kept):
    with ChatServer(kept.format(CAPTION)) as server:
        done = caption(replace(film, shots=film.shots[:1]), asked(server), tmp_path)
    assert captions(done) == [CAPTION] and len(server.calls) == 1


def test_a_bad_answer_is_told_what_was_wrong_with_it(film, tmp_path):
    with ChatServer("A square.") as server:
        caption(replace(film, shots=film.shots[:1]), asked(server), tmp_path)
    first, second = server.calls
    assert second["messages"][0] == first["messages"][0]
    assert second["messages"][1] == {"role": "assistant", "content": "A square."}
    said = "Not so: it has 2 words and should have 5 to 300. Answer again."
    assert second["messages"][2] == {"role": "user", "content": said}


def test_a_shot_that_gets_no_caption_is_left_without_or_dropped(film, tmp_path):
    film = replace(film, shots=film.shots[:1])
    for required in (False, True):
        with ChatServer(*["A square."] * 9) as server:
            settings = asked(server, tries=2, required=required)
            done = caption(film, settings, tmp_path / str(required))
        assert captions(done) == [""] and len(server.calls) == 2
        assert "2 answers were no captions, the last one: it has 2 words" in (
            done.shots[0].decisions[0].reason
        )
        assert done.shots[0].kept != required and bool(done.samples) != required


def test_nobody_calls_while_the_server_asks_to_wait(tmp_path):
    """The one thread is asked to, the other one hears of it; the server notes who comes early."""
    both, asked_at, early = threading.Barrier(2), threading.Event(), []
    until = [0.0]

    def busy(handler, body):
        both.wait(60)
        until[0] = time.monotonic() + 3.9
        raw(b"{}", 429, Retry_After="4")(handler, body)
        asked_at.set()

    def late(handler, body):
        both.wait(60)
        asked_at.wait(60)
        time.sleep(2)
        raw(completion(CAPTION))(handler, body)

    class Watching(ChatServer):
        def usual(self, body):
            if time.monotonic() < until[0]:
                early.append(body)
            return CAPTION

    with Watching(busy, late) as server, ThreadPoolExecutor(2) as pool:
        endpoint, memory = Endpoint(asked(server, concurrency=2).caption), Memory(tmp_path)
        ask = partial(endpoint.ask, frames=None, judge=str, memory=memory)
        assert list(pool.map(ask, ("one", "two", "three"))) == [CAPTION] * 3
    assert early == []


@pytest.mark.parametrize("status", [500, 429])
def test_a_server_that_stays_down_stops_the_run(film, tmp_path, status):
    with ChatServer(CAPTION, *[status] * 99) as server:
        settings = asked(server, tries=3, concurrency=1)
        with pytest.raises(EndpointError) as caught:
            caption(film, settings, tmp_path)
    assert len(server.calls) == 4  # the shots after it are not tried
    assert "failed 3 times, at last so: " in str(caught.value)
    assert "out of order. What was answered is kept; start again" in str(caught.value)
    with ChatServer() as server:  # at another address; what was answered is not asked again
        assert captions(caption(film, asked(server), tmp_path)) == [CAPTION] * SHOTS
    assert len(server.calls) == SHOTS - 1


def test_a_call_that_is_refused_is_not_tried_again(film, tmp_path):
    with (
        ChatServer(404) as server,
        pytest.raises(EndpointError, match=r"refuses the call \(404 Not"),
    ):
        caption(film, asked(server, concurrency=1), tmp_path)
    with ChatServer(raw(b"{}", 429, Retry_After="86400")) as server:
        with pytest.raises(EndpointError, match="asks to wait 86400 s"):
            caption(film, asked(server, concurrency=1), tmp_path)
        assert len(server.calls) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_is_refused_costs_its_shot_alone(film, tmp_path, status):
    """One that is too long, or whose pictures a filter does not let through."""
    with ChatServer(status) as server:
        done = caption(film, asked(server, concurrency=1), tmp_path)
    assert captions(done) == ["", *[CAPTION] * (SHOTS - 1)]
    assert f"the server refuses the question ({status} " in done.shots[0].decisions[0].reason


def test_as_many_calls_at_once_as_were_allowed(film, tmp_path):
    together = threading.Barrier(2)  # passed by nobody who is alone

    def wait(handler, body):
        together.wait(30)
        raw(completion(CAPTION))(handler, body)

    shots = [replace(film.shots[0], id=f"s{i}", start=4 * i, end=4 * i + 9) for i in range(6)]
    with ChatServer(*[wait] * 6) as server:
        done = caption(replace(film, shots=tuple(shots)), asked(server, concurrency=2), tmp_path)
    assert server.most_open == 2 and captions(done) == [CAPTION] * 6


def test_nothing_is_asked_twice(film, tmp_path):
    with ChatServer() as server:
        first = caption(film, asked(server), tmp_path)
        assert caption(film, asked(server), tmp_path) == first
        assert len(server.calls) == SHOTS
        caption(film, asked(server, frames=3), tmp_path)
        assert len(server.calls) == 2 * SHOTS  # other frames
        caption(film, asked(server, words_least=6), tmp_path)
        assert len(server.calls) == 3 * SHOTS  # another prompt
        moved = replace(film.source, name="elsewhere.mkv", id="t")
        caption(replace(film, source=moved), asked(server), tmp_path)
        assert len(server.calls) == 3 * SHOTS


def test_an_answer_that_was_damaged_or_no_longer_fits_is_asked_for_again(film, tmp_path):
    film = replace(film, shots=film.shots[:1])
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Describe {{ frames }} frames.")
    with ChatServer() as server:
        caption(film, asked(server, prompt=prompt), tmp_path)
        (kept,) = (tmp_path / "captions").glob("*/*.json")
        kept.write_text(kept.read_text()[:-9])
        caption(film, asked(server, prompt=prompt), tmp_path)
        assert len(server.calls) == 2
        server.replies.append("Large " * 9 + CAPTION)
        done = caption(film, asked(server, prompt=prompt, words_least=20), tmp_path)
        assert len(server.calls) == 3 and captions(done) == ["Large " * 9 + CAPTION]
        assert prompt_of(server.calls[0]) == "Describe 2 frames."


def test_what_was_spent_is_counted_with_what_was_turned_down(film, tmp_path):
    with ChatServer("A square.", raw(completion(CAPTION, prompt_tokens=7))) as server:
        caption(film, asked(server, concurrency=1), tmp_path)
        caption(film, asked(server, concurrency=1), tmp_path)
    spent = Memory(tmp_path).spent()
    assert spent == Spent(4, 307, 80)
    assert spent.cost(1e6, 2e6) == 307 + 160


def test_no_usage_is_no_failure(film, tmp_path):
    answer = json.dumps({"choices": [{"message": {"content": CAPTION}}]}).encode()
    with ChatServer(*[raw(answer)] * 3) as server:
        caption(film, asked(server), tmp_path)
    assert Memory(tmp_path).spent() == Spent(3, 0, 0)


# What all shots of a sample share


def shared(*texts):
    return json.dumps({"global": "A bright square on a dark ground.", "captions": texts})


def test_the_second_call_makes_one_text_of_all(film, tmp_path):
    with ChatServer(CAPTION, CAPTION, CAPTION, f"```json\n{shared(CAPTION, SAME, SAME)}\n```") as s:
        done = caption(film, asked(s, make_global=True, concurrency=1), tmp_path)
    (sample,) = done.samples
    assert sample.global_caption == "A bright square on a dark ground."
    assert [shot.caption for shot in sample.shots] == [CAPTION, SAME, SAME]
    assert captions(done) == [CAPTION] * SHOTS  # what was said of each alone is kept
    prompt = prompt_of(s.calls[3])
    assert prompt.count(CAPTION) == 3 and "3. (1.8 s)" in prompt
    assert len(s.calls[3]["messages"][0]["content"]) == 1  # no pictures


def test_a_second_call_that_fails_leaves_each_shot_its_own(film, tmp_path):
    answers = [CAPTION] * 3 + ["no JSON", shared(CAPTION), shared(CAPTION, "", CAPTION), "[]"]
    with ChatServer(*answers) as server:
        done = caption(film, asked(server, make_global=True, concurrency=1), tmp_path)
        assert len(server.calls) == 7
    (sample,) = done.samples
    assert sample.global_caption == ""
    assert [shot.caption for shot in sample.shots] == [CAPTION] * 3
    assert "no global caption, each shot keeps its own" in sample.decisions[-1].reason


# Before anything else


def test_an_endpoint_that_is_down_is_said_at_once():
    with ChatServer() as server:
        pass
    message = r"nobody answers \(.+\); start the server, or set caption\.by to none\.$"
    with pytest.raises(EndpointError, match=message):
        check_captions(asked(server))


def test_what_can_be_wrong_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sesame")
    (tmp_path / "a.txt").write_text("{{ frame }}")
    (tmp_path / "b.txt").write_text("{% for %}")
    (tmp_path / "c.txt").write_bytes(b"\xff")
    with ChatServer(models=("qwen-vl-7b",), key="secret") as server:
        for changed, message in {
            ("url", ""): r"^caption\.url is empty and caption\.by is endpoint; give one",
            ("url", "nowhere"): r"^caption\.url is nowhere, where nobody answers \(.*http",
            ("model", ""): r"^caption\.model is empty",
            (
                "key_variable",
                "MY_KEY",
            ): r"bad key\); put one into the environment variable MY_KEY\.$",
            ("prompt", tmp_path / "a.txt"): r"a\.txt, whose 'frame' means .*did you mean frames\?$",
            ("prompt", tmp_path / "b.txt"): r"b\.txt, which is no template \(line 1: ",
            ("global_prompt", tmp_path / "c.txt"): r"^caption\.global_prompt is .*not UTF-8; save",
            ("language", "english"): r"^caption\.language is 'english', which is no code",
            ("prompt", tmp_path / "d.txt"): r"cannot be read \(No such file",
        }.items():
            with pytest.raises(Exception, match=message) as caught:
                check_captions(asked(server, **dict([changed])))
            assert "sesame" not in str(caught.value)
        monkeypatch.setenv("MY_KEY", "secret")
        with pytest.raises(EndpointError, match=r"has not; did you mean 'qwen-vl-7b'\?$"):
            check_captions(asked(server, key_variable="MY_KEY", model="qwen-vl"))
        check_captions(asked(server, key_variable="MY_KEY", model="qwen-vl-7b"))
    check_captions(Settings())
    with pytest.raises(EndpointError, match=r"^caption\.required is on and caption\.by is none"):
        check_captions(Settings(caption=Caption(required=True)))


def test_frames_come_from_all_of_a_shot(film):
    frames = stage.sample_frames(film.source, replace(film.shots[0], crop=None), 30, 64)
    assert frames.shape == (30, 64, 64, 3)
    assert len(np.unique(frames.reshape(30, -1), axis=0)) > 20
