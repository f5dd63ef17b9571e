"""The decode nodes: a latent to images or to a video file, a few frames at a time."""

from __future__ import annotations

from comfy_api.latest import InputImpl, io, ui

from ..moga.errors import MogaError
from ..moga.hosts.comfyui.errors import as_value_error
from ..moga.hosts.comfyui.films import FILMS
from ..moga.hosts.comfyui.output import folder_problem, prefix_problem, save_still
from ..moga.hosts.comfyui.progress import running_node, tell, wait_for_samples
from ..moga.hosts.comfyui.save import (
    SavedVideo,
    VideoSettings,
    read_settings,
    remarks,
    save_video,
)
from ..moga.hosts.comfyui.vae import decode_images, plan_decode, tile_problem
from ..moga.video.ffmpeg import find_ffmpeg
from ..moga.video.formats import FORMATS, trial
from .types import ADVANCED, MogaShots, also_found_as

CATEGORY = "MoGA/decode"

SAMPLES_TOOLTIP = "The video latent to decode: from a sampler, or loaded with Load Latent."
VAE_TOOLTIP = "The VAE the latent was made for: Wan 2.1 (16 channels) or Wan 2.2 (48 channels)."


def samples_input() -> io.Input:
    """Lazy: what is wrong with the other inputs is said before anything is sampled."""
    return io.Latent.Input("samples", lazy=True, tooltip=SAMPLES_TOOLTIP)


def tile_inputs() -> list[io.Input]:
    """Widgets that both nodes have; new on graphs saved before, hence optional."""
    return [
        io.Int.Input(
            "tile_size",
            default=0,
            min=0,
            max=4096,
            step=32,
            optional=True,
            tooltip=(
                "0 decodes whole frames, exactly. Another size, in pixels, decodes each frame in "
                "tiles where whole frames don't fit the card; the picture is then approximate, and "
                "seams may show."
            ),
            **ADVANCED,
        ),
        io.Int.Input(
            "tile_overlap",
            default=64,
            min=0,
            max=2048,
            step=16,
            optional=True,
            tooltip="Pixels over which neighbouring tiles are blended; at most half of tile_size.",
            **ADVANCED,
        ),
    ]


class MoGAChunkedDecode(io.ComfyNode):
    """A latent to one IMAGE, exactly as VAE Decode gives it, with one chunk at a time in VRAM."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGAChunkedDecode",
            display_name="Chunked VAE Decode",
            category=CATEGORY,
            description=(
                "Decodes a Wan video latent a few frames at a time. The images are exactly those "
                "of VAE Decode, and the device holds only the frames being decoded."
            ),
            inputs=[
                samples_input(),
                io.Vae.Input("vae", tooltip=VAE_TOOLTIP),
                *tile_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    display_name="IMAGE",
                    tooltip="All frames in order; the videos of a batch follow one another.",
                )
            ],
            **also_found_as("vae decode", "streamed decode", "long video"),
        )

    @classmethod
    @as_value_error
    def check_lazy_status(cls, samples=None, tile_size=0, tile_overlap=64, **inputs) -> list[str]:
        """Refuse tiles that can't be, and then ask for samples."""
        if problem := tile_problem(tile_size, tile_overlap):
            raise ValueError(problem)
        return wait_for_samples() if samples is None else []

    @classmethod
    @as_value_error
    def execute(cls, samples, vae, tile_size=0, tile_overlap=64) -> io.NodeOutput:
        return io.NodeOutput(decode_images(vae, plan_decode(vae, samples, tile_size, tile_overlap)))


def _film_inputs() -> list[io.Input]:
    """What every graph has had."""
    return [
        io.Float.Input(
            "fps",
            default=16.0,
            min=1.0,
            max=240.0,
            step=0.01,
            tooltip=(
                "Frames per second of the video: 16 for Wan 2.1 and the 14B models of "
                "Wan 2.2, 24 for the 5B model."
            ),
        ),
        io.String.Input(
            "filename_prefix",
            default="video/MoGA",
            tooltip=(
                "Name of the file in the output folder, which gets a number added. It may "
                "hold folders, and fields such as %date:yyyy-MM-dd% or %KSampler.seed%."
            ),
        ),
        io.Int.Input(
            "quality",
            default=18,
            min=1,
            max=51,
            tooltip=(
                "Constant rate factor (crf): lower is better and makes a larger file. "
                "18 looks like the original, 23 is smaller, 51 is the worst. ProRes, FFV1 "
                "and PNG have one quality only."
            ),
        ),
    ]


