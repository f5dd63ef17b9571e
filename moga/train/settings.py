"""The settings of a training: what a TOML file and the command line may say, and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..config import BRANCHES, MoGAConfig
from ..toml_settings import Section

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


class Scratch(Section):
    """A new Wan transformer with random weights, instead of a file."""

    heads: Count = Field(2, description="attention heads, each 128 wide")
    layers: Count = 6
    ffn: Count = Field(1024, description="width of the feed-forward")
    text: Count = Field(4096, description="width of the text encoder")
    channels: Count = Field(16, description="of the VAE's latent")


class Model(Section):
    """Where the weights come from."""

    file: Path | None = Field(None, description="Wan 2.1 or 2.2, one file or a diffusers folder")
    scratch: Scratch | None = Field(None, description="sizes of a new model instead of a file")
    routers: Literal["random", "file"] | Path = Field(
        "random", description="random, file (those in model.file), or a router file"
    )
    attention: Literal["moga", "dense"] = Field(
        "moga", description="dense: plain Wan with a text per shot, to compare with"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        if (self.file is None) == (self.scratch is None):
            raise ValueError("give either model.file, or model.scratch with the sizes of a new one")
        return self


class Data(Section):
    """The clips, and how they are cached."""

    rows: Path = Field(description="JSONL: video, global, shots; see moga.data.rows")
    validation_rows: Path | None = Field(None, description="clips the validation loss is taken on")
    cache: Path = Field(Path("cache"), description="folder for latents and text embeddings")
    vae: Path
    text_encoder: Path
    width: Count = 832
    height: Count = 480
    fps: Annotated[float, Field(gt=0, le=1000)] = 16
    text_tokens: Count = Field(512, description="each shot's text is padded to this, as Wan does")
    dtype: Literal["bf16", "fp32"] = Field("bf16", description="of the VAE and of cached tensors")


class MoGA(Section):
    """The attention, as in MoGAConfig."""

    groups: Count = 5
    windows: tuple[Count, Count] = (2, 2)
    window_frames: Count = 10
    boundary_frames: Annotated[int, Field(ge=0)] = 2
    gate: bool = True
    combine: Literal["union", "mean"] = "union"
    branches: tuple[Literal["routed", "windows", "frames"], ...] = BRANCHES

    def config(self, stage: Stage) -> MoGAConfig:
        """The MoGAConfig of a stage."""
        changed = {"groups": stage.groups, "windows": stage.windows}
        given = {name: value for name, value in changed.items() if value is not None}
        return MoGAConfig(**{**self.model_dump(), **given})


class Objective(Section):
    """What is minimised."""

    shift: Positive = Field(5.0, description="moves noise levels towards noise, as Wan's sampler")
    balance: Annotated[float, Field(ge=0)] = Field(0.1, description="weight of the balance loss")
    caption_dropout: Share = Field(0.1, description="of clips read no text, for guidance")


class Optimizer(Section):
    """How it is minimised."""

    kind: Literal["adamw", "adamw8bit"] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(ge=0)] = Field(1.0, description="of the gradient's norm; 0 is off")
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = (
        "constant_with_warmup"
    )
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="steps, in every stage")
    ema: Decay = Field(0.0, description="decay; 0 is off")
    precision: Literal["bf16", "no"] = Field("bf16", description="of the computation")
    checkpointing: bool | Literal["offload"] = Field(
        True,
        description="recompute each block in backward; offload keeps what it begins with in host "
        "memory",
    )

    @model_validator(mode="after")
    def _warmup_is_taken(self) -> Optimizer:
        if self.schedule == "constant" and self.warmup:
            raise ValueError(
                f"warmup is {self.warmup}, which the schedule 'constant' has none of; use "
                "'constant_with_warmup', or leave warmup out"
            )
        return self


class Lora(Section):
    """The low-rank adapter of stages that train one."""

    rank: Count = 32
    alpha: Positive = 32
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = LORA_TARGETS


class Stage(Section):
    """A part of the training, with its own clips and trained weights."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "train"
    train: Literal["routers", "full", "lora"] = "full"
    steps: Count
    seconds: Positive = Field(description="length of the clips")
    lr: Positive = 1e-5
    router_lr: Positive | None = Field(None, description="of the routers; None is lr")
    batch: Count = Field(1, description="clips of one forward; they need the same cuts")
    accumulate: Count = Field(1, description="forwards of one step, of each process")
    forwards: Count | None = Field(
        None,
        description="forwards of one step, of all processes together; instead of accumulate, for "
        "steps that stay the same on any number of them",
    )
    groups: Count | None = Field(None, description="instead of moga.groups; makes new routers")
    windows: tuple[Count, Count] | None = Field(None, description="instead of moga.windows")

    @model_validator(mode="after")
    def _one_count(self) -> Stage:
        if self.forwards is not None and self.accumulate != 1:
            raise ValueError(
                f"accumulate is {self.accumulate} and forwards is {self.forwards}; both say how "
                "many forwards a step has, so leave one out"
            )
        return self


