"""The page that shows what became of every film, and why: opens from a disk, needs no network."""
