"""A model of a job with random weights, and what is put on it: shots, routers, MoGA.

What it draws does not matter; times, memory and what it is compared with do.
"""

from __future__ import annotations

from typing import Any

import torch
from comfyui_jobs import Job
from comfyui_measure import Steps, Watch, allocated, apart, left_after_unload, on_card
from comfyui_sizes import SHAPES, TINY_VIDEO, latent_shape, lengths

SHOTS = 6
WINDOWS = {5: (2, 2), 20: (4, 4)}  # of the groups that files come with


class Bench:
    """taken: bytes of the card that something else holds. steps: of a measured sampling."""

    def __init__(self, comfy: Any, job: Job, size: str, steps: int, taken: int = 0) -> None:
        from harness.scene import Scene

        self.comfy, self.job, self.steps, self.taken = comfy, job, steps, taken
        self.shape = SHAPES[job.model]
        self.size = TINY_VIDEO if job.model == "tiny" else size
        self.scene = Scene(comfy, {})
        self.latent = torch.zeros(latent_shape(job.frames, self.size))
        self.scene.latent = {"samples": self.latent}
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The MODEL, made when it is first asked for."""
        if self._model is None:
            self._model = self.new_model()
        return self._model

    def new_model(self, seed: int = 0) -> Any:
        self.scene.weights = weights(self.shape.config(), self.job.dtype, seed)
        options = {"dtype": torch.float8_e4m3fn} if self.job.dtype == "fp8" else {}
        model = self.scene.load(**options)
        self.scene.weights = {}
        return model

    def shots(self, count: int = SHOTS, fps: int = 16, moved: bool = False) -> Any:
        """moved: with other cuts, and as many shots."""
        counts = lengths(self.job.frames, count)
        if moved and len(counts) > 1:
            counts[0], counts[-1] = counts[0] + 4, counts[-1] - 4
        script = "\n".join(f"[{n}f] shot {i}" for i, n in enumerate(counts) if n)
        return self.scene.ShotList.parse(script, fps)

    def text(self, shots: Any, seed: int = 11) -> list:
        """Conditioning of the shots, 512 tokens each."""
        from harness.scene import tokens

        return self.scene.schedule(shots, *(tokens(seed + i) for i in range(len(shots.texts))))

    def routers(self, groups: int) -> Any:
        """Random ones, that send tokens to all groups."""
        from harness.scene import router_weights

        dim, blocks = self.shape.dim, self.shape.layers
        made = router_weights(groups, dim, blocks)
        for router in made.values():
            router["weight"] /= dim**0.5
        config = self.scene.Config(groups=groups, windows=WINDOWS.get(groups, (2, 2)))
        return self.scene.host.RouterSet(made, config, "random")

    def everything(self) -> Any:
        """Routers under which MoGA is dense attention."""
        config = self.scene.Config(groups=1, gate=False, branches=("routed",))
        return self.scene.routers(config, dim=self.shape.dim, blocks=self.shape.layers)

    def variant(self, way: str, model: Any = None) -> tuple[Any, list | None]:
        """The MODEL and positive conditioning of a way: stock, dense, moga-GROUPS [BACKEND]."""
        model = self.model if model is None else model
        if way == "stock":
            return model, None
        shots = self.shots()
        if way == "dense":
            return self.scene.apply(model, attention="dense", shots=shots), self.text(shots)
        groups, _, backend = way.removeprefix("moga-").partition(" ")
        routers = self.routers(int(groups))
        settings = {"shots": shots, "backend": backend or "auto"}
        return self.scene.apply(model, routers, **settings), self.text(shots)

    def measure(self, model: Any, positive: list | None, **inputs: Any) -> tuple[Any, dict]:
        """The latent that was sampled, and its row. Unloads before and after."""
        import comfy.model_management as mm

        before = left_after_unload(mm)
        steps = Steps()
        with Watch(self.taken) as watch:
            latent = self.scene.sample(steps.on(model), positive, **{"steps": self.steps, **inputs})
        row = {**steps.row(), **watch.row(), "finite": bool(latent.isfinite().all())}
        if on_card():
            row |= self._card_row(model, steps.held)
        row["left bytes"] = left_after_unload(mm) - before
        return latent, row

    def _card_row(self, model: Any, held: int) -> dict[str, float]:
        """ComfyUI's estimate of what sampling needs beside weights, and what it needed."""
        shape = [2 * self.latent.shape[0], *self.latent.shape[1:]]
        used = torch.cuda.max_memory_allocated() - held
        return {
            "estimate GB": round(model.model.memory_required(shape) / 1e9, 2),
            "used GB": round(used / 1e9, 2),
            "weights GB": round(model.model_size() / 1e9, 2),
            "loaded GB": round(model.loaded_size() / 1e9, 2),
            "allocated GB": round(allocated() / 1e9, 2),
        }

    def compare(self, model: Any, beside: Any, positive: Any = None, **inputs: Any) -> dict:
        """How far what a model samples lies from another's."""
        expected = self.scene.sample(beside, positive, **{"steps": 2, **inputs})
        found = self.scene.sample(model, positive, **{"steps": 2, **inputs})
        return {"apart": apart(found, expected), "finite": bool(found.isfinite().all())}


def weights(config: dict[str, int], dtype: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a Wan in a type, as its file would hold them, on the CPU."""
    from comfy.ldm.wan.model import WanModel

    with torch.device("meta"):  # with dynamic VRAM ComfyUI's own layers have no weights yet
        model = WanModel(model_type="t2v", operations=torch.nn, **config)
    device = "cuda" if on_card() else "cpu"
    make = torch.Generator(device).manual_seed(seed)
    found = {}
    for key, like in model.state_dict().items():
        noise = torch.randn(like.shape, generator=make, device=device)
        if like.ndim == 1 and key.endswith("weight"):
            weight = 1 + 0.1 * noise
        elif like.ndim == 1 or "modulation" in key:
            weight = 0.1 * noise
        else:
            weight = noise / like[0].numel() ** 0.5
        found[key] = weight.to(_kept(dtype, like.ndim)).cpu()
    return found


def _kept(dtype: str, dims: int) -> torch.dtype:
    """fp8 files have matrices in it, and the rest in bf16."""
    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if dtype == "fp8":
        return torch.float8_e4m3fn if dims == 2 else torch.bfloat16
    return types[dtype]
