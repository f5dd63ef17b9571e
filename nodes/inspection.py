"""The node that shows what routing does in a model."""

import uuid
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui

from ..moga.config import MAX_GROUPS, MoGAConfig
from ..moga.diagnostics import LEVELS, MOST_QUERIES, QUERIES
from ..moga.hosts.comfyui import inspect_model
from ..moga.hosts.comfyui.errors import as_value_error
from ..moga.pictures.routing import draw_routing
from .types import MogaRouters, MogaShots


def _what_is_seen() -> list[io.Input]:
    """The model, what it is run on, and what may be connected besides."""
    return [
        io.Model.Input(
            "model",
            tooltip="A Wan 2.1 or 2.2 model. With Apply MoGA on it, that is what is looked at. A "
            "model without any routers runs dense, and random ones are measured: what if.",
        ),
        io.Conditioning.Input("positive", tooltip="What the model is conditioned on."),
        io.Latent.Input(
            "latent",
            tooltip="A finished video latent: from a sampler, or loaded with Load Latent. Noise is "
            "put back onto it.",
        ),
        MogaShots.Input(
            "shots",
            optional=True,
            tooltip="The shots of the Multi-Shot Prompt Schedule whose conditioning is used. Not "
            "needed behind Apply MoGA.",
        ),
        MogaRouters.Input(
            "routers",
            optional=True,
            tooltip="Routers from Load MoGA Routers. Not needed behind Apply MoGA.",
        ),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="Shows the frames under their groups. Without it their colours are guessed.",
        ),
    ]


def _how() -> list[io.Input]:
    """What is set on the node itself."""
    return [
        io.String.Input(
            "noise_levels",
            default=LEVELS,
            tooltip="From 1 (noise alone) to 0 (the finished latent), with commas between them. "
            "The model runs once for each.",
        ),
        io.String.Input(
            "blocks",
            default="",
            tooltip="Blocks that are measured, such as 0, 1, 28-29. Empty for all.",
        ),
        io.Int.Input(
            "queries",
            default=QUERIES,
            min=1,
            max=MOST_QUERIES,
            tooltip="Tokens of each block that are compared with dense attention, spread at random "
            "over the video. All of a video that has no more.",
        ),
        io.Int.Input(
            "groups",
            default=5,
            min=1,
            max=MAX_GROUPS,
            tooltip="Groups of the random routers. Does nothing where there are routers.",
        ),
        io.Int.Input(
            "windows",
            default=2,
            min=1,
            max=16,
            tooltip="Windows of a frame in each direction, with random routers: 2 for 2x2, 4 for "
            "the 20 groups of the paper. Does nothing where there are routers.",
        ),
        io.Int.Input(
            "random_seed",  # pages give a "seed" a control that changes it after every run
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            tooltip="Of the noise, the queries and random routers.",
        ),
    ]


class MoGAInspect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGAInspect",
            display_name="Inspect MoGA",
            category="MoGA/model",
            description="Shows what routing does: which group each token goes to, how far each "
            "block is from dense attention, and which blocks are better left dense.",
            inputs=[*_what_is_seen(), *_how()],
            outputs=[
                io.Image.Output("picture", display_name="IMAGE"),
                io.String.Output("report", display_name="report"),
            ],
            is_output_node=True,
        )

    @classmethod
    @as_value_error
    def execute(
        cls,
        model: object,
        positive: object,
        latent: dict,
        noise_levels: str,
        blocks: str,
        queries: int,
        groups: int,
        windows: int,
        random_seed: int,
        shots: object = None,
        routers: object = None,
        vae: object = None,
    ) -> io.NodeOutput:
        looked = inspect_model(
            model,
            positive,
            latent,
            levels=noise_levels,
            blocks=blocks,
            queries=queries,
            seed=random_seed,
            what_if=MoGAConfig(groups=groups, windows=(windows, windows)),
            shots=shots,
            routers=routers,
            vae=vae,
        )
        picture = draw_routing(looked.found, looked.title, looked.about, looked.frames)
        shown = {**_saved(picture).as_dict(), "text": (looked.text(),)}
        image = torch.from_numpy(np.asarray(picture, np.float32) / 255)[None]
        return io.NodeOutput(image, looked.text(), ui=shown)


def _saved(picture: object) -> ui.SavedImages:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"moga_routing_{uuid.uuid4().hex}.png"
    picture.save(folder / name)
    return ui.SavedImages([ui.SavedResult(name, "", io.FolderType.temp)])
