"""What is compared: files, measurements and the ratio to reach. One line per row of the table."""

from dataclasses import dataclass

EDGE, GLM_9B, TINY = "glm-edge-1.5b", "glm-4-9b", "tiny-9m"

# For estimates of the time alone: weights of a model, bits of a weight, and what both engines together took on two cores of a
# 2.6 GHz Xeon (results/2026-11-21-*) for a weight and a prompt token, and for a byte read.
WEIGHTS = {EDGE: 1.5e9, GLM_9B: 9.4e9, TINY: 9e6}
BITS = {"q8_0": 8.5, "q4_k_m": 4.9, "q4_0": 4.5, "bf16": 16, "f16": 16}
SECONDS_PER_PRODUCT, SECONDS_PER_BYTE = 1.2e-11, 1.1e-10
# The machine's limits are measured, and one engine waits until the other is quiet.
SECONDS_PER_CASE = 2


@dataclass(frozen=True)
class File:
    """A GGUF file of random weights: the speed of neither engine depends on what the weights say."""
    preset: str
    format: str

    @property
    def name(self):
        return f"{self.preset}-{self.format}.gguf"

    @property
    def is_large(self):
        """Two engines would not fit into 24 GiB side by side: they are loaded in turn."""
        return self.preset == GLM_9B


@dataclass(frozen=True)
class Case:
    """One measurement of one file. `query` is a line that `glm-cli bench --stdin` understands, as `llama_worker.py` does."""
    file: File
    query: dict
    threads: int
    goal: float
    isa: str = ""

    @property
    def label(self):
        query = self.query
        if query["measure"] == "prefill":
            what = f"prefill {query['tokens']}"
        else:
            streams = "1 stream" if query["batch"] == 1 else f"{query['batch']} streams"
            what = f"decode, {streams}"
        after = f" after {query['depth']:,}" if query["depth"] else ""
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{what}{after}{threads}{', AVX2 only' if self.isa else ''}"

    @property
    def key(self):
        return f"{self.file.name}: {self.label}"

    @property
    def seconds(self):
        """About what a round takes with both engines on two cores."""
        query, weights = self.query, WEIGHTS[self.file.preset]
        steps, batch = query.get("gen_tokens", 0), query.get("batch", 1)
        # llama.cpp keeps a long context from round to round, so this engine alone computes it again.
        products = weights * (query["depth"] / 2 + query.get("tokens", 0) + (steps * batch if batch > 1 else 0))
        file_bytes = weights * BITS[self.file.format] / 8
        loads = 2 if self.file.is_large else 0
        compute = products * SECONDS_PER_PRODUCT + (steps + loads * 4) * file_bytes * SECONDS_PER_BYTE
        return SECONDS_PER_CASE + compute * 2 / min(self.threads, 2)


def prefill(tokens=512, depth=0):
    return {"measure": "prefill", "tokens": tokens, "depth": depth}


def decode(batch=1, depth=0, gen_tokens=64):
    return {"measure": "decode", "batch": batch, "depth": depth, "gen_tokens": gen_tokens}


def table(threads):
    """The comparison on `threads` threads, with the ratio to reach against llama.cpp."""
    q8_0, q4_k_m, bf16 = File(EDGE, "q8_0"), File(EDGE, "q4_k_m"), File(EDGE, "bf16")
    large_q4, large_q8 = File(GLM_9B, "q4_k_m"), File(GLM_9B, "q8_0")
    return [
        Case(q8_0, prefill(), threads, 3.5),
        Case(q8_0, decode(), threads, 1.5),
        Case(q8_0, decode(gen_tokens=32), 1, 1.25),
        *streams(q8_0, threads),
        Case(q8_0, decode(depth=4096, gen_tokens=32), threads, 1.6),
        Case(q4_k_m, prefill(), threads, 2.2),
        Case(q4_k_m, prefill(depth=4096), threads, 3.0),
        Case(q4_k_m, decode(), threads, 1.25),
        Case(q4_k_m, decode(gen_tokens=32), 1, 1.3),
        *streams(q4_k_m, threads),
        Case(q4_k_m, decode(depth=4096, gen_tokens=32), threads, 1.6),
        Case(File(EDGE, "q4_0"), prefill(), threads, 1.9),
        Case(bf16, prefill(), threads, 1.6),
        Case(bf16, decode(gen_tokens=32), threads, 1.05),
        Case(bf16, decode(gen_tokens=16), 1, 1.25),
        Case(File(EDGE, "f16"), prefill(), threads, 1.05),
        Case(File(TINY, "q8_0"), decode(gen_tokens=512), threads, 1.3),
        Case(large_q4, prefill(), threads, 3.0),
        Case(large_q4, decode(gen_tokens=16), threads, 1.3),
        Case(large_q8, prefill(), threads, 3.0),
        Case(large_q8, decode(gen_tokens=16), threads, 1.2),
        Case(large_q8, decode(gen_tokens=8), 1, 1.2),
    ]


def streams(file, threads):
    """More and more sequences at a time."""
    return [Case(file, decode(batch=batch, gen_tokens=16), threads, 1.8 if batch >= 8 else 1.25) for batch in (2, 4, 8, 16, 32)]


def avx2_table(threads):
    """The same idea for machines without AVX-512, against a build of llama.cpp that uses none."""
    cases = []
    for format in ("q8_0", "q4_k_m"):
        file = File(EDGE, format)
        cases += [Case(file, prefill(), threads, 1.3, "avx2"), Case(file, decode(), threads, 1.05, "avx2")]
    return cases
