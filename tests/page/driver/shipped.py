"""The shipped workflows on a page, at a size that a CPU can run."""

from find_comfyui import REPOSITORY

from .page import SCHEDULE, ComfyPage

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
ANY_WAN = REPOSITORY / "workflows" / "multishot_any_wan.json"
SHOTS = "global: A fox.\n[5f] It wakes.\n[4f] It runs."


def open_small(page: ComfyPage, script: str = SHOTS) -> None:
    """The workflow for any Wan, with few pixels and steps and a short script."""
    page.open_workflow(ANY_WAN)
    page.set_widget("EmptyHunyuanLatentVideo", "width", 64)
    page.set_widget("EmptyHunyuanLatentVideo", "height", 48)
    page.set_widget("KSampler", "steps", 2)
    page.set_widget(SCHEDULE, "script", script)
