"""The pack's own wire types."""

from comfy_api.latest import io

MogaShots = io.Custom("MOGA_SHOTS")
MogaRouters = io.Custom("MOGA_ROUTERS")
