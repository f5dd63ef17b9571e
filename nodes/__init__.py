"""The pack's nodes: inputs, tooltips, and calls into the library."""

from comfy_api.latest import ComfyExtension, io

from ..moga.hosts.comfyui.route import add_route
from .apply import MoGAApply, MoGAApplyShots
from .decode import MoGAChunkedDecode, MoGADecodeToVideo
from .inspection import MoGAInspect
from .loaders import MoGALoadDiffusionModel, MoGALoadRouters
from .schedule import MoGAShotSchedule
from .shot import MoGAShot


class MoGAExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            MoGALoadDiffusionModel,
            MoGALoadRouters,
            MoGAApply,
            MoGAApplyShots,
            MoGAInspect,
            MoGAShotSchedule,
            MoGAShot,
            MoGAChunkedDecode,
            MoGADecodeToVideo,
        ]


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI when it loads the pack."""
    add_route()
    return MoGAExtension()
