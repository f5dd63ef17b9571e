"""The address that the page's timeline asks: registered by the pack, answered whatever it gets."""

import asyncio
import json
import threading
import types
import urllib.error
import urllib.request

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

SCRIPT = "global: A fox.\n[4s] It wakes.\n# [1s] not a shot\n[2.5 sec] It runs.\n[97f] It sleeps."


@pytest.fixture(scope="module")
def ask(comfy):
    """POSTs bytes to the route on a real server; (status, JSON)."""
    from aiohttp import web

    route = comfy.module("moga.hosts.comfyui.route")
    server = types.SimpleNamespace(routes=web.RouteTableDef())
    loop, address, started = asyncio.new_event_loop(), [], threading.Event()

    def register():
        import server as comfyui

        before, comfyui.PromptServer.instance = comfyui.PromptServer.instance, server
        try:
            route.add_route()
            route.add_route()  # by a second copy of the pack
        finally:
            comfyui.PromptServer.instance = before

    async def start():
        application = web.Application(client_max_size=100 * 1024**2)  # as ComfyUI's own
        application.add_routes(server.routes)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}/moga/timeline")
        started.set()
        return runner

    def serve():
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    register()
    thread = threading.Thread(target=serve)
    thread.start()
    started.wait(30)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(body):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with direct.open(urllib.request.Request(address[0], body), timeout=60) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    yield post
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)


def test_a_script_is_answered_with_its_shots(ask):
    status, reply = ask({"script": SCRIPT, "fps": 16})
    timeline = reply["timeline"]
    assert status == 200 and set(reply) == {"timeline"}
    assert [(s["line"], s["start"], s["frames"], s["asked"]) for s in timeline["shots"]] == [
        (2, 0, 65, "4s"),
        (4, 65, 40, "2.5s"),
        (5, 105, 96, "97f"),
    ]
    assert timeline["shots"][1]["caption"] == "It runs."
    assert timeline["frames"] == 201 and timeline["fps"] == 16
    assert timeline["summary"] == (
        "3 shots, 201 frames, 12.56 s at 16 fps, 51 latent frames, 79,560 tokens at 832 x 480"
    )


@pytest.mark.parametrize(
    ("latent", "tokens"),
    [
        ({"node": "EmptyHunyuanLatentVideo", "width": 64, "height": 48}, "12 tokens at 64 x 48"),
        ({"node": "WanImageToVideo", "width": 72, "height": 40}, "15 tokens at 72 x 40"),
        ({"node": "Wan22ImageToVideoLatent", "width": 64, "height": 64}, "4 tokens at 64 x 64"),
        ({"node": "x", "width": "64", "height": 48}, "1,560 tokens at 832 x 480"),
        ({"width": -1, "height": 1e400}, "1,560 tokens at 832 x 480"),
        (None, "1,560 tokens at 832 x 480"),
    ],
)
def test_tokens_are_those_of_the_latent(ask, latent, tokens):
    _, reply = ask({"script": "[1f] a", "fps": 16, "latent": latent})
    assert reply["timeline"]["summary"].endswith(f", 1 latent frame, {tokens}")


def test_a_mistake_is_answered_with_its_place(ask):
    message = 'script line 2: "[2]" has no unit; write [2s] for seconds or [2f] for frames.'
    error = {"line": 2, "column": None, "message": message}
    assert ask({"script": "[4s] a\n[2] b", "fps": 16}) == (200, {"error": error})
    _, reply = ask({"script": '[{"caption": "a"\n "seconds": 4}]', "fps": 16})
    assert (reply["error"]["line"], reply["error"]["column"]) == (2, 2)


def test_a_moved_cut_is_answered_with_the_script_and_its_shots(ask):
    _, reply = ask({"script": SCRIPT, "fps": 16, "edit": {"cut": 1, "seconds": 3.1}})
    script = SCRIPT.replace("[4s]", "[3s]").replace("[2.5 sec]", "[3.5 sec]")
    assert reply["script"] == script
    assert reply["timeline"] == ask({"script": script, "fps": 16})[1]["timeline"]
    assert reply["timeline"]["frames"] == 201


def test_an_added_shot_is_answered_with_the_script_and_its_shots(ask):
    _, reply = ask({"script": SCRIPT, "fps": 16, "edit": {"add": True}})
    assert reply["script"] == f"{SCRIPT}\n[97f] Write what this shot shows.\n"
    assert reply["timeline"]["shots"][3]["line"] == 6


def test_a_request_that_is_too_large_is_refused(ask):
    status, reply = ask({"script": "[4s] " + "a" * 300_000, "fps": 16})
    assert (status, set(reply)) == (413, {"error"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
BITS = st.sampled_from(
    ["[4s] a", "[0s]", "[97f] b", "[", "]", "{", '{"shots": [', '"caption": "a"', '"seconds": 4',
     ",", "}", "\n", "\r", "global: ", "negative: ", "#", "\ud800", "\x00",
     "1e999", "[9999999999f] c"]
)  # fmt: skip
SCRIPTS = st.lists(BITS | st.text(max_size=5), max_size=9).map("".join) | st.just(SCRIPT)
EDITS = st.fixed_dictionaries({"cut": st.integers(-2, 9), "seconds": st.floats() | st.integers()})
REQUESTS = st.fixed_dictionaries(
    {"script": SCRIPTS | JSON, "fps": st.floats() | st.sampled_from([16, 24, 0.001]) | JSON},
    optional={
        "edit": EDITS | st.just({"add": True}) | JSON,
        "latent": st.fixed_dictionaries({"node": JSON, "width": JSON, "height": JSON}) | JSON,
    },
)


@given(REQUESTS.map(lambda request: json.dumps(request).encode()) | st.binary())
@example(b"[" * 200_000)
@example(b'{"script": "[4s] a", "fps": 1' + b"0" * 9000 + b"}")
@example(b'{"script": "[4s] a", "fps": 16, "edit": {"cut": 1, "seconds": NaN}}')
def test_any_request_is_answered(ask, body):
    """With a status of its own, JSON, and nothing in it but numbers that JSON has."""
    status, reply = ask(body)
    json.dumps(reply, allow_nan=False)
    assert status in (200, 400)
    if "error" in reply:
        assert set(reply["error"]) == {"line", "column", "message"}
        assert reply["error"]["message"] and "\n" not in reply["error"]["message"]
    else:
        assert status == 200 and reply["timeline"]["shots"]


def test_a_ComfyUI_without_a_server_has_no_route(comfy):
    """As here, where the pack was loaded without one."""
    import server

    assert not hasattr(server.PromptServer.instance, "routes")


def test_a_run_shows_what_reached_its_node(comfy, ask):
    ui = comfy.module("moga.hosts.comfyui.timeline")
    shots = comfy.module("moga.shots").ShotList.parse(SCRIPT, 16)
    shown = json.loads(json.dumps(ui.picture(shots)))
    typed = ask({"script": SCRIPT, "fps": 16})[1]["timeline"]
    assert [{**shot, "line": None} for shot in typed["shots"]] == shown["shots"]
    assert {**typed, "shots": []} == {**shown, "shots": []}
