"""Runs the same tests against further ComfyUIs: each is a test of this run, in its own process."""

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from find_comfyui import HOW_TO, read_version


class Finished(NamedTuple):
    code: int
    output: str

    @property
    def summary(self) -> str:
        """pytest's last line, as in "87 passed in 61.20s"."""
        lines = self.output.strip().splitlines()
        return lines[-1].strip("= ") if lines else "no output"


class NoComfyUI(pytest.Item):
    """Stands for all tests that need a ComfyUI when there is none."""

    def runtest(self) -> None:
        pytest.skip(HOW_TO)


class OtherComfyUI(pytest.Item):
    """The tests ``node_ids`` with the ComfyUI in ``root``."""

    def __init__(self, *, root: Path, node_ids: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.node_ids = node_ids
        self.future: Future[Finished] | None = None
        self.process: subprocess.Popen | None = None
        self.add_marker(pytest.mark.timeout(0))  # its tests have their own

    def start(self, pool: ThreadPoolExecutor) -> None:
        self.future = pool.submit(self.run_tests)

    def run_tests(self) -> Finished:
        option = self.config.option
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-header"]
        command += [f"--tb={option.tbstyle}", f"--maxfail={option.maxfail or 0}", *self.node_ids]
        self.process = subprocess.Popen(
            command,
            cwd=self.config.rootpath,
            env={**os.environ, "COMFYUI_PATH": str(self.root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output, _ = self.process.communicate()
        return Finished(self.process.returncode, output)

    def stop(self) -> None:
        if self.future:
            self.future.cancel()
        if self.process:
            self.process.terminate()

    def runtest(self) -> None:
        finished = self.future.result()
        if finished.code:
            pytest.fail(f"with {self.root}:\n{finished.output}", pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name

    @property
    def summary(self) -> str:
        done = self.future and self.future.done() and not self.future.cancelled()
        return f"{self.name}: {self.future.result().summary if done else 'not finished'}"


def comfyui_name(root: Path) -> str:
    return f"ComfyUI {'.'.join(map(str, read_version(root)))}"
