"""The nodes that the fake ComfyUI has: those of the shipped workflows and a few more, as facts in short.

An input is ``name=TYPE``, ``name=INT min..max``, ``name=one|other`` (a choice), or ``name=@folder`` (a file of that
folder of the server); a question mark after the name makes it optional. Seen at a ComfyUI 0.27's /object_info.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Node:
    """A class of nodes: its inputs in short, what it gives, and whether it is an output node."""

    inputs: str
    gives: tuple[str, ...] = ()
    is_output: bool = False


NODES: dict[str, Node] = {
    "BasicGuider": Node(
        inputs="model=MODEL; conditioning=CONDITIONING",
        gives=("GUIDER",),
    ),
    "BasicScheduler": Node(
        inputs=("model=MODEL; scheduler=simple|sgm_uniform; steps=INT 1..10000; denoise=FLOAT 0.0..1.0"),
        gives=("SIGMAS",),
    ),
    "CLIPLoader": Node(
        inputs=(
            "clip_name=@text_encoders; type=stable_diffusion|stable_cascade|ltxv|stable_audio|wan; device?=default|cpu"
        ),
        gives=("CLIP",),
    ),
    "CLIPTextEncode": Node(
        inputs="text=STRING; clip=CLIP",
        gives=("CONDITIONING",),
    ),
    "CLIPVisionEncode": Node(
        inputs="clip_vision=CLIP_VISION; image=IMAGE; crop=center|none",
        gives=("CLIP_VISION_OUTPUT",),
    ),
    "CLIPVisionLoader": Node(
        inputs="clip_name=@clip_vision",
        gives=("CLIP_VISION",),
    ),
    "CheckpointLoaderSimple": Node(
        inputs="ckpt_name=@checkpoints",
        gives=(
            "MODEL",
            "CLIP",
            "VAE",
        ),
    ),
    "ConditioningStableAudio": Node(
        inputs=(
            "positive=CONDITIONING; negative=CONDITIONING; seconds_start=FLOAT 0.0..1000.0; "
            "seconds_total=FLOAT 0.0..1000.0"
        ),
        gives=(
            "CONDITIONING",
            "CONDITIONING",
        ),
    ),
    "ConditioningZeroOut": Node(
        inputs="conditioning=CONDITIONING",
        gives=("CONDITIONING",),
    ),
    "CreateVideo": Node(
        inputs=("images=IMAGE; fps=FLOAT 1.0..120.0; audio?=AUDIO; bit_depth?=INT 8..10"),
        gives=("VIDEO",),
    ),
    "DualCLIPLoader": Node(
        inputs=(
            "clip_name1=@text_encoders; clip_name2=@text_encoders; type=sdxl|sd3|hunyuan_video; device?=default|cpu"
        ),
        gives=("CLIP",),
    ),
    "EmptyAceStepLatentAudio": Node(
        inputs="seconds=FLOAT 1.0..1000.0; batch_size=INT 1..4096",
        gives=("LATENT",),
    ),
    "EmptyHunyuanLatentVideo": Node(
        inputs=("width=INT 16..16384; height=INT 16..16384; length=INT 1..16384; batch_size=INT 1..4096"),
        gives=("LATENT",),
    ),
    "EmptyImage": Node(
        inputs=("width=INT 1..16384; height=INT 1..16384; batch_size=INT 1..4096; color=INT 0..16777215"),
        gives=("IMAGE",),
    ),
    "EmptyLTXVLatentVideo": Node(
        inputs=("width=INT 64..16384; height=INT 64..16384; length=INT 1..16384; batch_size=INT 1..4096"),
        gives=("LATENT",),
    ),
    "EmptyLatentAudio": Node(
        inputs="seconds=FLOAT 1.0..1000.0; batch_size=INT 1..4096",
        gives=("LATENT",),
    ),
    "EmptyLatentImage": Node(
        inputs="width=INT 16..16384; height=INT 16..16384; batch_size=INT 1..4096",
        gives=("LATENT",),
    ),
    "EmptySD3LatentImage": Node(
        inputs="width=INT 16..16384; height=INT 16..16384; batch_size=INT 1..4096",
        gives=("LATENT",),
    ),
    "FluxGuidance": Node(
        inputs="conditioning=CONDITIONING; guidance=FLOAT 0.0..100.0",
        gives=("CONDITIONING",),
    ),
    "HunyuanImageToVideo": Node(
        inputs=(
            "positive=CONDITIONING; vae=VAE; width=INT 16..16384; height=INT 16..16384; "
            "length=INT 1..16384; batch_size=INT 1..4096; guidance_type=v1 (concat)|v2 (replace); "
            "start_image?=IMAGE"
        ),
        gives=(
            "CONDITIONING",
            "LATENT",
        ),
    ),
    "ImageCompositeMasked": Node(
        inputs=("destination=IMAGE; source=IMAGE; x=INT 0..16384; y=INT 0..16384; resize_source=BOOLEAN; mask?=MASK"),
        gives=("IMAGE",),
    ),
    "ImageCrop": Node(
        inputs=("image=IMAGE; width=INT 1..16384; height=INT 1..16384; x=INT 0..16384; y=INT 0..16384"),
        gives=("IMAGE",),
    ),
    "ImageFromBatch": Node(
        inputs="image=IMAGE; batch_index=INT -16384..16384; length=INT 1..4096",
        gives=("IMAGE",),
    ),
    "ImageInvert": Node(
        inputs="image=IMAGE",
        gives=("IMAGE",),
    ),
    "ImageScale": Node(
        inputs=(
            "image=IMAGE; upscale_method=nearest-exact|bilinear|lanczos; width=INT 0..16384; "
            "height=INT 0..16384; crop=disabled|center"
        ),
        gives=("IMAGE",),
    ),
    "ImageScaleBy": Node(
        inputs=("image=IMAGE; upscale_method=nearest-exact|bilinear; scale_by=FLOAT 0.01..8.0"),
        gives=("IMAGE",),
    ),
    "ImageToMask": Node(
        inputs="image=IMAGE; channel=red|green",
        gives=("MASK",),
    ),
    "ImageUpscaleWithModel": Node(
        inputs="upscale_model=UPSCALE_MODEL; image=IMAGE",
        gives=("IMAGE",),
    ),
    "KSampler": Node(
        inputs=(
            "model=MODEL; seed=INT 0..18446744073709551615; steps=INT 1..10000; "
            "cfg=FLOAT 0.0..100.0; "
            "sampler_name=euler|euler_cfg_pp|dpmpp_2m|dpmpp_3m_sde_gpu|uni_pc; "
            "scheduler=simple|sgm_uniform|exponential|karras; positive=CONDITIONING; "
            "negative=CONDITIONING; latent_image=LATENT; denoise=FLOAT 0.0..1.0"
        ),
        gives=("LATENT",),
    ),
    "KSamplerAdvanced": Node(
        inputs=(
            "model=MODEL; add_noise=enable|disable; noise_seed=INT 0..18446744073709551615; "
            "steps=INT 1..10000; cfg=FLOAT 0.0..100.0; sampler_name=euler|euler_cfg_pp; "
            "scheduler=simple|sgm_uniform; positive=CONDITIONING; negative=CONDITIONING; "
            "latent_image=LATENT; start_at_step=INT 0..10000; end_at_step=INT 0..10000; "
            "return_with_leftover_noise=disable|enable"
        ),
        gives=("LATENT",),
    ),
    "KSamplerSelect": Node(
        inputs="sampler_name=euler|euler_cfg_pp",
        gives=("SAMPLER",),
    ),
    "LTXVConditioning": Node(
        inputs=("positive=CONDITIONING; negative=CONDITIONING; frame_rate=FLOAT 0.0..1000.0"),
        gives=(
            "CONDITIONING",
            "CONDITIONING",
        ),
    ),
    "LTXVImgToVideo": Node(
        inputs=(
            "positive=CONDITIONING; negative=CONDITIONING; vae=VAE; image=IMAGE; "
            "width=INT 64..16384; height=INT 64..16384; length=INT 9..16384; "
            "batch_size=INT 1..4096; strength=FLOAT 0.0..1.0"
        ),
        gives=(
            "CONDITIONING",
            "CONDITIONING",
            "LATENT",
        ),
    ),
    "LTXVScheduler": Node(
        inputs=(
            "steps=INT 1..10000; max_shift=FLOAT 0.0..100.0; base_shift=FLOAT 0.0..100.0; "
            "stretch=BOOLEAN; terminal=FLOAT 0.0..0.99; latent?=LATENT"
        ),
        gives=("SIGMAS",),
    ),
    "LatentApplyOperationCFG": Node(
        inputs="model=MODEL; operation=LATENT_OPERATION",
        gives=("MODEL",),
    ),
    "LatentOperationTonemapReinhard": Node(
        inputs="multiplier=FLOAT 0.0..100.0",
        gives=("LATENT_OPERATION",),
    ),
    "LatentUpscale": Node(
        inputs=(
            "samples=LATENT; upscale_method=nearest-exact|bilinear; width=INT 0..16384; "
            "height=INT 0..16384; crop=disabled|center"
        ),
        gives=("LATENT",),
    ),
    "LoadImage": Node(
        inputs="image=@input",
        gives=(
            "IMAGE",
            "MASK",
        ),
    ),
    "LoadImageMask": Node(
        inputs="image=@input; channel=alpha|red",
        gives=("MASK",),
    ),
    "LoraLoader": Node(
        inputs=(
            "model=MODEL; clip=CLIP; lora_name=@loras; strength_model=FLOAT -100.0..100.0; "
            "strength_clip=FLOAT -100.0..100.0"
        ),
        gives=(
            "MODEL",
            "CLIP",
        ),
    ),
    "MaskToImage": Node(
        inputs="mask=MASK",
        gives=("IMAGE",),
    ),
    "ModelSamplingSD3": Node(
        inputs="model=MODEL; shift=FLOAT 0.0..100.0",
        gives=("MODEL",),
    ),
    "PreviewImage": Node(
        inputs="images=IMAGE",
        gives=("IMAGE",),
        is_output=True,
    ),
    "RandomNoise": Node(
        inputs="noise_seed=INT 0..18446744073709551615",
        gives=("NOISE",),
    ),
    "RepeatImageBatch": Node(
        inputs="image=IMAGE; amount=INT 1..4096",
        gives=("IMAGE",),
    ),
    "RepeatLatentBatch": Node(
        inputs="samples=LATENT; amount=INT 1..64",
        gives=("LATENT",),
    ),
    "SamplerCustom": Node(
        inputs=(
            "model=MODEL; add_noise=BOOLEAN; noise_seed=INT 0..18446744073709551615; "
            "cfg=FLOAT 0.0..100.0; positive=CONDITIONING; negative=CONDITIONING; sampler=SAMPLER; "
            "sigmas=SIGMAS; latent_image=LATENT"
        ),
        gives=(
            "LATENT",
            "LATENT",
        ),
    ),
    "SamplerCustomAdvanced": Node(
        inputs=("noise=NOISE; guider=GUIDER; sampler=SAMPLER; sigmas=SIGMAS; latent_image=LATENT"),
        gives=(
            "LATENT",
            "LATENT",
        ),
    ),
    "SaveAnimatedWEBP": Node(
        inputs=(
            "images=IMAGE; filename_prefix=STRING; fps=FLOAT 0.01..1000.0; lossless=BOOLEAN; "
            "quality=INT 0..100; method=default|fastest"
        ),
        gives=("IMAGE",),
        is_output=True,
    ),
    "SaveAudioMP3": Node(
        inputs="audio=AUDIO; filename_prefix=STRING; quality=V0|128k",
        gives=("AUDIO",),
        is_output=True,
    ),
    "SaveImage": Node(
        inputs="images=IMAGE; filename_prefix=STRING",
        gives=("IMAGE",),
        is_output=True,
    ),
    "SaveVideo": Node(
        inputs="video=VIDEO; filename_prefix=STRING; format=auto|mp4; codec=auto|h264",
        gives=("VIDEO",),
        is_output=True,
    ),
    "SetLatentNoiseMask": Node(
        inputs="samples=LATENT; mask=MASK",
        gives=("LATENT",),
    ),
    "TextEncodeAceStepAudio": Node(
        inputs=("clip=CLIP; tags=STRING; lyrics=STRING; lyrics_strength=FLOAT 0.0..10.0"),
        gives=("CONDITIONING",),
    ),
    "TextEncodeHunyuanVideo_ImageToVideo": Node(
        inputs=("clip=CLIP; clip_vision_output=CLIP_VISION_OUTPUT; prompt=STRING; image_interleave=INT 1..512"),
        gives=("CONDITIONING",),
    ),
    "UNETLoader": Node(
        inputs="unet_name=@diffusion_models; weight_dtype=default|fp8_e4m3fn",
        gives=("MODEL",),
    ),
    "UpscaleModelLoader": Node(
        inputs="model_name=@upscale_models",
        gives=("UPSCALE_MODEL",),
    ),
    "VAEDecode": Node(
        inputs="samples=LATENT; vae=VAE",
        gives=("IMAGE",),
    ),
    "VAEDecodeAudio": Node(
        inputs="samples=LATENT; vae=VAE",
        gives=("AUDIO",),
    ),
    "VAEDecodeTiled": Node(
        inputs=(
            "samples=LATENT; vae=VAE; tile_size=INT 64..4096; overlap=INT 0..4096; "
            "temporal_size=INT 8..4096; temporal_overlap=INT 4..4096"
        ),
        gives=("IMAGE",),
    ),
    "VAEEncode": Node(
        inputs="pixels=IMAGE; vae=VAE",
        gives=("LATENT",),
    ),
    "VAELoader": Node(
        inputs="vae_name=@vae",
        gives=("VAE",),
    ),
    "Wan22ImageToVideoLatent": Node(
        inputs=(
            "vae=VAE; width=INT 32..16384; height=INT 32..16384; length=INT 1..16384; "
            "batch_size=INT 1..4096; start_image?=IMAGE"
        ),
        gives=("LATENT",),
    ),
    "WanImageToVideo": Node(
        inputs=(
            "positive=CONDITIONING; negative=CONDITIONING; vae=VAE; width=INT 16..16384; "
            "height=INT 16..16384; length=INT 1..16384; batch_size=INT 1..4096; "
            "clip_vision_output?=CLIP_VISION_OUTPUT; start_image?=IMAGE"
        ),
        gives=(
            "CONDITIONING",
            "CONDITIONING",
            "LATENT",
        ),
    ),
}


def specs(node: Node) -> dict[str, tuple[str, bool]]:
    """The inputs of a node: name → (what it takes, whether it is required)."""
    found = {}
    for part in filter(None, node.inputs.split("; ")):
        name, _, takes = part.partition("=")
        found[name.removesuffix("?")] = (takes, not name.endswith("?"))
    return found


def object_info(name: str, files: dict[str, list[str]]) -> dict[str, Any]:
    """A node as /object_info tells it. Of the two shapes of a choice that there are, nodes have one or the other."""
    node = NODES[name]
    inputs: dict[str, dict[str, Any]] = {"required": {}, "optional": {}}
    newer = name in ("KSamplerSelect", "SaveVideo", "UpscaleModelLoader", "BasicScheduler", "ImageToMask")
    for key, (takes, required) in specs(node).items():
        inputs["required" if required else "optional"][key] = _spec(takes, files, newer=newer)
    return {
        "input": inputs,
        "input_order": {kind: list(found) for kind, found in inputs.items()},
        "output": list(node.gives),
        "output_is_list": [False] * len(node.gives),
        "output_name": list(node.gives),
        "name": name,
        "display_name": name,
        "description": "",
        "python_module": "nodes",
        "category": "fake",
        "output_node": node.is_output,
    }


def _spec(takes: str, files: dict[str, list[str]], *, newer: bool) -> list[Any]:
    if takes.startswith("@"):
        choices = files.get(takes[1:], [])
        more = {"image_upload": True} if takes == "@input" else {}
        return ["COMBO", {"multiselect": False, "options": choices, **more}] if newer else [choices, more]
    if "|" in takes:
        choices = [choice for choice in takes.split("|") if choice]
        return ["COMBO", {"multiselect": False, "options": choices}] if newer else [choices, {}]
    kind, _, limits = takes.partition(" ")
    if not limits:
        return [kind, {}]
    low, _, high = limits.partition("..")
    number = float if kind == "FLOAT" else int
    return [kind, {"min": number(low), "max": number(high)}]
