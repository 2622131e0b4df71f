"""Steps of a run on a machine that may be gone at any moment: each has a limit of its own within that of all, and what is known is on
disk after each.
"""

import functools
import json
import os
import queue
import re
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

LEAST_SECONDS = 5  # with less left, a step is not begun
ROWS_SHOWN = 14  # of a result that is a table
LINES_KEPT = 80  # of what a step that failed has printed; all of it is in the log
LIMITS = ("copy_gb_s", "bf16_tflop_s")  # what a device can do, when a script has measured it
# What a sanitizer calls its findings, and where it has found them.
FOUND = re.compile(
    r"=+ ((?:Invalid|Uninitialized|Barrier|Divergent|Program hit|Error:|Warning:|Race|Misaligned)[^\n]*)\n(?:=+ +(at [^\n]*))?"
)
FAILURES = ("failed", "too long", "not run")


class TooLong(Exception):
    """Nothing came within the time that there was."""


def kept(step):
    """Lets the run go on after whatever goes wrong in a step."""
    @functools.wraps(step)
    def whatever_happens(run, name, *args, **more):
        try:
            return step(run, name, *args, **more)
        except Exception as error:
            return run.add(name, "failed", reason=f"{type(error).__name__}: {error}"[:300])

    return whatever_happens


class Run:
    """The results so far, in a file of JSON that is whole at any time, and beside it a log of everything that was printed."""

    def __init__(self, output, limit, about):
        self.output = Path(output)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.log = open(self.output.with_suffix(".log"), "wb", buffering=0)
        self.deadline = time.monotonic() + limit
        self.about = about
        self.steps = []
        self.limits = {}  # of the device, as measured
        self.targets = []
        self.save()

    def left(self):
        """Seconds until the end of the run."""
        return self.deadline - time.monotonic()

    def save(self):
        unfinished = self.output.with_suffix(".json.tmp")
        unfinished.write_text(json.dumps({**self.about, "limits": self.limits, "steps": self.steps}, indent=1) + "\n")
        unfinished.replace(self.output)

    def add(self, name, status, seconds=0.0, **more):
        """Writes down what came of a step."""
        step = {"name": name, "status": status, "seconds": round(seconds, 1), **more}
        if isinstance(step.get("result"), dict):
            self.judge(name, step["result"])
        self.steps.append(step)
        self.save()
        print(line_of(step), flush=True)

    def judge(self, name, result):
        """Holds a measurement against what the device can do, and against what it should reach."""
        copy, product = self.limits.get("copy_gb_s"), self.limits.get("bf16_tflop_s")
        if copy and result.get("gb_s"):
            result["share_of_copy"] = round(result["gb_s"] / copy, 4)
        if product and result.get("gop_s"):
            result["share_of_product"] = round(result["gop_s"] / 1e3 / product, 4)
        for target_name, field, compare, value in self.targets:
            if target_name == name and isinstance(result.get(field), (int, float)):
                reached = result[field] >= value if compare == ">=" else result[field] <= value
                result.setdefault("targets", {})[f"{field} {compare} {value:,}"] = "pass" if reached else "fail"

    def limit_of(self, name, limit):
        """The seconds that a step may take, or None, and a note, if there are too few left for it."""
        if self.left() < LEAST_SECONDS:
            self.add(name, "not run", reason="the time of the run is over")
            return None
        return min(limit, self.left())

    def start(self, name, command, env=None, apart=False):
        """Starts a program, or says why it cannot be."""
        command = [str(word) for word in command]
        words = [f"{key}={value}" for key, value in (env or {}).items()] + command
        self.log.write(f"\n== {name}: {' '.join(words)[:2000]}\n".encode())
        if not shutil.which(command[0]):
            self.add(name, "missing", reason=f"{command[0]} is not there")
            return None
        return Program(command, env or {}, self.log, apart)

    @kept
    def command(self, name, command, limit, env=None, read=None):
        """Runs a program to its end; `read` makes the result of what it printed."""
        limit = self.limit_of(name, limit)
        program = self.start(name, command, env) if limit else None
        if not program:
            return None
        began, text = time.monotonic(), ""
        with program:
            try:
                text = program.read_all(limit)
            except TooLong as error:
                return self.add(name, "too long", time.monotonic() - began, output=last_lines(str(error)))
            code = program.wait()
        seconds = time.monotonic() - began
        if code != 0:
            return self.add(name, "failed", seconds, code=code, output=last_lines(text))
        try:
            result = (read or last_json)(text)
        except (ValueError, KeyError) as error:
            return self.add(name, "failed", seconds, reason=f"not understood: {error!r}", output=last_lines(text))
        return self.add(name, "ok", seconds, **({"result": result} if result else {"output": last_lines(text)}))

    @kept
    def script(self, name, command, limit):
        """Runs a program whose lines of JSON are results of their own, with a name and perhaps a status."""
        limit = self.limit_of(name, limit)
        program = self.start(name, command) if limit else None
        if not program:
            return
        began = last = time.monotonic()
        tail, end = [], began + limit
        with program:
            try:
                while (line := program.line(end)) is not None:
                    result = object_of(line)
                    if result is None:
                        tail = (tail + [line])[-LINES_KEPT:]
                        continue
                    now = time.monotonic()
                    self.limits.update({key: result[key] for key in LIMITS if key in result})
                    self.add(f"{name}, {result.pop('name', '')}", result.pop("status", "ok"), now - last, result=result)
                    last = now
            except TooLong:
                return self.add(name, "too long", time.monotonic() - began, output=tail)
            code = program.wait()
        seconds = time.monotonic() - began
        if code == 77:
            self.add(name, "missing", seconds, reason=tail[-1] if tail else "")
        elif code != 0:
            self.add(name, "failed", seconds, code=code, output=tail)

    @kept
    def tests(self, name, program, filters, limit, each, env=None, under=()):
        """Runs the tests of a program whose names contain one of `filters`, one after the other, `under` another program perhaps.

        One that hangs or takes the process with it is noted, and the others go on in a new process; those that failed are tried alone,
        for a device that is lost fails all that come after.
        """
        limit = self.limit_of(name, limit)
        if not limit:
            return
        for tool in [*under[:1], program]:
            if not shutil.which(str(tool)):
                return self.add(name, "missing", reason=f"{tool} is not there")
        end, began = time.monotonic() + limit, time.monotonic()
        listed = subprocess.run([program, "--list", "--format", "terse", *filters], capture_output=True, text=True, timeout=60)
        wanted = re.findall(r"^(\S+): test$", listed.stdout, re.M)
        tests = Tests(self, name, [*under, program], env or {}, each)
        text = tests.run(wanted, end)
        for test in [test for test, outcome in tests.outcomes.items() if outcome == "failed"][:40]:
            if len(wanted) > 1 and end - time.monotonic() > LEAST_SECONDS:
                alone = Tests(self, name, [*under, program], env or {}, each)
                text += alone.run([test], end)
                tests.outcomes[test] = f"failed, alone {alone.outcomes.get(test, 'not run')}"
        result = tests.result(wanted)
        result.update(found_by_sanitizer(text) if under else {})
        good = wanted and len(wanted) == result["passed"] and not result.get("errors")
        more = {} if good else {"output": last_lines(text)}
        self.add(name, "ok" if good else "failed", time.monotonic() - began, result=result, **more)

    @kept
    def session(self, name, command, queries, limit, env=None):
        """Asks a program that answers lines of JSON; returns False if it came to an end before the first."""
        limit = self.limit_of(name, limit)
        program = self.start(name, command, env, apart=True) if limit else None
        if not program:
            return None
        began = time.monotonic()
        with program:
            try:
                hello = object_of(program.line(began + limit) or "")
            except TooLong:
                return self.add(f"{name}, load", "too long", limit)
            seconds = time.monotonic() - began
            if hello is None:
                self.add(f"{name}, load", "failed", seconds, code=program.wait(), output=self.log_tail())
                return False
            self.add(f"{name}, load", "ok", seconds, about=hello)
            for query in queries:
                if not self.ask(program, f"{name}, {query.name}", query):
                    break
        return None

    def ask(self, program, name, query):
        """Puts one query as often as it says; returns whether there can be another."""
        limit = self.limit_of(name, query.limit)
        if not limit:
            return False
        began, answers = time.monotonic(), []
        try:
            for _ in range(query.repeat):
                answer = object_of(program.ask(query.query, began + limit) or "")
                if answer is None:
                    self.add(name, "failed", time.monotonic() - began, code=program.wait(), output=self.log_tail())
                    return False
                if "error" in answer:
                    self.add(name, "failed", time.monotonic() - began, reason=answer["error"])
                    return True
                answers.append(answer)
        except TooLong:
            if not answers:
                self.add(name, "too long", time.monotonic() - began)
                return False
        middle = statistics.median_low([answer["tok_s"] for answer in answers])
        result = next(answer for answer in answers if answer["tok_s"] == middle)
        if len(answers) > 1:
            result["all_tok_s"] = [round(answer["tok_s"], 2) for answer in answers]
        self.add(name, "ok", time.monotonic() - began, result=result)
        return len(answers) == query.repeat

    def log_tail(self):
        """The end of the log, where a program says why it ended."""
        return last_lines(Path(self.log.name).read_bytes()[-20000:].decode(errors="replace"))

    def table(self):
        """Everything in short, for those who see the end of the output only."""
        print(f"\n{self.about.get('device') or 'device unknown'}; commit {self.about.get('commit')}; {self.output}")
        for step in self.steps:
            print(line_of(step))
            rows = (step.get("result") or {}).get("rows", {})
            for name, row in list(rows.items())[:ROWS_SHOWN]:
                print(f"{'':20}{name[:80]}: {row}")
        failed = [step["name"] for step in self.steps if step["status"] in FAILURES]
        print(f"{len(self.steps)} steps, {len(failed)} of them failed, too long or not run", flush=True)
        return not failed