def _file_inputs() -> list[io.Input]:
    """New on graphs saved before, hence optional."""
    return [
        io.Combo.Input(
            "format",
            options=list(FORMATS),
            default="h264",
            optional=True,
            tooltip=(
                "h264 plays everywhere. h265 and av1 are smaller and slower to write. "
                "prores (mov) and ffv1 (mkv, lossless) are for editors, png is a folder of "
                "pictures. The nvenc ones are written by an NVIDIA card."
            ),
        ),
        io.Boolean.Input(
            "save_workflow",
            default=True,
            optional=True,
            tooltip=(
                "Put the workflow into the file, so that dropping it on the canvas brings "
                "the graph back. Turn it off for files that you give away."
            ),
            **ADVANCED,
        ),
        io.Boolean.Input(
            "keep_latent",
            default=False,
            optional=True,
            tooltip=(
                "Keep the latent file beside the video. It is always written before "
                "decoding begins; off removes it once the video is complete."
            ),
            **ADVANCED,
        ),
        io.Boolean.Input(
            "file_per_shot",
            default=True,
            optional=True,
            tooltip="With shots connected, save each shot as a file of its own as well.",
        ),
    ]


class MoGADecodeToVideo(io.ComfyNode):
    """A latent to a video file, without ever holding all frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGADecodeToVideo",
            display_name="Chunked VAE Decode to Video",
            category=CATEGORY,
            description=(
                "Decodes a Wan video latent a few frames at a time, straight into a video file in "
                "the output folder. Memory doesn't grow with the length of the video, and the "
                "latent is saved first, so that nothing sampled is lost."
            ),
            inputs=[
                samples_input(),
                io.Vae.Input("vae", tooltip=VAE_TOOLTIP),
                *_film_inputs(),
                *_file_inputs(),
                *tile_inputs(),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Sound for the video. What is longer than the video is cut off.",
                ),
                MogaShots.Input(
                    "shots",
                    optional=True,
                    tooltip="Shots that samples were made with: each cut becomes a chapter mark.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            outputs=[
                io.Video.Output(
                    "video", display_name="VIDEO", tooltip="The saved file, for nodes that take it."
                )
            ],
            is_output_node=True,
            **also_found_as("save video", "video combine", "vae decode", "mp4"),
        )

    def __init__(self) -> None:
        super().__init__()
        FILMS.node_made()

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        """Refuse, when the prompt is queued, what could only fail after sampling.

        One input: ComfyUI repeats a refusal under each of them, and checks the others' ranges.
        """
        try:
            find_ffmpeg()
        except MogaError as error:
            return str(error)
        if problem := folder_problem():
            return problem
        # What comes from another node isn't known yet, and None.
        return (filename_prefix is not None and prefix_problem(filename_prefix)) or True

    @classmethod
    @as_value_error
    def check_lazy_status(
        cls, samples=None, vae=None, tile_size=0, tile_overlap=64, **inputs
    ) -> list[str]:
        """Refuse, before anything is sampled, the rest of it, and then ask for samples.

        Unlike above, values that come from other nodes are there, and the prompt.
        """
        FILMS.node_runs(running_node())
        settings = read_settings(cls.hidden, **inputs)
        problems = tile_problem(tile_size, tile_overlap), trial(settings.encoder)
        if found := [problem for problem in problems if problem]:
            raise ValueError("\n".join(found))
        if samples is not None:
            return []
        asked = f"{settings.encoder.name}, {settings.fps:g} fps."
        tell(" ".join([asked, *remarks(vae, settings)]))
        return wait_for_samples()

    @classmethod
    @as_value_error
    def execute(
        cls, samples, vae, fps, filename_prefix, quality, tile_size=0, tile_overlap=64, **inputs
    ) -> io.NodeOutput:
        decode = plan_decode(vae, samples, tile_size, tile_overlap)
        if decode.channels != 3:
            raise ValueError(
                f"vae decodes to {decode.channels} channels and a video has 3; use "
                "Chunked VAE Decode, which gives them all as IMAGE."
            )
        settings = read_settings(cls.hidden, fps, filename_prefix, quality, **inputs)
        return shown(save_video(vae, decode, settings), settings)


def shown(saved: SavedVideo, settings: VideoSettings) -> io.NodeOutput:
    """The node's output and what it shows: the videos, or a still of what no browser plays."""
    if settings.encoder.plays_in_browsers:
        files = [
            ui.SavedResult(path.name, saved.subfolder, io.FolderType.output)
            for path in (saved.path, *saved.shots)
        ]
        preview = ui.PreviewVideo(files)
    else:
        preview = ui.SavedImages([ui.SavedResult(save_still(saved.still), "", io.FolderType.temp)])
    show = {**preview.as_dict(), "text": (saved.line,)}
    if settings.encoder.is_folder:
        blocked = f"{saved.path.name} is a folder of pictures; choose another format for a VIDEO."
        return io.NodeOutput(None, ui=show, block_execution=blocked)
    return io.NodeOutput(InputImpl.VideoFromFile(str(saved.path)), ui=show)
