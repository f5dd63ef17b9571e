"""The decode nodes: a latent to images or to a video file, a few frames at a time."""

from __future__ import annotations

from comfy_api.latest import InputImpl, io, ui

from ..moga.decode import to_uint8
from ..moga.hosts.comfyui.output import output_file, prefix_problem
from ..moga.hosts.comfyui.vae import decode_frames, decode_images, plan_decode
from ..moga.video import VideoWriter, find_ffmpeg, h264

CATEGORY = "MoGA/decode"

SAMPLES_TOOLTIP = "The video latent to decode: from a sampler, or loaded with Load Latent."
VAE_TOOLTIP = "The VAE the latent was made for: Wan 2.1 (16 channels) or Wan 2.2 (48 channels)."


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
                io.Latent.Input("samples", tooltip=SAMPLES_TOOLTIP),
                io.Vae.Input("vae", tooltip=VAE_TOOLTIP),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    display_name="IMAGE",
                    tooltip="All frames in order; the videos of a batch follow one another.",
                )
            ],
        )

    @classmethod
    def execute(cls, samples, vae) -> io.NodeOutput:
        return io.NodeOutput(decode_images(vae, plan_decode(vae, samples)))


class MoGADecodeToVideo(io.ComfyNode):
    """A latent to a video file, without ever holding all frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGADecodeToVideo",
            display_name="Chunked VAE Decode to Video",
            category=CATEGORY,
            description=(
                "Decodes a Wan video latent a few frames at a time, straight into an mp4 in the "
                "output folder. Memory doesn't grow with the length of the video."
            ),
            inputs=[
                io.Latent.Input("samples", tooltip=SAMPLES_TOOLTIP),
                io.Vae.Input("vae", tooltip=VAE_TOOLTIP),
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
                        "hold folders, and fields such as %date:yyyy-MM-dd% or %width%."
                    ),
                ),
                io.Int.Input(
                    "quality",
                    default=18,
                    min=1,
                    max=51,
                    tooltip=(
                        "Constant rate factor (crf): lower is better and makes a larger file. "
                        "18 looks like the original, 23 is smaller, 51 is the worst."
                    ),
                ),
            ],
            outputs=[
                io.Video.Output(
                    "video", display_name="VIDEO", tooltip="The saved file, for nodes that take it."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        """Refuse, before anything is sampled, what could only fail after it."""
        try:
            find_ffmpeg()
        except ImportError as error:
            return str(error)
        # A prefix that comes from another node isn't known yet.
        return True if filename_prefix is None else (prefix_problem(filename_prefix) or True)

    @classmethod
    def execute(cls, samples, vae, fps, filename_prefix, quality) -> io.NodeOutput:
        decode = plan_decode(vae, samples)
        if decode.channels != 3:
            raise ValueError(
                f"vae decodes to {decode.channels} channels and a video has 3; use "
                "Chunked VAE Decode, which gives them all as IMAGE."
            )
        file = output_file(filename_prefix, ".mp4", decode.width, decode.height)
        with VideoWriter(file.path, decode.width, decode.height, fps, h264(quality)) as video:
            decode_frames(vae, decode, lambda frames: video.write(to_uint8(frames).cpu().numpy()))
        preview = ui.SavedResult(file.name, file.subfolder, io.FolderType.output)
        return io.NodeOutput(InputImpl.VideoFromFile(str(file.path)), ui=ui.PreviewVideo([preview]))