class Program:
    """A child whose standard output is read with patience that ends. It and what it starts are ended with the block."""

    def __init__(self, command, env, log, apart):
        self.log = log
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if apart else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log if apart else subprocess.STDOUT,
            env={**os.environ, **env},
            # A group of its own can be ended as a whole; it stays in this session, so that it goes with it.
            preexec_fn=os.setpgrp,
        )
        self.pieces = queue.Queue()
        self.rest = b""
        self.thread = threading.Thread(target=self.pump, daemon=True)
        self.thread.start()

    def pump(self):
        while piece := self.child.stdout.read1(1 << 16):
            self.log.write(piece)
            self.pieces.put(piece)
        self.pieces.put(None)

    def piece(self, end):
        """What was printed next; None when there is no more. `end` is a time."""
        try:
            piece = self.pieces.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise TooLong from None
        if piece is None:
            self.pieces.put(None)
        return piece

    def read_all(self, limit):
        end, text = time.monotonic() + limit, b""
        try:
            while piece := self.piece(end):
                text += piece
        except TooLong:
            raise TooLong(text.decode(errors="replace")) from None
        return text.decode(errors="replace")

    def line(self, end):
        """The next line; None when there is no more."""
        while b"\n" not in self.rest:
            piece = self.piece(end)
            if piece is None:
                line, self.rest = self.rest, b""
                return line.decode(errors="replace") or None
            self.rest += piece
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode(errors="replace")

    def ask(self, query, end):
        """Sends a line and waits for one."""
        try:
            self.child.stdin.write(json.dumps(query).encode() + b"\n")
            self.child.stdin.flush()
        except OSError:
            return None
        return self.line(end)

    def wait(self):
        """The exit code; the standard output has ended."""
        try:
            return self.child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.stdin:
            try:
                self.child.stdin.close()
            except OSError:
                pass
        # What has closed its output or reads ours to the end is about to end; anything else does not know that it should.
        about_to_end = self.child.stdin or not self.thread.is_alive()
        for kind, patience in [(None, 2.0 if about_to_end else 0.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)]:
            try:
                if kind:
                    os.killpg(self.child.pid, kind)
                self.child.wait(timeout=patience)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.thread.join(timeout=1.0)
        if not self.thread.is_alive():
            self.child.stdout.close()


