"""The node that is one shot, for people who wire shots instead of writing a script."""

from comfy_api.latest import io

from ..moga.hosts.comfyui.errors import as_value_error
from ..moga.shots import Shot, ShotChain
from .types import MogaShotChain, also_found_as


class MoGAShot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGAShot",
            display_name="Shot",
            category="MoGA/conditioning",
            description="One shot of a video. Chain as many as there are, and connect the last to "
            "the Multi-Shot Prompt Schedule.",
            inputs=[
                io.String.Input(
                    "caption",
                    multiline=True,
                    default="",
                    tooltip="What the shot shows: only its own frames read it. May come from a "
                    "node that writes text.",
                ),
                io.Float.Input(
                    "seconds",
                    default=4.0,
                    min=0.01,
                    max=3600.0,
                    step=0.1,
                    tooltip="How long the shot lasts, as near as the model's frames allow.",
                ),
                MogaShotChain.Input(
                    "previous",
                    optional=True,
                    tooltip="The Shot before this one. The first shot has none.",
                ),
                io.String.Input(
                    "global",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Put in front of every shot's caption, like global: in a script. Give "
                    "it at one shot of the chain.",
                ),
            ],
            outputs=[
                MogaShotChain.Output(
                    display_name="chain",
                    tooltip="Connect to previous of the next Shot, or to chain of the Multi-Shot "
                    "Prompt Schedule.",
                )
            ],
            **also_found_as("multi-shot", "add shot", "storyboard"),
        )

    @classmethod
    def validate_inputs(cls, caption: str | None = None) -> bool | str:
        if caption is None:  # it comes from another node
            return True
        try:
            Shot(caption, frames=1)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @as_value_error
    def execute(
        cls, caption: str, seconds: float, previous: ShotChain | None = None, **more: str
    ) -> io.NodeOutput:
        shot = Shot(caption, seconds=seconds)
        return io.NodeOutput((previous or ShotChain()).then(shot, more.get("global", "")))
