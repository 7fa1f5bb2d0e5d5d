"""Try the README, the page about installing and the how-to pages as a new user would.

    python tests/fresh_clone.py                        # every command and every block of code, as written
    python tests/fresh_clone.py --without "make test"  # if you have just run the tests

The last commit is cloned into an empty folder, with an empty home and only the system's programs on the path. The
blocks of `sh` that set the project up run first, in the clone, by bash. The other blocks of a page then run in their
order in an empty folder, in one process, or are saved, where a block has the name of a file as its title; what a reader
brings, such as `my_scan.ply`, is made beforehand.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOW_TO = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/how-to/*.md"))
PAGES = ["README.md", "docs/install.md", "docs/what-fit-needs.md", *HOW_TO]
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETS_UP = re.compile(r"^make |-m venv", re.M)

# Scans of people in the formats that the pages name.
READERS_FILES = """
from pathlib import Path
import trimesh, pyro_pcflow as pcf
bodies = pcf.data.load_example("body")
def write(cloud, path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    trimesh.PointCloud(cloud.numpy()).export(path)
write(bodies[0], "my_scan.ply")
write(bodies[1], "other_scan.ply")
Path("survey").mkdir()
rows = (bodies[2, :300].double() + 4_485_513).tolist()
lines = [f"{index},{e!r},{n!r},{h!r},{index}" for index, (e, n, h) in enumerate(rows)]
Path("survey", "a.csv").write_text("\\n".join(["time,E,N,H,intensity", *lines]))
for index in range(20):
    write(bodies[index], f"my_scans/{index}.ply")
    write(bodies[100 + index], f"held_out/{index}.ply")
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """The blocks of code of a page, those of what it includes too: sh, python or the name of a file, and the text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for include, name, section in re.findall(r'^(--8<-- "([^":]+):(\w+)")$', text, flags=re.M):
        marks = re.split(rf"<!-- --8<-- \[(?:start|end):{section}\] -->", (ROOT / name).read_text(encoding="utf-8"))
        text = text.replace(include, marks[1])
    found = re.findall(r'^```(sh|python)(?: title="([^"]+)")?\n(.*?)^```', text, flags=re.M | re.S)
    return [(title or language, code) for language, title, code in found]


def needed(text: str) -> str | None:
    """The package of a block that begins with `# needs PACKAGE`: the block is left out where the package is not."""
    needs = re.match(r"# needs (\w+)\n", text)
    return needs and needs[1]


def program(parts: list[tuple[str, str]]) -> str:
    """One program of all blocks, in their order; one with a title is saved as that file."""
    lines = ["import importlib.util as _util, pathlib as _pathlib, subprocess as _subprocess"]
    for kind, text in parts:
        command = ["bash", "-euxo", "pipefail", "-c", text]
        runs = {"python": text, "sh": f"_subprocess.run({command!r}, check=True)"}
        line = runs.get(kind, f"_pathlib.Path({kind!r}).write_text({text!r})")
        # Whether there is a package is for the Python that runs the program to say.
        package = needed(text)
        lines.append(line if package is None else f"if _util.find_spec({package!r}): exec({line!r})")
    return "\n".join(lines)


class Reader:
    """A user with an empty home who has just cloned the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: set[str] = set()
        self.clone = folder / "pyro-pcflow"
        self.python = self.clone / ".venv" / "bin" / "python"
        (folder / "home").mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.clone)], check=True)
        self.environment = {
            "HOME": str(folder / "home"),
            "PATH": f"{self.python.parent}:{SYSTEM}",
            "LANG": "C.UTF-8",
            "MPLBACKEND": "agg",
        }

    def read(self, page: str, left_out: list[str]) -> None:
        """Run the blocks of a page; raises `subprocess.CalledProcessError` where one fails."""
        parts = blocks(page)
        setting_up = [text for language, text in parts if language == "sh" and SETS_UP.search(text)]
        for text in setting_up:
            if text in self.done:  # on an earlier page, word for word
                continue
            self.done.add(text)
            kept = [line for line in text.splitlines() if line.split("#")[0].strip() not in left_out]
            self.run(["bash", "-euxo", "pipefail", "-c", "\n".join(kept)], self.clone)
        rest = [(language, text) for language, text in parts if text not in setting_up]
        if rest:
            if not self.python.exists():
                self.run(["make", ".venv/.installed"], self.clone)
            work = self.folder / page.replace("/", "-")
            work.mkdir()
            self.run([str(self.python), "-c", READERS_FILES], work)
            self.run([str(self.python), "-W", "ignore", "-c", program(rest)], work)

    def run(self, command: list[str], folder: Path) -> None:
        subprocess.run(command, cwd=folder, env=self.environment, check=True, stdin=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description="Try every command and block of code as a new user would.")
    parser.add_argument("pages", nargs="*", default=PAGES, help="README, install and how-to pages by default")
    parser.add_argument("--without", action="append", default=[], metavar="COMMAND", help="leave out a command")
    options = parser.parse_args()
    if shutil.which("git") is None:
        parser.error("git is needed to make a fresh clone")
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        reader = Reader(Path(name))
        for page in options.pages:
            start = time.perf_counter()
            try:
                reader.read(page, options.without)
                outcome = f"works as written, {len(blocks(page))} blocks"
            except subprocess.CalledProcessError as error:
                outcome = f"FAILED with {error.returncode}"
            outcomes.append(f"{page}: {outcome}, {time.perf_counter() - start:.0f} s")
            print("==", outcomes[-1], flush=True)
    print("", *outcomes, *(f"left out: {command}" for command in options.without), sep="\n")
    print(f"on {os.cpu_count()} cores")
    return int(any("FAILED" in outcome for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
