#!/usr/bin/env python3
"""The script for graphics processors without one: over programs that stand in for those that it runs, and that hang, crash, fail and are not there."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
import run as script
import steps

HERE = Path(__file__).resolve().parent

# Answers queries with numbers that depend on the batch; WHEN says what goes wrong, and with which of them.
CLI = r"""#!/bin/sh
case "$1" in
    doctor) echo '{"ok": true}'; exit ;;
    generate) echo "Hello"; exit ;;
esac
case "$WHEN:$*" in small:*256*) echo "needs 900 GiB" >&2; exit 2 ;; esac
echo '{"model": {}, "machine": {}}'
while read -r line; do
    case "$WHEN:$line" in
        hang:*) sleep 60 ;;
        end:*2048*) echo "the device is lost" >&2; exit 1 ;;
    esac
    case "$line" in
        *prefill*) echo '{"measure": "prefill", "tok_s": 30000.0, "ttft_ms": 310.0, "gop_s": 500000.0}' ;;
        *'"batch": 64'*) echo '{"measure": "decode", "tok_s": 8000.0, "itl_ms": 8.0, "gb_s": 3000.0}' ;;
        *'"batch": 256'*) echo '{"error": "does not fit"}' ;;
        *) echo '{"measure": "decode", "tok_s": 200.0, "itl_ms": 5.0, "gb_s": 3500.0}' ;;
    esac
done
"""

# Three tests; after --exact, those that are named.
TESTS = r"""#!/bin/sh
case "$1" in --list) printf 'a::fine: test\na::wrong: test\na::last: test\n'; exit ;; esac
named=0; bad=0
for name in "$@"; do
    case "$name" in --exact) named=1; continue ;; esac
    [ $named = 1 ] || continue
    printf 'test %s ... ' "$name"
    case "$WHEN:$name" in
        fail:a::wrong) echo FAILED; bad=101 ;;
        lost:a::wrong) echo FAILED; lost=1; bad=101 ;;
        crash:a::wrong) kill -9 $$ ;;
        hang:a::wrong) sleep 60 ;;
        found:a::wrong)
            printf '========= Invalid __global__ read of size 4 bytes\n=========     at kernel(float*)+0x10 in a.cu\n'; echo ok ;;
        *) if [ "$lost" ]; then echo FAILED; else echo ok; fi ;;
    esac
