"""llama.cpp through its C API, as llama-cpp-python hands it on. Keys and values are f16; one call computes 512 tokens at most."""

import ctypes
import time

import llama_cpp as api
import numpy as np

PHYSICAL_BATCH = 512
# `llama_ftype` of llama.h. The K-quants are S mixes there; `pure` makes every matrix the same.
FILE_TYPES = {"q8_0": 7, "q4_k": 14, "q5_k": 16, "q6_k": 18, "q4_0": 2}


@api.llama_log_callback
def silence(_level, _text, _data):
    """llama.cpp would write to stderr at length."""


def start():
    """To be called once, before anything else. Returns the versions."""
    api.llama_log_set(silence, None)
    api.llama_backend_init()
    return {"llama_cpp_python": api.__version__, "system_info": api.llama_print_system_info().decode()}


def quantize(source, target, format, threads):
    """Writes every matrix of a GGUF file in one format."""
    params = api.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = FILE_TYPES[format], True, threads
    if api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise RuntimeError("llama_model_quantize failed")


class Model:
    def __init__(self, path):
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.pointer = api.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.pointer))

    def free(self):
        api.llama_model_free(self.pointer)


class Context:
    """`sequences` sequences of at most `length` tokens each."""

    def __init__(self, model, sequences, length, flash_attn, threads):
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max = sequences * length, sequences
        params.n_batch = params.n_ubatch = PHYSICAL_BATCH
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = api.GGML_TYPE_F16
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attn else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        self.pointer = api.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise RuntimeError("llama_init_from_model failed")
        self.vocab_size = model.vocab_size
        self.memory = api.llama_get_memory(self.pointer)
        self.batch = api.llama_batch_init(PHYSICAL_BATCH, 0, 1)

    def free(self):
        api.llama_batch_free(self.batch)
        api.llama_free(self.pointer)

    def set_threads(self, threads):
        api.llama_set_n_threads(self.pointer, threads, threads)

    def decode(self, entries):
        """One `llama_decode` over (token, position, sequence, wants logits). Returns the seconds of that call alone."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, logits) in enumerate(entries):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, sequence, logits
        begin = time.perf_counter()
        status = api.llama_decode(self.pointer, batch)
        api.llama_synchronize(self.pointer)
        seconds = time.perf_counter() - begin
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        return seconds

    def logits(self, rows):
        """Those of the last call, `[rows, vocab_size]`."""
        return np.ctypeslib.as_array(api.llama_get_logits(self.pointer), shape=(rows, self.vocab_size)).copy()

    def forget(self):
        api.llama_memory_clear(self.memory, False)

    def cut(self, sequence, length):
        """Forgets what a sequence has beyond `length` tokens."""
        api.llama_memory_seq_rm(self.memory, sequence, length, -1)
