#!/usr/bin/env python3
"""Compares a file of requests done by `glm-cli batch` with the same requests sent to llama.cpp's server by as many clients.

    cargo build --release -p glm-cli
    venv/bin/python benches/compare/server.py --llama-server llama.cpp/build/bin/llama-server --output server.json

It needs the Python package `gguf`, which gives llama.cpp's copy of the file a made-up vocabulary: its server answers in text only.
Every request is a prompt of random token ids, different from all others, with an answer of fixed length, greedy, without stops.
llama.cpp's server has as many slots as there are clients, and so many requests are computed together here. What counts is
the time from the first request to the last answer, for all generated tokens; neither side's loading. llama.cpp's server is
asked through HTTP on the loopback, this engine reads a file: against a step of tens of milliseconds, neither is seen.
"""

import argparse
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
from engines import random_file
from record import ROOT, WORK_DIR, Record

PRESET = "glm-edge-1.5b"
READY_SECONDS = 120


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", required=True, help="llama.cpp's server; build it for this machine")
    parser.add_argument("--glm-cli", default=str(ROOT / "target/release/glm-cli"))
    parser.add_argument("--work-dir", type=Path, default=WORK_DIR, help="where the GGUF files are, or are written; default: target/compare")
    parser.add_argument("--output", type=Path, help="results as JSON; measurements that it holds are not repeated")
    parser.add_argument("--threads", type=int, default=max(1, len(os.sched_getaffinity(0))))
    parser.add_argument("--formats", default="q8_0,q4_k_m")
    parser.add_argument("--clients", default="1,4,8,16,32")
    parser.add_argument("--requests-per-client", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--gen-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


def with_vocabulary(path):
    """A copy of a file of random weights in which each token has a text of its own."""
    target = path.with_name(f"{path.stem}-vocabulary.gguf")
    if target.exists():
        return target
    reader = gguf.GGUFReader(path)
    field = lambda name: reader.fields[name].contents()
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, field("general.architecture"))
    for name, value in reader.fields.items():
        if not name.startswith(("GGUF.", "tokenizer.")) and name != "general.architecture":
            kind, *items = value.types
            writer.add_key_value(name, value.contents(), kind, items[0] if items else None)
    size = next(tensor.shape[-1] for tensor in reader.tensors if tensor.name == "token_embd.weight")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("chatglm-bpe")
    writer.add_token_list([f"t{id}" for id in range(size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * int(size))
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(0)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(target)
    return target


def prompts(args, clients, number):
    """Ids of tokens that no vocabulary of the family makes special."""
    draw = random.Random(f"{clients} {number}")
    return [[draw.randrange(1000, 50000) for _ in range(args.prompt_tokens)] for _ in range(clients * args.requests_per_client)]


def with_glm(args, path, clients, wanted):
    """Tokens per second of `glm-cli batch`."""
    with tempfile.TemporaryDirectory() as folder:
        requests, results = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        common = {"max_tokens": args.gen_tokens, "temperature": 0, "ignore_eos": True}
        lines = [{"custom_id": str(at), "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt, **common}}
                 for at, prompt in enumerate(wanted)]
        requests.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = [args.glm_cli, "batch", "--model", path, "--input", requests, "--output", results, "--threads", args.threads,
                   "--kv-dtype", "f16", "--max-num-seqs", clients, "--no-prefix-cache", "--json"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert summary["errors"] == 0 and summary["completion_tokens"] == len(wanted) * args.gen_tokens, summary
    return summary["completion_tokens"] / summary["seconds"]


class LlamaServer:
    """A running server with one slot for each client."""

    def __init__(self, args, path, clients):
        self.args, self.clients = args, clients
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        room = clients * (args.prompt_tokens + args.gen_tokens + 32)
        command = [args.llama_server, "-m", path, "-np", clients, "-c", room, "-t", args.threads, "-tb", args.threads, "-b", 2048,
                   "-ub", 512, "--host", "127.0.0.1", "--port", self.port, "--no-cache-prompt", "--log-disable"]
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_SECONDS
        while self.ask("GET", "/health")[0] != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("llama.cpp's server does not start")
            time.sleep(0.2)

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except ConnectionError:
            return 0, {}
        finally:
            connection.close()

    def generated(self, prompt):
        body = {"prompt": prompt, "n_predict": self.args.gen_tokens, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
        status, answer = self.ask("POST", "/completion", body)
        assert status == 200, (status, answer)
        return answer["tokens_predicted"]

    def tokens_per_second(self, wanted):
        with ThreadPoolExecutor(self.clients) as pool:
            begin = time.monotonic()
            tokens = sum(pool.map(self.generated, wanted))
            seconds = time.monotonic() - begin
        assert tokens == len(wanted) * self.args.gen_tokens, tokens
        return tokens / seconds

    def close(self):
        self.process.terminate()
        self.process.wait()


def with_llama(args, path, clients, wanted):
    server = LlamaServer(args, with_vocabulary(path), clients)
    try:
        server.tokens_per_second(wanted[:clients])  # its first pass touches the file's pages
        return server.tokens_per_second(wanted)
    finally:
        server.close()


def version(program):
    answer = subprocess.run([program, "--version"], capture_output=True, text=True)
    return (answer.stdout + answer.stderr).strip().splitlines()[0]


def markdown(results):
    lines = ["| file | clients | llama-server tok/s | glm tok/s | ratio |", "|---|---|---|---|---|"]
    for result in results.values():
        llama, glm = (statistics.median(result[engine]) for engine in ("llama_server", "glm"))
        lines.append(f"| {result['file']} | {result['clients']} | {llama:.1f} | {glm:.1f} | **{glm / llama:.2f}** |")
    return "\n".join(lines)


def main():
    args = arguments()
    record = Record(args.output, llama_server=version(args.llama_server), threads=args.threads, results={})
    for format in args.formats.split(","):
        path = random_file(args.glm_cli, args.work_dir, PRESET, format)
        for clients in map(int, args.clients.split(",")):
            key = f"{path.name}: {clients} clients"
            result = record["results"].setdefault(key, {
                "file": path.name, "clients": clients, "requests": clients * args.requests_per_client,
                "prompt_tokens": args.prompt_tokens, "gen_tokens": args.gen_tokens, "glm": [], "llama_server": []})
            for number in range(len(result["glm"]), args.rounds):
                wanted = prompts(args, clients, number)
                turns = [("glm", with_glm), ("llama_server", with_llama)]
                measured = {name: measure(args, path, clients, wanted) for name, measure in (turns if number % 2 else turns[::-1])}
                for name, speed in measured.items():
                    result[name].append(speed)
                record.save()
                print(f"round {number + 1}  {key:44}", *(f"{name} {speed:.1f}" for name, speed in measured.items()), flush=True)
    print(f"\n{markdown(record['results'])}\n\n{record['date']}, commit {record['commit']}, llama.cpp {record['llama_server']}")


if __name__ == "__main__":
    main()