class Tests:
    """Tests of one program and what became of them."""

    def __init__(self, run, name, command, env, each):
        self.run_, self.name, self.command, self.env, self.each = run, name, command, env, each
        self.outcomes = {}

    def run(self, wanted, end):
        """Runs all of `wanted`, in as many processes as it takes; what they printed."""
        text = ""
        while (pending := [test for test in wanted if test not in self.outcomes]) and end - time.monotonic() > 0:
            command = [*self.command, "--test-threads", "1", "--exact", *pending]
            program = self.run_.start(self.name, command, self.env)
            if program is None:
                break
            reader = TestReader()
            with program:
                try:
                    while piece := program.piece(min(end, time.monotonic() + self.each)):
                        reader.feed(piece.decode(errors="replace"))
                    stopped = f"crashed, exit code {program.wait()}"
                except TooLong:
                    stopped = f"hung for {self.each:.0f} s" if end > time.monotonic() else "cut off"
            text += reader.text
            self.outcomes.update(reader.outcomes)
            unfinished = reader.current or next((test for test in pending if test not in self.outcomes), None)
            if unfinished and (reader.current or not reader.outcomes):
                self.outcomes[unfinished] = stopped
            if stopped == "cut off":
                break
        return text

    def result(self, wanted):
        count = Counter(self.outcomes.values())
        bad = {test: outcome for test, outcome in self.outcomes.items() if outcome not in ("ok", "ignored")}
        passed = count["ok"] + count["ignored"]
        return {"passed": passed, "of": len(wanted), **({"bad": bad} if bad else {})}


