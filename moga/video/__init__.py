"""Frames to a file and back, through ffmpeg."""

from .writer import VideoError, VideoWriter, frame_rate, partial_of

__all__ = ["VideoError", "VideoWriter", "frame_rate", "partial_of"]
