"""The node that puts MoGA on a model."""

from functools import partial

from comfy_api.latest import io

from ..moga.hosts.comfyui import (
    Settings,
    apply_moga,
    parse_blocks,
    show_on_node,
    summary,
    wan_model,
)
from ..moga.hosts.comfyui.errors import as_value_error
from ..moga.kernels import backend_names
from .types import MogaRouters, MogaShots


def _widgets() -> list[io.Input]:
    """What is set on the node itself."""
    return [
        io.Combo.Input(
            "attention",
            options=["moga", "dense"],
            default="moga",
            tooltip="moga needs routers. dense keeps the model's own self-attention and "
            "needs none: shots still reach their own text only, on any Wan model.",
        ),
        *_where_moga_runs(),
        io.Combo.Input(
            "backend",
            options=backend_names(),
            default="auto",
            tooltip="Attention kernels. auto takes the fastest exact one that is "
            "installed; sdpa is always there; sage is approximate. Does nothing under "
            "dense.",
        ),
        io.Int.Input(
            "ffn_chunks",
            default=1,
            min=1,
            max=64,
            optional=True,
            tooltip="Feed-forward in so many parts, one after the other: the same result, "
            "and less memory where a long video does not fit.",
        ),
    ]


def _where_moga_runs() -> list[io.Input]:
    """Steps, blocks and sizes of video."""
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Part of sampling at which MoGA begins; dense attention before it. "
            "Does nothing under dense.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Part of sampling at which MoGA ends; dense attention after it. "
            "Does nothing under dense.",
        ),
        io.String.Input(
            "dense_blocks",
            default="",
            tooltip="Blocks that stay dense, such as 0, 1, 28-29. Empty for none. Does "
            "nothing under dense.",
        ),
        io.Int.Input(
            "min_tokens",
            default=0,
            min=0,
            max=10_000_000,
            tooltip="Videos with fewer tokens stay dense: frames x height x width, each "
            "of the latent after patches, (frames + 3) / 4 x height / 16 x width / 16 "
            "(/ 32 for Wan 2.2 5B). Does nothing under dense.",
        ),
    ]


class MoGAApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGAApply",
            display_name="Apply MoGA",
            category="MoGA/model",
            description="Run a Wan model's self-attention as Mixture-of-Groups Attention, and let "
            "each shot read only its own text.",
            inputs=[
                io.Model.Input("model", tooltip="A Wan 2.1 or 2.2 model."),
                MogaShots.Input(
                    "shots",
                    optional=True,
                    tooltip="The shots of the Multi-Shot Prompt Schedule whose conditioning is "
                    "used. Without it the video is one shot.",
                ),
                MogaRouters.Input(
                    "routers",
                    optional=True,
                    tooltip="Routers from Load MoGA Routers; used instead of the model's own.",
                ),
                *_widgets(),
            ],
            outputs=[io.Model.Output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @as_value_error
    def execute(
        cls,
        model: object,
        attention: str,
        start_percent: float,
        end_percent: float,
        dense_blocks: str,
        min_tokens: int,
        backend: str,
        shots: object = None,
        routers: object = None,
        ffn_chunks: int = 1,
    ) -> io.NodeOutput:
        settings = Settings(
            shots=shots,
            attention=attention,
            start_percent=start_percent,
            end_percent=end_percent,
            dense_blocks=parse_blocks(dense_blocks, len(wan_model(model).blocks)),
            min_tokens=min_tokens,
            backend=backend,
            ffn_chunks=ffn_chunks,
        )
        tell = partial(show_on_node, cls.hidden.unique_id)
        patched = apply_moga(model, settings, routers, tell=tell)
        line = summary(patched)
        tell(line)
        return io.NodeOutput(patched, ui={"text": (line,)})
