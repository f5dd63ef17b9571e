"""Runs the same tests against further ComfyUIs: each is a test of this run, in its own process."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from find_comfyui import HOW_TO, find_comfyuis, read_version

SUMMARY = "ComfyUI"  # pytest's last line of such a test, as in "87 passed in 61.20s"


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
        self.add_marker(pytest.mark.timeout(0))  # its tests have their own

    def runtest(self) -> None:
        option = self.config.option
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-header"]
        command += [f"--tb={option.tbstyle}", f"--maxfail={option.maxfail or 0}", *self.node_ids]
        ours = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
        run = subprocess.run(
            command,
            cwd=self.config.rootpath,
            env={**ours, "COMFYUI_PATH": str(self.root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = run.stdout.strip().splitlines() or ["no output"]
        self.user_properties.append((SUMMARY, f"{self.name}: {lines[-1].strip('= ')}"))
        if run.returncode:
            pytest.fail(f"with {self.root}:\n{run.stdout}", pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


def summaries(stats: dict[str, list[Any]]) -> list[str]:
    """A line for each ComfyUI that tests ran in, where there were several."""
    reports = [(category, report) for category, found in stats.items() for report in found
               if isinstance(report, pytest.TestReport)]  # fmt: skip
    others = [dict(report.user_properties)[SUMMARY] for _, report in reports
              if report.when == "call" and SUMMARY in dict(report.user_properties)]  # fmt: skip
    if not others:
        return []
    here = [(category, r) for category, r in reports if r.nodeid.startswith("tests/comfyui/")]
    counts = Counter(category for category, _ in here if category)
    found = ", ".join(f"{count} {category}" for category, count in counts.items()) or "none run"
    seconds = sum(report.duration for _, report in here)
    return [f"{comfyui_name(find_comfyuis()[0])}: {found} in {seconds:.2f}s", *others]


def comfyui_name(root: Path) -> str:
    return f"ComfyUI {'.'.join(map(str, read_version(root)))}"
