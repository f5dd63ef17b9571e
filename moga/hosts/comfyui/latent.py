"""Nothing sampled is lost: the latent is on disk before anything that may fail begins."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from safetensors import SafetensorError
from torch import Tensor

from ...files import written_whole
from ...video.writer import VideoError
from .progress import tell


@contextmanager
def kept_latent(
    path: Path, latent: Tensor, metadata: Mapping[str, str], keep: bool
) -> Iterator[None]:
    """Save `latent` as core's Save Latent does, and remove it when the block succeeds.

    With `keep` it stays. What ends the block otherwise is raised again with the place of the
    latent and the way on from there. An interrupt has no words, so the node shows them.
    """
    save_latent(path, latent, metadata)
    try:
        yield
    except comfy.model_management.InterruptProcessingException:
        logging.warning("Interrupted. %s", way_on(path))
        tell(f"Interrupted. {way_on(path)}")
        raise
    except Exception as error:
        # ComfyUI frees memory on its own kind of error, so that kind has to stay.
        oom = isinstance(error, comfy.model_management.OOM_EXCEPTION)
        kind = comfy.model_management.OOM_EXCEPTION if oom else VideoError
        words = str(error) or type(error).__name__
        raise kind(f"{words}\n{way_on(path)}") from error
    if not keep:
        path.unlink(missing_ok=True)


def save_latent(path: Path, latent: Tensor, metadata: Mapping[str, str]) -> None:
    """Write ComfyUI's .latent format, under a temporary name until it is complete.

    Raises OSError when there is no room for it.
    """
    tensors = {
        "latent_tensor": latent.cpu().contiguous(),
        "latent_format_version_0": torch.tensor([]),
    }
    try:
        with written_whole(path) as partial:
            comfy.utils.save_torch_file(tensors, str(partial), metadata=dict(metadata) or None)
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        raise OSError(
            f"The latent can't be saved to {path} ({error}); free some space and queue again. What "
            "was sampled is still in ComfyUI's cache."
        ) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def way_on(path: Path) -> str:
    """Where a latent lies and how to go on with it, for a message."""
    return (
        f"The sampled latent is saved in {path}. To decode it without sampling again, move that "
        f"file to {folder_paths.get_input_directory()}, press R, and connect Load Latent to "
        "samples of Chunked VAE Decode to Video."
    )
