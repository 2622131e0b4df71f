"""Makes quantized.bin: normal random values, and for each format in FORMATS the bytes that GGML's own quantiser makes of them.

Usage: make_quantized.py path/to/libggml-base.so   (from a build of llama.cpp)

Layout: `VALUES` f32, then the bytes of each format, little-endian.
"""

import ctypes
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
VALUES = 8 * 256

ggml = ctypes.CDLL(sys.argv[1])
ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]

values = np.random.default_rng(20261120).normal(0, 0.05, VALUES).astype("<f4")
with open("quantized.bin", "wb") as out:
    out.write(values.tobytes())
    for name in FORMATS:
        kind = GGMLQuantizationType[name]
        length, size = GGML_QUANT_SIZES[kind]
        blocks = np.zeros(VALUES // length * size, dtype=np.uint8)
        written = ggml.ggml_quantize_chunk(int(kind), values.ctypes.data, blocks.ctypes.data, 0, 1, VALUES, None)
        assert written == blocks.size
        out.write(blocks.tobytes())
