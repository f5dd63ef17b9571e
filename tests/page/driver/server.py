"""ComfyUI's own server in a process of its own: on the CPU, with the pack and tiny models."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from find_comfyui import REPOSITORY, frontend_folder, read_version

PACKS = {"ComfyUI-MoGA": REPOSITORY, "small_models": Path(__file__).parent / "small_models"}

# The page as at first, whatever the test before did to it.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.RightSidePanel.IsOpen": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # text also where the graph is small
}


class NotReached(Exception):
    """What a test waited for, to get to where it looks, did not come. No failed assertion."""


class ComfyServer:
    """A ComfyUI on a port of its own. ``base`` holds all that it reads and writes.

    It keeps what earlier runs returned, in every version; the newest does by itself, as long as
    there is memory.
    """

    def __init__(self, root: Path, base: Path) -> None:
        self.version = read_version(root)
        self.base, self.output = base, base / "output"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = base / "server.log"
        for folder in ("custom_nodes", "output", "user/default"):
            (base / folder).mkdir(parents=True)
        for name, folder in PACKS.items():
            (base / "custom_nodes" / name).symlink_to(folder, target_is_directory=True)
        command = [sys.executable, root / "main.py", "--cpu", "--base-directory", base]
        command += ["--front-end-root", frontend_folder(root), "--cache-lru", "50"]
        command += ["--listen", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        command += ["--disable-auto-launch", "--disable-api-nodes"]
        paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests" / "comfyui")))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                list(map(str, command)),
                cwd=base,
                env={**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,  # by its end the server knows that the tests have ended
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_up(self) -> None:
        try:
            wait_until(self._is_up, "the server to answer", 180)
        except NotReached as error:
            raise NotReached(f"{error}:\n{self.log()}") from None

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            raise NotReached(f"ComfyUI ended with {self._process.returncode}:\n{self.log()}")
        try:
            return bool(self.get("/system_stats"))
        except OSError:
            return False

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def reset(self, settings: Mapping[str, Any]) -> None:
        """As after a new start: nothing queued, running, returned or saved."""
        self.post("/queue", {"clear": True})
        self.post("/interrupt", {})
        wait_until(lambda: not self.get("/prompt")["exec_info"]["queue_remaining"], "an idle queue")
        self.post("/free", {"free_memory": True})
        self.post("/settings", {**SETTINGS, **settings})
        for path in self.output.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def log(self, start: int = 0) -> str:
        return self._log.read_bytes()[start:].decode(errors="replace")

    @property
    def log_size(self) -> int:
        return self._log.stat().st_size

    def outputs(self, pattern: str) -> list[str]:
        """Files in the output folder, as in video/MoGA_00001_.mp4."""
        return sorted(
            path.relative_to(self.output).as_posix() for path in self.output.rglob(pattern)
        )

    def saved_workflow(self, name: str) -> Path:
        return self.base / "user" / "default" / "workflows" / f"{name}.json"

    def get(self, path: str) -> Any:
        return json.loads(self._open(path))

    def post(self, path: str, body: Mapping[str, Any]) -> None:
        self._open(path, json.dumps(body).encode())

    def _open(self, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"} if data else {}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=20) as reply:
            return reply.read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
    """Raises NotReached when ``condition()`` is still false after ``seconds``."""
    if not soon(condition, seconds):
        raise NotReached(f"waited {seconds} seconds for {what}")


def soon(condition: Callable[[], Any], seconds: float = 60) -> bool:
    """Whether ``condition()`` comes true within ``seconds``."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(found)
