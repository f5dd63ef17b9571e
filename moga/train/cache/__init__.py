"""The cache: clips as latents and captions as embeddings, made once and read by every step."""