done
case "$WHEN" in found) echo '========= ERROR SUMMARY: 1 error'; exit 9 ;; esac
exit $bad
"""

NCU = """==PROF== Connected
"ID","Kernel Name","Grid Size","Metric Name","Metric Unit","Metric Value"
"0","gemv(const float *)","(132, 1, 1)","dram__bytes.sum","byte","4,000,000"
"0","gemv(const float *)","(132, 1, 1)","gpu__time_duration.sum","ns","2,000"
"1","gemv(const float *)","(132, 1, 1)","dram__bytes.sum","byte","4,000,000"
"1","gemv(const float *)","(132, 1, 1)","gpu__time_duration.sum","ns","2,000"
"2","norm(float *)","(1, 1, 1)","gpu__time_duration.sum","ns","9,000"
"2","norm(float *)","(1, 1, 1)","dram__bytes.sum","byte","0"
"""


class WithPrograms(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for name, text in {"glm-cli": CLI, "kernels": TESTS, "cuda": TESTS}.items():
            self.write(name, text)
        (self.folder / "commit").write_text("abc1234\n")

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def begin(self, *more, when="", model="a folder", **options):
        # Without the machine's own tools, should it have them.
        env = {"PATH": "/usr/bin:/bin", "WHEN": when, "MODEL": model}
        command = [sys.executable, HERE / "run.py", "--programs", self.folder, *more, self.folder / "out" / "run.json"]
        return subprocess.Popen([str(word) for word in command], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)

    def result(self):
        return json.loads((self.folder / "out" / "run.json").read_text())

    def go(self, *more, **options):
        program = self.begin(*more, **options)
        said, _ = program.communicate(timeout=60)
        result = self.result()
        return program.returncode, {step["name"]: step for step in result["steps"]}, said


class Scripts(WithPrograms):
    def test_what_is_there_is_run_and_what_is_missing_is_said_to_be(self):
        code, named, said = self.go()
        self.assertEqual(code, 1, "two sessions ask for more than there is")
        self.assertEqual(self.result()["commit"], "abc1234")
        for name in ["doctor", "an answer of the demo", "every operation against the CPU's", "bf16, load", "int4, 64 streams"]:
            self.assertEqual(named[name]["status"], "ok", named[name])
        for name in ["logits", "limits", "PyTorch", "kernels by ncu", "memcheck of every operation", "initcheck of recorded steps"]:
            self.assertEqual(named[name]["status"], "missing", named[name])
        self.assertEqual(named["bf16, 1 stream"]["result"]["all_tok_s"], [200.0] * 3)
        self.assertEqual(named["bf16, 256 streams at 2048"]["reason"], "does not fit")
        # The table at the end has every step once more.
        self.assertGreaterEqual(said.count("bf16, prompt of 8192: 30,000.0 tok/s; 310.00 ms to the first token"), 2, said)
        self.assertIn("Hello", (self.folder / "out" / "run.log").read_text())

    def test_a_stage_can_be_had_alone_and_from_packed_programs(self):
        with tarfile.open(self.folder / "programs.tar.xz", "w:xz") as archive:
            for name in ["glm-cli", "kernels", "cuda"]:
                archive.add(self.folder / name, f"./{name}")
                (self.folder / name).unlink()
        code, named, said = self.go("--stage", "checks")
        self.assertEqual(code, 0, said)
        self.assertEqual(named["checkpoints against transformers (cuda)"]["result"], {"passed": 3, "of": 3})
        self.assertNotIn("bf16, load", named)

    def test_a_folder_without_programs_is_refused(self):
        (self.folder / "kernels").unlink()
        program = self.begin()
        said, _ = program.communicate(timeout=60)
        self.assertEqual(program.returncode, 1)
        self.assertIn("has no kernels: run.sh --prepare", said)

    def test_the_end_of_the_time_is_kept(self):
        began = time.monotonic()
        code, named, said = self.go("--stage", "speed", "--limit", "9.5", when="hang")
        self.assertLess(time.monotonic() - began, 45)
        self.assertEqual(code, 1)
        self.assertEqual(named["bf16, 1 stream"]["status"], "too long")
        self.assertEqual(named["int4"]["status"], "not run", said)

    def test_a_run_that_is_ended_leaves_results_and_no_program(self):
        program = self.begin("--stage", "speed", when="hang")
        while "bf16, load" not in program.stdout.readline():
            pass
        time.sleep(0.2)
        program.send_signal(signal.SIGTERM)
        said, _ = program.communicate(timeout=30)
        self.assertEqual(program.returncode, 1)
        self.assertEqual([step["name"] for step in self.result()["steps"]][-2:], ["bf16, load", "the rest"])
        self.assertIn("interrupted", said)
        left = subprocess.run(["pgrep", "-f", str(self.folder / "glm-cli")], capture_output=True, text=True).stdout
        self.assertEqual(left, "")

    def test_an_engine_that_ends_costs_its_session_and_one_that_is_too_large_its_largest_batch(self):
        _, named, said = self.go("--stage", "speed", when="end")
        self.assertEqual(named["bf16, 1 stream"]["status"], "ok")
        self.assertEqual(named["bf16, 1 stream at 2048"]["status"], "failed")
        self.assertIn("the device is lost", "\n".join(named["bf16, 1 stream at 2048"]["output"]))
        self.assertEqual(named["fp8, 1 stream"]["status"], "ok", said)
        _, named, _ = self.go("--stage", "speed", when="small")
        self.assertEqual(named["bf16, 64 streams at 2048"]["status"], "ok")
        self.assertNotIn("bf16, 256 streams at 2048", named)


class Parts(WithPrograms):
    def run_of(self):
        run = steps.Run(self.folder / "run.json", 60, {"device": "none", "commit": "none"})
        self.addCleanup(run.log.close)
        return run

    def outcome(self, when, under=(), each=5.0):
        run = self.run_of()
        run.tests("t", self.folder / "kernels", [], 30, each, {"WHEN": when}, under)
        return run.steps[-1]

    def test_one_bad_test_does_not_hide_the_others(self):
        self.assertEqual(self.outcome("")["result"], {"passed": 3, "of": 3})
        self.assertEqual(self.outcome("fail")["result"], {"passed": 2, "of": 3, "bad": {"a::wrong": "failed, alone failed"}})
        lost = self.outcome("lost")["result"]["bad"]
        self.assertEqual(lost, {"a::wrong": "failed, alone failed", "a::last": "failed, alone ok"})
        crashed = self.outcome("crash")
        self.assertEqual(crashed["status"], "failed")
        self.assertEqual(crashed["result"], {"passed": 2, "of": 3, "bad": {"a::wrong": "crashed, exit code -9"}})
        hung = self.outcome("hang", each=4)["result"]
        self.assertEqual(hung, {"passed": 2, "of": 3, "bad": {"a::wrong": "hung for 4 s"}})

    def test_what_a_sanitizer_finds_is_an_error_though_the_tests_pass(self):
        self.assertEqual(self.outcome("", under=["env"])["status"], "ok")
        found = self.outcome("found", under=["env"])
        self.assertEqual(found["status"], "failed")
        self.assertEqual(found["result"]["errors"], 1)
        self.assertEqual(list(found["result"]["kinds"]), ["Invalid __global__ read of size 4 bytes at kernel(float*)+0x10 in a.cu"])

    def test_numbers_are_held_against_the_device_and_the_targets(self):
        run = self.run_of()
        run.targets = [("a, 1 stream", "tok_s", ">=", 195), ("a, prompt of 8192", "ttft_ms", "<=", 300)]
        lines = self.write("lines", "#!/bin/sh\necho not json\necho '{\"name\": \"copy\", \"copy_gb_s\": 4000.0}'\nexit 3\n")
        run.script("limits", [lines], 10)
        self.assertEqual([step["status"] for step in run.steps], ["ok", "failed"])
        run.session("a", [self.folder / "glm-cli", "bench"], [script.decode(1), script.prefill(8192)], 10)
        one, prompt = (step["result"] for step in run.steps[-2:])
        self.assertEqual((one["share_of_copy"], one["targets"]), (0.875, {"tok_s >= 195": "pass"}))
        self.assertEqual(prompt["targets"], {"ttft_ms <= 300": "fail"})
        self.assertEqual(json.loads((self.folder / "run.json").read_text())["limits"], {"copy_gb_s": 4000.0})

    def test_whatever_goes_wrong_with_a_step_the_next_is_run(self):
        run = self.run_of()
        run.command("no program of this machine", [self.write("nothing", "\x7fELF")], 10)
        run.command("not understood", ["/bin/echo", "x"], 10, read=lambda text: {}[text])
        run.command("hangs", ["/bin/sleep", "60"], 0.2)
        run.command("fine", ["/bin/echo", '{"a": 1}'], 10)
        self.assertEqual([step["status"] for step in run.steps], ["failed", "failed", "too long", "ok"])
        self.assertFalse(run.table())

    def test_the_kernels_that_take_longest_come_first(self):
        rows = script.by_kernel(NCU)["rows"]
        self.assertEqual(list(rows.items()), [
            ("norm(1,1,1)", "1 x 9.0 us, 0 GB/s"),
            ("gemv(132,1,1)", "2 x 2.0 us, 2000 GB/s"),
        ])

    def test_every_operation_has_tests_on_a_device(self):
        found = script.device_tests()
        for module in ["linear", "paged_attention", "rms_norm", "sample", "swiglu", "gather_rows", "scatter_add"]:
            self.assertTrue(any(name.startswith(f"{module}::") for name in found), found)
        tests = (script.REPO / "glm-runtime" / "tests" / "cuda.rs").read_text()
        self.assertIn(f"fn {script.ENGINE_TEST}", tests)

    def test_no_option_is_given_twice_and_every_stage_is_one(self):
        commands = []

        class Recorder:
            def __getattr__(self, _):
                return lambda *parts, **_: commands.extend(list(map(str, part)) for part in parts if isinstance(part, list) and part)

        gpu = script.Gpu(Recorder(), self.folder, "random:glm-4-9b", "cuda")
        for stage in script.STAGES:
            before = len(commands)
            gpu.stage(stage)
            self.assertGreater(len(commands), before, stage)
        self.assertIn("ncu", {command[0] for command in commands})
        for command in commands:
            options = [word for word in command if word.startswith("--")]
            self.assertEqual(len(options), len(set(options)), command)


if __name__ == "__main__":
    os.chdir(HERE)
    unittest.main()
