"""What a safetensors file holds, in words, from the names of its tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ...checkpoint import in_router

# The first line of which a word stands in any key, or which holds for one, says what the file is.
_SIGNS = (
    (("lora_A.", "lora_B.", "lora_down.", "lora_up.", ".lora.", ".diff_b"), "a LoRA"),
    (("vace_blocks.",), "Wan VACE"),
    (("motion_encoder.", "face_adapter."), "Wan Animate"),
    (("casual_audio_encoder.", "audio_injector."), "Wan S2V (speech to video)"),
    (("audio_proj.", "audio_cross_attn"), "Wan with audio (HuMo, MultiTalk or FantasyTalking)"),
    (("control_adapter.",), "Wan Fun Camera"),
    (("ref_conv.",), "Wan Fun Control"),
    (("patch_embedding_pose.", "pose_patch_embedding."), "Wan with pose control (SCAIL)"),
    (("blocks.0.cross_attn.norm_q.", "blocks.0.attn2.norm_q."), "a Wan transformer"),
    (in_router, "MoGA routers without a model"),
    (("encoder.block.0.layer.0.SelfAttention",), "a T5 or UMT5 text encoder"),
    (("token_embedding.weight",), "a text encoder in WanVideoWrapper's names"),
    (("decoder.upsamples.0.upsamples.0.",), "the VAE of Wan 2.2"),
    (("decoder.middle.0.residual.",), "the VAE of Wan 2.1"),
    (("decoder.up_blocks.", "decoder.up.", "decoder.mid."), "a VAE"),
    (("vision_model.", "visual_projection."), "a CLIP vision encoder"),
    (("text_model.", "transformer.resblocks."), "a CLIP text encoder"),
    (("model.layers.0.self_attn.",), "a language model"),
    (("txt_in.individual_token_refiner",), "HunyuanVideo"),
    (("double_blocks.", "single_transformer_blocks."), "Flux or a model like it"),
    (("joint_blocks.",), "Stable Diffusion 3"),
    (("input_blocks.", "down_blocks.0."), "Stable Diffusion (a UNet)"),
    (("adaln_single.", "caption_projection."), "LTX-Video or a model like it"),
    (("transformer_blocks.",), "another diffusion transformer"),
)


def looks_like(keys: Iterable[str]) -> str:
    """A few words for what the names of a file's tensors say it is."""
    keys = list(keys)
    for signs, what in _SIGNS:
        holds = signs if callable(signs) else lambda key, words=signs: any(w in key for w in words)
        if any(map(holds, keys)):
            return what
    if not keys:
        return "an empty file"
    return f"nothing known (its first tensor is {min(keys)!r})"


def quantised(dtypes: Collection[str], keys: Iterable[str]) -> str | None:
    """How a file is quantised in a way that needs more than a cast to undo, or None.

    dtypes: safetensors' names of the types in the file.
    """
    if any(key.endswith("comfy_quant") for key in keys):
        return "quantised (comfy_quant)"
    scales = ("scaled_fp8", ".scale_weight", ".weight_scale", ".scale_input")
    if any(key.endswith(scales) for key in keys):
        return "fp8 with scales"
    few = {"I8", "U8", "I4", "F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"}
    whole = sorted(set(dtypes) & few)
    return f"quantised ({whole[0]})" if whole else None
