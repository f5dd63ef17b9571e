"""The shipped workflows on a page, at a size that a CPU can run."""

from pathlib import Path

from find_comfyui import REPOSITORY

from .page import SCHEDULE, ComfyPage

GGUF = REPOSITORY / "workflows" / "multishot_gguf.json"  # which needs another pack
WORKFLOWS = [p for p in sorted((REPOSITORY / "workflows").glob("*.json")) if p != GGUF]
ANY_WAN = REPOSITORY / "workflows" / "multishot_any_wan.json"
MOGA = REPOSITORY / "workflows" / "moga_t2v_multishot.json"
SHOTS = "global: A fox.\n[5f] It wakes.\n[4f] It runs."


def open_small(page: ComfyPage, script: str = SHOTS, workflow: Path = ANY_WAN) -> None:
    """A workflow, with few pixels and steps and a short script."""
    page.open_workflow(workflow)
    set_small(page, script)


def set_small(page: ComfyPage, script: str = SHOTS) -> None:
    page.set_widget("EmptyHunyuanLatentVideo", "width", 64)
    page.set_widget("EmptyHunyuanLatentVideo", "height", 48)
    page.set_widget("KSampler", "steps", 2)
    page.set_widget(SCHEDULE, "script", script)
