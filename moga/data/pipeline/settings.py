"""What a pipeline's TOML file may say, and the defaults; the paper discloses no thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ...toml_settings import Section, read_toml, settled

PATHS = ("probe.aesthetic", "split.weights", "caption.prompt", "caption.global_prompt")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
When = Literal["always", "doubt", "never"]


class Probe(Section):
    """Which films are looked at at all."""

    fps_most: Positive = Field(30.5, description="faster films are read at a half, a third, ...")
    frames: Count = Field(16, description="sampled over the film for its scores")
    seconds_least: Amount = 1.0
    side_least: Count = Field(128, description="pixels of the shorter side")
    side_most: Count = Field(8192, description="pixels of the longer side; beyond it, no film")
    clarity_least: Amount = Field(0.0, description="of the film; see score.clarity_least")
    dark_most: Share = Field(1.0, description="share of pixels that are black")
    bright_most: Share = Field(1.0, description="share of pixels that are white")
    borders_most: Share = Field(0.5, description="share of the picture that black borders take")
    black: Annotated[int, Field(ge=0, le=255)] = Field(24, description="grey level of a border")
    aesthetic: Path | None = Field(None, description="TorchScript file of a predictor of yours")
    aesthetic_least: float = Field(0.0, description="asked for where there is a predictor")


class Split(Section):
    """Where shots begin."""

    learned: When = Field(
        "always", description="TransNetV2; doubt: only where the others leave doubt"
    )
    weights: Path | None = Field(
        None, description="TransNetV2's in safetensors, or another network in TorchScript"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: twice as fast on some")
    learned_threshold: Share = Field(0.5, description="of the learned one alone, for a cut")
    agree: Share = Field(0.05, description="learned score that confirms a cut others see")
    low: Share = Field(0.1, description="learned scores from here on are of a transition")
    gradual: Share = Field(0.35, description="the highest learned score of a transition, at least")
    adaptive: Positive = Field(3.0, description="PySceneDetect's adaptive threshold")
    content: Positive = Field(27.0, description="PySceneDetect's content threshold")
    agreement: Annotated[int, Field(ge=0)] = Field(2, description="frames apart, a clean cut still")
    histogram: Share = Field(0.45, description="change of colours that is a transition by itself")
    confirm: Share = Field(0.35, description="change of colours that confirms a cut")
    doubt: Share = Field(0.42, description="change of colours that the learned one is asked about")
    margin: Annotated[int, Field(ge=0)] = Field(1, description="frames around a transition to trim")
    seconds_least: Amount = Field(1.0, description="shorter shots are dropped")


class Score(Section):
    """Which shots are good enough."""

    clarity_least: Amount = Field(0.25, description="sharpness: 0.7 is crisp, 0.2 out of focus")
    dark_most: Share = Field(0.9, description="share of pixels that are black")
    bright_most: Share = Field(0.9, description="share of pixels that are white")
    still: Amount = Field(0.3, description="mean change in grey levels a frame; below, a still")
    drop_still: bool = False
    aesthetic_least: float = Field(0.0, description="with probe.aesthetic")


class TextBoxes(Section):
    """Subtitles and watermarks."""

    when: When = Field("always", description="doubt: only where edges stay in place")
    frames: Count = Field(3, description="read in a shot")
    side: Annotated[int, Field(ge=64)] = Field(736, description="pixels of the longer side, read")
    confidence: Share = Field(0.6, description="of a box; less is no text")
    tallest: Share = Field(0.15, description="of the picture, that a line takes; more is no text")
    edges: Share = Field(
        0.1, description="of a spot with edges that stay; with doubt, more is read"
    )
    share: Share = Field(0.6, description="of the frames that a text is in, to persist")
    padding: Annotated[int, Field(ge=0)] = Field(4, description="pixels around a box")


class Crop(Section):
    """What is used of the picture."""

    aspect: Literal["source", "target"] | Annotated[str, Field(pattern=r"^\d+:\d+$")] = Field(
        "source", description="source, target (merge.width and height), or such as 16:9"
    )
    share_least: Share = Field(0.5, description="of the picture; with less left it is dropped")


class Caption(Section):
    """Who says what is seen."""

    by: Literal["none", "sidecar", "endpoint"] = "none"
    url: str = Field("", description="of an OpenAI-compatible endpoint, up to /v1")
    model: str = ""
    key_variable: str = Field("OPENAI_API_KEY", description="environment variable with the key")
    prompt: Path | None = Field(None, description="template of a shot's prompt")
    global_prompt: Path | None = Field(None, description="template of the second call")
    make_global: bool = Field(True, description="a caption of all shots, in a second call")
    frames: Count = Field(4, description="sampled in a shot")
    side: Count = Field(512, description="pixels of the longer side, sent")
    concurrency: Count = 4
    per_minute: Annotated[int, Field(ge=0)] = Field(0, description="calls; 0 is no limit")
    tries: Count = 5
    timeout: Positive = Field(120.0, description="seconds of one call")
    language: str = Field("en", description="of the captions; empty takes any")
    words_least: Annotated[int, Field(ge=0)] = 5
    words_most: Count = 300
    price_in: Amount = Field(0.0, description="of a million tokens sent")
    price_out: Amount = Field(0.0, description="of a million tokens answered")
    required: bool = Field(False, description="shots without a caption are dropped")


class Merge(Section):
    """Shots put together to samples, as the trainer reads them."""

    seconds_most: Positive = 65.0
    seconds_least: Amount = 1.0
    shots_least: Count = Field(1, description="samples of fewer are dropped")
    across_dropped: bool = Field(False, description="go on over a shot that was dropped")
    crop_least: Share = Field(
        0.75, description="of each shot's own crop that the crop of its sample keeps"
    )
    fps: Annotated[float, Field(gt=0, le=1000)] = 16
    width: Count = 832
    height: Count = 480
    clips: Literal["encoded", "virtual"] = "encoded"
    quality: Annotated[int, Field(ge=0, le=51)] = Field(
        16, description="x264's crf; 0 is lossless, FFV1 in mkv"
    )


class Report(Section):
    """The page, and which sources the validation has."""

    validation: Share = Field(0.1, description="share of the sources")
    seed: Annotated[int, Field(ge=0)] = 0
    thumbnails: Count = Field(6, description="of a sample")
    width: Count = Field(160, description="pixels of a thumbnail")


class Override(Section):
    """Other values for some of the films; what is not given stays."""

    match: str = Field(description="glob over the name below its IN folder, such as phone/*")
    probe: Probe = Probe()
    split: Split = Split()
    score: Score = Score()
    text: TextBoxes = TextBoxes()
    crop: Crop = Crop()


class Settings(Section):
    """A whole pipeline."""

    probe: Probe = Probe()
    split: Split = Split()
    score: Score = Score()
    text: TextBoxes = TextBoxes()
    crop: Crop = Crop()
    caption: Caption = Caption()
    merge: Merge = Merge()
    report: Report = Report()
    sources: tuple[Override, ...] = Field((), description="other values for some of the films")

    def of(self, name: str) -> Settings:
        """The settings of a film: what every override that matches says, the last one winning."""
        data = self.model_dump(exclude={"sources"})
        for override in self.sources:
            if fnmatchcase(name, override.match):
                said = override.model_dump(exclude={"match"}, exclude_unset=True)
                for section, values in said.items():
                    data[section] |= values
        return Settings.model_validate(data)

    def plain(self) -> dict[str, Any]:
        """JSON values that are read back as these settings, and tell overrides from defaults."""
        data = self.model_dump(mode="json", exclude={"sources"})
        said = [one.model_dump(mode="json", exclude_unset=True) for one in self.sources]
        return {**data, "sources": said}


def read_settings(path: Path | None, words: Sequence[str] = ()) -> Settings:
    """The settings of a TOML file (None: the defaults), changed by `words` such as
    ["--split.learned", "never"].

    Paths in the file are relative to it, those among the words to the working folder.
    Raises SettingsError.
    """
    data = {} if path is None else read_toml(path)
    if path is not None:
        _resolve(data, path.absolute().parent)
    return settled(Settings, data, words)


def _resolve(data: dict[str, Any], folder: Path) -> None:
    overrides = data.get("sources")
    for tables in (data, *(overrides if isinstance(overrides, list) else ())):
        for dotted in PATHS:
            section, key = dotted.split(".")
            table = tables.get(section) if isinstance(tables, dict) else None
            if isinstance(table, dict) and isinstance(table.get(key), str):
                table[key] = str(folder / table[key])
