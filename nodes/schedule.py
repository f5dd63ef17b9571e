"""The node that turns a script of shots into conditioning."""

import uuid
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..moga.hosts.comfyui import encode_shots
from ..moga.hosts.comfyui.errors import as_value_error
from ..moga.hosts.comfyui.timeline import picture
from ..moga.pictures.timeline import draw_timeline
from ..moga.shots import DEFAULT_SCRIPT, ShotList
from .types import MogaShots, shown_from_cache

_FASTEST = 120.0  # frames per second
_PICTURE_WIDTH = 1280  # pixels: twice the node's in the shipped workflows, to be sharp close up


class MoGAShotSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGAShotSchedule",
            display_name="Multi-Shot Prompt Schedule",
            category="MoGA/conditioning",
            description="Write a video as a list of shots. Each shot's text reaches only the "
            "frames of that shot.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model, UMT5 for Wan."),
                io.String.Input(
                    "script",
                    multiline=True,
                    default=DEFAULT_SCRIPT,
                    tooltip="One shot per line: [4s] or [97f], then its text. A line 'global: ...' "
                    "before the first shot is put in front of every shot's text. JSON works too.",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=1.0,
                    max=_FASTEST,
                    step=0.01,
                    tooltip="Frames per second the model was made for: 16 for Wan 2.1 and Wan 2.2 "
                    "14B, 24 for Wan 2.2 5B. Turns seconds into frames.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                MogaShots.Output(
                    display_name="shots", tooltip="Connect to shots of Apply MoGA: always."
                ),
                io.Int.Output(
                    display_name="length",
                    tooltip="Frames of the whole video: connect to the length of the node that "
                    "makes the latent.",
                ),
            ],
            **shown_from_cache(),
        )

    @classmethod
    def validate_inputs(cls, script: str | None = None) -> bool | str:
        """Refuse a script that no fps can mend: ComfyUI repeats what is said for each argument."""
        if script is None:  # it comes from another node
            return True
        problem = ""
        for fps in (16, _FASTEST):
            try:
                ShotList.parse(script, fps)
                return True
            except ValueError as error:
                problem = problem or str(error)
        return problem

    @classmethod
    @as_value_error
    def execute(cls, clip: object, script: str, fps: float) -> io.NodeOutput:
        shots = ShotList.parse(script, fps)
        # The last for the page's timeline, where the script comes from another node.
        shown = {
            **_preview(shots).as_dict(),
            "text": (shots.table(),),
            "timeline": (picture(shots),),
        }
        return io.NodeOutput(encode_shots(clip, shots), shots, shots.frames, ui=shown)


def _preview(shots: ShotList) -> ui.SavedImages:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"moga_timeline_{uuid.uuid4().hex}.png"
    draw_timeline(shots, _PICTURE_WIDTH).save(folder / name)
    return ui.SavedImages([ui.SavedResult(name, "", io.FolderType.temp)])
