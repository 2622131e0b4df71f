"""What a comparison has measured so far, kept in a file after each step so that an interrupted run goes on where it stopped."""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Where GGUF files are written if nobody says otherwise: ignored by git, and gone with the build.
WORK_DIR = ROOT / "target/compare"
# Options whose values are places on this machine, with what a kept run says in their stead.
PLACES = {"--llama-python": "PYTHON", "--avx2-llama-python": "PYTHON", "--glm-cli": "PROGRAM", "--work-dir": "DIR", "--output": "FILE"}


class Record:
    """Results as JSON. Those of another commit are not mixed with this one's."""

    def __init__(self, path, **sections):
        self.path = path
        self.data = {"date": time.strftime("%Y-%m-%d"), "commit": commit(), "command": shown_command(), **sections}
        if path and path.exists():
            self.data = json.loads(path.read_text())
            if self.data["commit"] != commit():
                sys.exit(f"{path} holds measurements of commit {self.data['commit']}: choose another --output")
            if shown_command() not in self.data["command"]:
                self.data["command"] += f"; {shown_command()}"

    def __getitem__(self, section):
        return self.data[section]

    def save(self):
        if self.path:
            # Renamed, so that no interruption leaves half a file.
            part = self.path.with_name(self.path.name + ".part")
            part.write_text(json.dumps(self.data, indent=1) + "\n")
            part.replace(self.path)


def commit():
    def git(*arguments):
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
    return git("rev-parse", "--short", "HEAD") + ("-changed" if git("status", "--porcelain", "--untracked-files=no") else "")


def shown_command():
    """The command without the paths of this machine."""
    words = [f"benches/compare/{Path(sys.argv[0]).name}"]
    for word in sys.argv[1:]:
        words.append(PLACES.get(words[-1], word))
    return " ".join(words)