class TestReader:
    """Understands what a program of Rust tests prints, also where a tool prints between the name of a test and its outcome."""

    OUTCOMES = {"ok": "ok", "FAILED": "failed", "ignored": "ignored"}

    def __init__(self):
        self.text, self.rest, self.outcomes, self.current = "", "", {}, None

    def feed(self, piece):
        self.text += piece
        self.rest += piece
        *lines, self.rest = self.rest.split("\n")
        for line in lines:
            self.line(line)
        if begun := re.match(r"test (\S+)(?: - should panic)? \.\.\. ", self.rest):
            self.current = begun[1]

    def line(self, line):
        if begun := re.match(r"test (\S+)(?: - should panic)? \.\.\. ?(.*)", line):
            self.current, line = begun[1], begun[2]
        outcome = self.OUTCOMES.get(line.split(",")[0].strip())
        if self.current and outcome:
            self.outcomes[self.current] = outcome
            self.current = None


def found_by_sanitizer(text):
    """How many errors compute-sanitizer has found, and the kinds of them."""
    counts = re.findall(r"=+ (?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)", text)
    kinds = Counter(" ".join(part[:160] for part in kind if part) for kind in FOUND.findall(text))
    return {"errors": sum(map(int, counts)), **({"kinds": dict(kinds.most_common(20))} if kinds else {})}


def object_of(line):
    """A line of JSON that is an object."""
    try:
        value = json.loads(line) if line.startswith("{") else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def last_json(text):
    """The last line that is an object of JSON, or the whole text."""
    for line in reversed(text.splitlines()):
        if (value := object_of(line)) is not None:
            return value
    return object_of(text)


def last_lines(text):
    return [line[:400] for line in text.splitlines()[-LINES_KEPT:]]


def line_of(step):
    """A step in a line."""
    result, words = step.get("result") or {}, []
    if "tok_s" in result:
        words.append(f"{result['tok_s']:,.1f} tok/s")
        times = [("itl_ms", "a step"), ("ttft_ms", "to the first token")]
        words += [f"{result[key]:,.2f} ms {name}" for key, name in times if key in result]
        shares = [("share_of_copy", "copy rate"), ("share_of_product", "product rate")]
        words += [f"{result[key]:.0%} of the {name}" for key, name in shares if key in result]
    elif "passed" in result:
        words.append(f"{result['passed']} of {result['of']} passed")
        words += [f"{result['errors']} errors"] if "errors" in result else []
        words += [f"{name}: {outcome}" for name, outcome in list(result.get("bad", {}).items())[:8]]
    else:
        simple = {key: value for key, value in result.items() if isinstance(value, (int, float, str)) and key != "targets"}
        words += [f"{key} {value:,.5g}" if isinstance(value, (int, float)) else f"{key} {value}" for key, value in simple.items()]
    words += [f"{verdict.upper()} {target}" for target, verdict in result.get("targets", {}).items()]
    words += [step["reason"]] if step.get("reason") else []
    words += [step["output"][-1]] if step["status"] in FAILURES and step.get("output") else []
    line = f"{step['status']:8} {step['seconds']:6.1f} s  {step['name']}"
    return (f"{line}: {'; '.join(words)}" if words else line)[:300]
