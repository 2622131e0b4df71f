"""llama.cpp, measured through its C API by the queries of `glm-cli bench --stdin`: JSON lines in, JSON lines out.

Run by `run.py` with the Python that has llama-cpp-python. It measures as llama.cpp's own `llama-batched-bench` does: random
tokens, one per sequence and step in one batch, `llama_decode` and `llama_synchronize` timed and nothing else, so that neither
sampling nor Python counts (for `glm-cli`, scheduling, sampling and the hand-over to the reader do). Keys and values are f16, the
physical batch is 512 tokens. A query's `flash_attn` picks the attention; `threads` the number of threads.
"""

import json
import random
import sys
import time

import llama_cpp as api

PHYSICAL_BATCH = 512
SEED = 1


class Context:
    """A llama context of `sequences` sequences of at most `length` tokens each."""

    def __init__(self, model, sequences, length, flash_attn):
        params = api.llama_context_default_params()
        params.n_ctx = sequences * length
        params.n_batch = params.n_ubatch = PHYSICAL_BATCH
        params.n_seq_max = sequences
        params.type_k = params.type_v = api.GGML_TYPE_F16
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attn else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        self.ctx = api.llama_init_from_model(model, params)
        if not self.ctx:
            raise RuntimeError("llama_init_from_model failed")
        self.sequences, self.length, self.flash_attn = sequences, length, flash_attn
        self.memory = api.llama_get_memory(self.ctx)
        self.batch = api.llama_batch_init(PHYSICAL_BATCH, 0, 1)
        self.filled, self.stored = 0, 0  # the first `filled` sequences hold `stored` tokens
        self.random = random.Random(SEED)
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def free(self):
        api.llama_batch_free(self.batch)
        api.llama_free(self.ctx)

    def run(self, entries):
        """One `llama_decode` over (position, sequence, wants logits) with random tokens; the seconds it took."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (position, sequence, logits) in enumerate(entries):
            batch.token[i] = self.random.randrange(self.vocab_size)
            batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = position, 1, sequence, logits
        begin = time.perf_counter()
        status = api.llama_decode(self.ctx, batch)
        api.llama_synchronize(self.ctx)
        elapsed = time.perf_counter() - begin
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        return elapsed

    def keep(self, depth, sequences):
        """Leaves `depth` tokens stored in each of the sequences: cut back where there are more, computed where there are fewer."""
        if self.filled >= sequences and self.stored >= depth > 0:
            for sequence in range(sequences):
                api.llama_memory_seq_rm(self.memory, sequence, depth, -1)
        else:
            api.llama_memory_clear(self.memory, False)
            for sequence in range(sequences):
                for start in range(0, depth, PHYSICAL_BATCH):
                    self.run([(i, sequence, False) for i in range(start, min(start + PHYSICAL_BATCH, depth))])
        self.filled, self.stored = sequences, depth

    def prefill(self, tokens, depth):
        self.keep(depth, 1)
        seconds = 0.0
        for start in range(0, tokens, PHYSICAL_BATCH):
            end = min(start + PHYSICAL_BATCH, tokens)
            seconds += self.run([(depth + i, 0, i + 1 == tokens) for i in range(start, end)])
        self.stored += tokens
        return tokens / seconds

    def decode(self, batch, depth, gen_tokens):
        depth = max(depth, 1)
        self.keep(depth, batch)
        seconds = sum(self.run([(depth + step, sequence, True) for sequence in range(batch)]) for step in range(gen_tokens))
        self.stored += gen_tokens
        return batch * gen_tokens / seconds


class Worker:
    """One model with a context for single sequences and one for batches."""

    def __init__(self, path, max_sequences, max_length, max_batch_length):
        api.llama_log_set(self.silence, None)
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.sizes = {False: (1, max_length), True: (max_sequences, max_batch_length)}
        self.contexts = {}

    @staticmethod
    @api.llama_log_callback
    def silence(_level, _text, _data):
        """llama.cpp would write to stderr at length."""

    def context(self, query):
        batched = query.get("batch", 1) > 1
        found = self.contexts.get(batched)
        if found is None or found.flash_attn != query["flash_attn"]:
            if found is not None:
                found.free()
            found = Context(self.model, *self.sizes[batched], query["flash_attn"])
            found.run([(i, 0, True) for i in range(16)])  # touches every page of the weights
            self.contexts[batched] = found
        api.llama_set_n_threads(found.ctx, query["threads"], query["threads"])
        return found

    def answer(self, query):
        if query["measure"] == "memory":
            return {"peak_memory_bytes": peak_memory()}
        context = self.context(query)
        if query["measure"] == "prefill":
            return {"tok_s": context.prefill(query["tokens"], query.get("depth", 0))}
        return {"tok_s": context.decode(query["batch"], query.get("depth", 0), query["gen_tokens"])}


def peak_memory():
    """Largest resident memory of this process in bytes (Linux)."""
    for line in open("/proc/self/status", encoding="ascii"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def main():
    path, max_sequences, max_length, max_batch_length = sys.argv[1], *map(int, sys.argv[2:5])
    worker = Worker(path, max_sequences, max_length, max_batch_length)
    system = api.llama_print_system_info().decode()
    print(json.dumps({"llama_cpp_python": api.__version__, "system_info": system}), flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
