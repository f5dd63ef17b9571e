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
from .enable import disable_moga, enable_moga, moga_config, moga_routers, record_routing
from .pipeline import load_pipeline, save_video, shot_inputs
from .text_encoder import load_text_encoder
from .transformer import load_routers, load_wan, wan_state_dict
from .vae import decode_frames, load_vae

__all__ = [
    "ShotCall",
    "ShotMismatchError",
    "decode_frames",
    "disable_moga",
    "enable_moga",
    "load_pipeline",
    "load_routers",
    "load_text_encoder",
    "load_vae",
    "load_wan",
    "moga_config",
    "moga_routers",
    "record_routing",
    "save_video",
    "shot_inputs",
    "wan_state_dict",
]
