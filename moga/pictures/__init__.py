"""Pictures for people to look at: drawn with Pillow, never decoded from a model."""
