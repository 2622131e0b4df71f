"""llama.cpp, measured by the queries of `glm-cli bench --stdin`: JSON lines in, JSON lines out.

Run by `run.py` with the Python that has llama-cpp-python. It measures as llama.cpp's own `llama-batched-bench` does: random
tokens, one per sequence and step in one batch, `llama_decode` and `llama_synchronize` timed and nothing else, so that neither
sampling nor Python counts (for `glm-cli`, scheduling, sampling and the hand-over to the reader do). A query's `flash_attn` picks
the attention; `threads` the number of threads.
"""

import json
import random
import sys

import llama
from llama import PHYSICAL_BATCH

SEED = 1
# Tokens of a sequence beside those that are measured: the first one, and those of the warm-up.
MARGIN = 64


class Streams:
    """Sequences of random tokens in one context."""

    def __init__(self, model, sequences, length, query):
        self.flash_attn = query["flash_attn"]
        self.context = llama.Context(model, sequences, length, self.flash_attn, query["threads"])
        self.filled, self.stored = 0, 0  # the first `filled` sequences hold `stored` tokens
        self.random = random.Random(SEED)
        self.compute([(i, 0, True) for i in range(16)])  # touches every page of the weights

    def compute(self, entries):
        """Random tokens for (position, sequence, wants logits); the seconds it took."""
        vocab_size = self.context.vocab_size
        return self.context.decode([(self.random.randrange(vocab_size), *entry) for entry in entries])

    def keep(self, depth, sequences):
        """Leaves `depth` tokens stored in each of the sequences: cut back where there are more, computed where there are fewer."""
        if self.filled >= sequences and self.stored >= depth > 0:
            for sequence in range(sequences):
                self.context.cut(sequence, depth)
        else:
            self.context.forget()
            for sequence in range(sequences):
                for start in range(0, depth, PHYSICAL_BATCH):
                    self.compute([(i, sequence, False) for i in range(start, min(start + PHYSICAL_BATCH, depth))])
        self.filled, self.stored = sequences, depth

    def prefill(self, tokens, depth):
        self.keep(depth, 1)
        seconds = 0.0
        for start in range(0, tokens, PHYSICAL_BATCH):
            end = min(start + PHYSICAL_BATCH, tokens)
            seconds += self.compute([(depth + i, 0, i + 1 == tokens) for i in range(start, end)])
        self.stored += tokens
        return tokens / seconds

    def decode(self, batch, depth, gen_tokens):
        depth = max(depth, 1)
        self.keep(depth, batch)
        seconds = sum(self.compute([(depth + step, sequence, True) for sequence in range(batch)]) for step in range(gen_tokens))
        self.stored += gen_tokens
        return batch * gen_tokens / seconds


def kind(query):
    """Which context answers a query: long ones are kept apart, so that a short query does not cut them back."""
    if query.get("batch", 1) > 1:
        return "batch"
    return "long" if query["depth"] else "short"


class Worker:
    """One model with a context for each kind of query, made when it is first needed."""

    def __init__(self, path, queries):
        self.model = llama.Model(path)
        self.queries = queries
        self.streams = {}

    def sizes(self, wanted):
        """Sequences and their length that all queries of a kind take together."""
        queries = [query for query in self.queries if kind(query) == wanted]
        lengths = [query["depth"] + query.get("tokens", 0) + query.get("gen_tokens", 0) for query in queries]
        return max(query.get("batch", 1) for query in queries), max(lengths) + MARGIN

    def streams_for(self, query):
        found = self.streams.get(kind(query))
        if found is None or found.flash_attn != query["flash_attn"]:
            if found is not None:
                found.context.free()
            found = self.streams[kind(query)] = Streams(self.model, *self.sizes(kind(query)), query)
        found.context.set_threads(query["threads"])
        return found

    def answer(self, query):
        if query["measure"] == "memory":
            return {"peak_memory_bytes": peak_memory()}
        streams = self.streams_for(query)
        if query["measure"] == "prefill":
            return {"tok_s": streams.prefill(query["tokens"], query["depth"])}
        return {"tok_s": streams.decode(query["batch"], query["depth"], query["gen_tokens"])}


def peak_memory():
    """Largest resident memory of this process in bytes (Linux)."""
    for line in open("/proc/self/status", encoding="ascii"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def main():
    """The model's path, and the queries (without threads and attention) that there must be room for, as JSON."""
    path, queries = sys.argv[1], json.loads(sys.argv[2])
    about = llama.start()
    worker = Worker(path, queries)
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