class Parallel(Section):
    """How several processes share a training."""

    sequence: Count = Field(
        1, description="processes that share the tokens of a clip, each with some of the heads"
    )
    timeout: Positive = Field(
        30, description="minutes that a process waits for the others before it gives up"
    )


class Validate(Section):
    """What is looked at on the way."""

    loss_every: Annotated[int, Field(ge=0)] = Field(0, description="steps; 0 never")
    loss_clips: Count = 8
    every: Annotated[int, Field(ge=0)] = Field(0, description="steps between films; 0 never")
    scripts: tuple[Path, ...] = Field((), description="shot scripts, rendered with the same seed")
    negative: str = Field("", description="of all films, instead of their scripts' negative:")
    steps: Count = 30
    cfg: Annotated[float, Field(ge=0)] = 5.0
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _scripts_for_films(self) -> Validate:
        if self.every and not self.scripts:
            raise ValueError("every renders films; name their scripts in validation.scripts")
        return self


class Save(Section):
    """What is left on disk."""

    folder: Path = Field(Path("training"), description="of everything that a training writes")
    every: Count = Field(500, description="steps between checkpoints")
    keep_last: Count = 2
    dtype: Literal["bf16", "fp16", "fp32"] = Field("bf16", description="of the finished model")


class Log(Section):
    """Where the numbers go, beside log.jsonl."""

    every: Count = 1
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    project: str = "moga"


class Settings(Section):
    """A whole training."""

    seed: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=0)] = Field(2, description="processes that read the cache")
    backend: str = Field("auto", description="attention kernel, see python -m moga.kernels")
    data: Data
    model: Model
    moga: MoGA = MoGA()
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    lora: Lora = Lora()
    parallel: Parallel = Parallel()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    validation: Validate = Validate()
    save: Save = Save()
    log: Log = Log()

    @field_validator("stages")
    @classmethod
    def _own_names(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        names = [stage.name for stage in stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are named {name!r}; give each a name of its own")
        return stages

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        dense = self.model.attention == "dense"
        routed = "routed" in self.moga.branches and not dense
        for stage in self.stages:
            if stage.train == "routers" and not routed:
                raise ValueError(
                    f"stage {stage.name!r} trains routers, but there are none (model.attention, "
                    "moga.branches); train full or lora"
                )
            if dense and (stage.groups or stage.windows):
                raise ValueError(
                    f"stage {stage.name!r} sets groups or windows, but model.attention is dense; "
                    "leave them out"
                )
        if self.validation.loss_every and self.data.validation_rows is None:
            raise ValueError(
                "validation.loss_every needs clips to measure on; set data.validation_rows"
            )
        return self

    @property
    def lengths(self) -> tuple[float, ...]:
        """Clip lengths of all stages, in seconds."""
        return tuple(sorted({stage.seconds for stage in self.stages}))

    def for_resume(self) -> dict[str, Any]:
        """What a checkpoint is bound to: all that changes the numbers of its steps.

        Files count by their names, so that a training may be moved. How many forwards a step has
        is not in it, as it depends on the processes.
        """
        loose = dict.fromkeys(("workers", "save", "log", "validation", "parallel"), True)
        loose |= {"stages": {"__all__": {"accumulate", "forwards"}}}
        return _by_name(self.model_dump(exclude={**loose, "data": {"cache", "validation_rows"}}))


def _by_name(value: Any) -> Any:
    """Plain JSON, with the name in place of a path."""
    if isinstance(value, dict):
        return {key: _by_name(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_by_name(inner) for inner in value]
    return value.name if isinstance(value, Path) else value
