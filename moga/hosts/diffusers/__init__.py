"""MoGA on diffusers' Wan models. Needs the extra `train`."""

from ...errors import MissingPackageError

try:
    import accelerate  # noqa: F401
    import diffusers  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise MissingPackageError(
        f'MoGA under diffusers needs {error.name}; run `pip install -e ".[train]"` in its folder.'
    ) from None

from .calls import ShotCall, ShotMismatchError
from .enable import (
    disable_moga,
    enable_moga,
    moga_config,
    moga_routers,
    record_routing,
    router_parameters,
    unwrap,
    watch_attention,
)
from .guidance import guide_in_halves
from .image_encoder import ImageEncoder, load_image_encoder, open_image_encoder
from .levels import run_at_levels
from .lora import LoraFile
from .names import to_wan
from .parallel import share_sequence
from .parts import Part, check_together
from .pipeline import (
    PipelineParts,
    build_pipeline,
    check_embeddings,
    load_pipeline,
    low_noise_expert,
    make_scheduler,
    pipeline_folder,
    save_video,
    shot_inputs,
)
from .text_encoder import (
    TextEncoder,
    check_lengths,
    load_text_encoder,
    load_tokenizer,
    open_text_encoder,
    token_count,
)
from .transformer import (
    Transformer,
    load_routers,
    load_wan,
    open_routers,
    open_wan,
    router_shapes,
    wan_state_dict,
)
from .vae import Vae, check_latents, decode_frames, encode_frames, load_vae, open_vae

__all__ = [
    "ImageEncoder",
    "LoraFile",
    "Part",
    "PipelineParts",
    "ShotCall",
    "ShotMismatchError",
    "TextEncoder",
    "Transformer",
    "Vae",
    "build_pipeline",
    "check_embeddings",
    "check_latents",
    "check_lengths",
    "check_together",
    "decode_frames",
    "disable_moga",
    "enable_moga",
    "encode_frames",
    "guide_in_halves",
    "load_image_encoder",
    "load_pipeline",
    "load_routers",
    "load_text_encoder",
    "load_tokenizer",
    "load_vae",
    "load_wan",
    "low_noise_expert",
    "make_scheduler",
    "moga_config",
    "moga_routers",
    "open_image_encoder",
    "open_routers",
    "open_text_encoder",
    "open_vae",
    "open_wan",
    "pipeline_folder",
    "record_routing",
    "router_parameters",
    "router_shapes",
    "run_at_levels",
    "save_video",
    "share_sequence",
    "shot_inputs",
    "to_wan",
    "token_count",
    "unwrap",
    "wan_state_dict",
    "watch_attention",
]
