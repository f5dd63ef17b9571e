"""The node that turns a script of shots into conditioning."""

import uuid
from enum import Enum
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..moga.hosts.comfyui import encode_negative, encode_shots
from ..moga.hosts.comfyui.errors import as_value_error
from ..moga.hosts.comfyui.timeline import picture
from ..moga.pictures.timeline import draw_timeline
from ..moga.shots import DEFAULT_SCRIPT, ShotChain, ShotList
from .types import MogaShotChain, MogaShots, also_found_as, shown_from_cache

_FASTEST = 120.0  # frames per second
_PICTURE_WIDTH = 1280  # pixels: twice the node's in the shipped workflows, to be sharp close up


class _Link(Enum):
    """What `validate_inputs` gets for a link is None, so that None means one."""

    NONE = "no link"


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
                    tooltip="One shot per line: [4s] or [97f], then its text. Before the first "
                    "shot, 'global: ...' is put in front of every shot's text, and 'negative: ...' "
                    "is what none should show. JSON works too.",
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
                MogaShotChain.Input(
                    "chain",
                    optional=True,
                    tooltip="The last of a chain of Shot nodes: its shots are used instead of the "
                    "script.",
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
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The text of the script's 'negative: ...', which every shot reads; "
                    "empty text without one.",
                ),
                io.Float.Output(
                    display_name="fps",
                    tooltip="Connect to fps of the node that saves the video.",
                ),
            ],
            **shown_from_cache(),
            **also_found_as(
                "multi-shot", "shot list", "prompt schedule", "prompt travel", "timeline"
            ),
        )

    @classmethod
    def validate_inputs(
        cls, script: str | None = None, chain: _Link | None = _Link.NONE
    ) -> bool | str:
        """Refuse a script that no fps can mend: ComfyUI repeats what is said for each argument."""
        if script is None or chain is None:  # it comes from another node
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
    def execute(
        cls, clip: object, script: str, fps: float, chain: ShotChain | None = None
    ) -> io.NodeOutput:
        shots = ShotList.parse(script, fps) if chain is None else chain.at(fps)
        positive, negative = encode_shots(clip, shots), encode_negative(clip, shots)
        # The last for the page's timeline, where the script comes from other nodes.
        shown = {
            **_preview(shots).as_dict(),
            "text": (shots.table(),),
            "timeline": (picture(shots),),
        }
        return io.NodeOutput(positive, shots, shots.frames, negative, float(shots.fps), ui=shown)


def _preview(shots: ShotList) -> ui.SavedImages:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"moga_timeline_{uuid.uuid4().hex}.png"
    draw_timeline(shots, _PICTURE_WIDTH).save(folder / name)
    return ui.SavedImages([ui.SavedResult(name, "", io.FolderType.temp)])
