"""Makes blocks.bin: random blocks of every GGML block format, with the values that gguf-py (an implementation in numpy,
independent of this crate) reads out of them. Run from this directory with numpy and gguf 0.17 or later installed.

Layout: for each format in FORMATS, `BLOCKS` blocks, then the f32 values of all of them, little-endian.
"""

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
BLOCKS = 2
# Where the half precision numbers of a block are: random bytes would make some of them infinite or NaN.
HALVES = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}

rng = np.random.default_rng(20261120)
with open("blocks.bin", "wb") as out:
    for name in FORMATS:
        kind = GGMLQuantizationType[name]
        length, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for at in HALVES.get(name, [0]):
            blocks[:, at : at + 2] = rng.normal(0, 0.1, BLOCKS).astype("<f2").view(np.uint8).reshape(BLOCKS, 2)
        values = quants.dequantize(blocks, kind).astype("<f4")
        assert values.size == BLOCKS * length and np.isfinite(values).all()
        out.write(blocks.tobytes())
        out.write(values.tobytes())
