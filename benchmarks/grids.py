"""The videos that are measured: frames, rows and columns of tokens, by how many tokens."""

GRIDS = {
    32_760: (21, 30, 52),
    62_400: (40, 30, 52),
    75_600: (21, 45, 80),
    187_200: (120, 30, 52),
    563_160: (361, 30, 52),
}
