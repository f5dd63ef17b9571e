"""What came of the checks that processes make together, launched once for a number of them."""

import json
from functools import cache
from pathlib import Path

import pytest
from torchrun import launch

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def together(tmp_path_factory):
    """together(processes, "cpu" or "cuda"): {check: None, or what went wrong on which rank}."""

    @cache
    def made(processes: int, device: str) -> dict[str, str | None]:
        folder = tmp_path_factory.mktemp(f"{processes}-processes")
        run = launch(processes, str(HERE / "ranks.py"), str(folder), MOGA_CHECKS_ON=device)
        told: dict[str, str | None] = {}
        for rank in range(processes):
            file = folder / f"{rank}.json"
            if not file.exists():  # none was made
                return {"stderr": run.stderr}
            for check, words in json.loads(file.read_text()).items():
                before = told.setdefault(check, None)
                if words:
                    told[check] = f"{before or ''}\nrank {rank}: {words}"
        return told

    return made
