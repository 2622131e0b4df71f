"""The two engines as child processes that answer one query at a time, and the files that they read."""

import json
import os
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# llama.cpp's threads spin for some milliseconds after a call; the other engine's turn starts after that.
SETTLE_SECONDS = 0.05


def random_file(glm_cli, folder, preset, format):
    """The GGUF file of random weights at the sizes of a preset; it is written if it is not there."""
    path = folder / f"{preset}-{format}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"writing {path.name}", flush=True)
        subprocess.run([glm_cli, "quantize", "--model", f"random:{preset}", "--format", format, "--output", path],
                       check=True, stdout=subprocess.DEVNULL)
    return path


class Engine:
    """A process that takes a line of JSON and answers with one."""

    def __init__(self, command, env=None):
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env={**os.environ, **(env or {})})
        self.about = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[0]} ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def ask(self, query):
        time.sleep(SETTLE_SECONDS)
        self.process.stdin.write(json.dumps(query) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def start_glm(glm_cli, path, threads, queries, isa=""):
    """With room for the largest batch, prompt, depth and answer of `queries`."""
    size = {key: max([query.get(key, 0) for query in queries] + [least])
            for key, least in (("batch", 1), ("tokens", 16), ("depth", 0), ("gen_tokens", 1))}
    command = [glm_cli, "bench", "--stdin", "--model", path, "--threads", threads, "--kv-dtype", "f16", "--batch", size["batch"],
               "--prompt-tokens", size["tokens"], "--depth", size["depth"], "--gen-tokens", size["gen_tokens"], "--repeat", 1]
    return Engine(command, {"GLM_ISA": isa} if isa else None)


def start_llama(python, path, queries):
    return Engine([python, HERE / "llama_worker.py", path, json.dumps(queries)])
