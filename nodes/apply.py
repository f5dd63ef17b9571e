"""The nodes that put MoGA, or the texts of the shots alone, on a model."""

from functools import partial

from comfy_api.latest import io

from ..moga.hosts.comfyui import (
    Settings,
    apply_moga,
    apply_shots,
    parse_blocks,
    show_on_node,
    summary,
    wan_model,
)
from ..moga.hosts.comfyui.errors import as_value_error
from ..moga.kernels import backend_names
from .types import ADVANCED, MogaRouters, MogaShots, also_found_as


def _where_moga_runs() -> list[io.Input]:
    """Steps, blocks and sizes of video."""
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Part of sampling at which MoGA begins; dense attention before it.",
            **ADVANCED,
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Part of sampling at which MoGA ends; dense attention after it.",
            **ADVANCED,
        ),
        io.String.Input(
            "dense_blocks",
            default="",
            tooltip="Blocks that stay dense, such as 0, 1, 28-29. Empty for none.",
            **ADVANCED,
        ),
        io.Int.Input(
            "min_tokens",
            default=0,
            min=0,
            max=10_000_000,
            tooltip="Videos with fewer tokens stay dense: frames x height x width, each "
            "of the latent after patches, (frames + 3) / 4 x height / 16 x width / 16 "
            "(/ 32 for Wan 2.2 5B).",
            **ADVANCED,
        ),
    ]


def _ffn_chunks() -> io.Input:
    return io.Int.Input(
        "ffn_chunks",
        default=1,
        min=1,
        max=64,
        optional=True,
        tooltip="Feed-forward in so many parts, one after the other: the same result, "
        "and less memory where a long video does not fit.",
        **ADVANCED,
    )


class MoGAApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGAApply",
            display_name="Apply MoGA",
            category="MoGA/model",
            description="Run a Wan model's self-attention as Mixture-of-Groups Attention, and let "
            "each shot read only its own text. Needs routers; without any, use Apply Shot Prompts.",
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
                *_where_moga_runs(),
                io.Combo.Input(
                    "backend",
                    options=backend_names(),
                    default="auto",
                    tooltip="Attention kernels. auto takes the fastest exact one that is "
                    "installed; sdpa is always there; sage is approximate.",
                ),
                _ffn_chunks(),
            ],
            outputs=[io.Model.Output()],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **also_found_as("mixture of groups attention", "sparse attention", "long video"),
        )

    @classmethod
    @as_value_error
    def execute(
        cls,
        model: object,
        start_percent: float,
        end_percent: float,
        dense_blocks: str,
        min_tokens: int,
        backend: str,
        shots: object = None,
        routers: object = None,
        ffn_chunks: int = 1,
    ) -> io.NodeOutput:
        cls._refuse_dense()
        settings = Settings(
            shots=shots,
            start_percent=start_percent,
            end_percent=end_percent,
            dense_blocks=parse_blocks(dense_blocks, len(wan_model(model).blocks)),
            min_tokens=min_tokens,
            backend=backend,
            ffn_chunks=ffn_chunks,
        )
        tell = partial(show_on_node, cls.hidden.unique_id)
        return _told(apply_moga(model, settings, routers, tell=tell), tell)

    @classmethod
    def _refuse_dense(cls) -> None:
        """Prompts of 0.1.0 may ask for it, and core drops an input that is not in the schema."""
        asked = (cls.hidden.prompt or {}).get(cls.hidden.unique_id, {}).get("inputs", {})
        attention = asked.get("attention", "moga")
        if attention != "moga":
            raise ValueError(
                f"attention is {attention!r}, which Apply MoGA no longer has; put Apply Shot "
                "Prompts (MoGAApplyShots) in its place, with the same model and shots."
            )


class MoGAApplyShots(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MoGAApplyShots",
            display_name="Apply Shot Prompts",
            category="MoGA/model",
            description="Let each shot of a video read only its own text, on any Wan model. "
            "Attention stays as it is, and no routers are needed.",
            inputs=[
                io.Model.Input("model", tooltip="A Wan 2.1 or 2.2 model."),
                MogaShots.Input(
                    "shots",
                    optional=True,  # as in graphs of 0.1.0
                    tooltip="The shots of the Multi-Shot Prompt Schedule whose conditioning is "
                    "used. Without it the video is one shot.",
                ),
                _ffn_chunks(),
            ],
            outputs=[io.Model.Output()],
            hidden=[io.Hidden.unique_id],
            **also_found_as("multi-shot", "prompt per shot", "prompt travel", "prompt relay"),
        )

    @classmethod
    @as_value_error
    def execute(cls, model: object, shots: object = None, ffn_chunks: int = 1) -> io.NodeOutput:
        tell = partial(show_on_node, cls.hidden.unique_id)
        return _told(apply_shots(model, shots, ffn_chunks, tell=tell), tell)


def _told(patched: object, tell: partial) -> io.NodeOutput:
    line = summary(patched)
    tell(line)
    return io.NodeOutput(patched, ui={"text": (line,)})
