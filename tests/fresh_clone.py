"""Try the README, the page about installing and the how-to pages as a new user would.

    python tests/fresh_clone.py                        # every command and every block of code, as written
    python tests/fresh_clone.py --without "make test"  # for who has just run the tests

For each page the last commit is cloned into an empty folder, with an empty home and only the system's programs on the
path. Blocks of `sh` run one after the other in the clone, by bash; then those of `python`, in a folder of their own, in
one process. What a reader brings, such as `my_scan.ply`, is made beforehand. A block that another page has run already
is not run again.
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
PAGES = ["README.md", "docs/install.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/how-to/*.md"))]
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Scans of people in the formats that the pages name.
READERS_FILES = """
import trimesh, pyro_pcflow as pcf
bodies = pcf.data.load_example("body")
from pathlib import Path
def write(cloud, path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    trimesh.PointCloud(cloud.numpy()).export(path)
write(bodies[0], "my_scan.ply")
write(bodies[1], "other_scan.ply")
for index in range(20):
    write(bodies[index], f"my_scans/{index}.ply")
    write(bodies[100 + index], f"held_out/{index}.ply")
"""


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)


class Reader:
    """Someone with an empty home who has just cloned the project."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "pyro-pcflow"
        home = folder / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.clone)], check=True)
        self.environment = {"HOME": str(home), "PATH": f"{self.clone}/.venv/bin:{SYSTEM}", "LANG": "C.UTF-8"}

    @property
    def python(self) -> Path:
        return self.clone / ".venv" / "bin" / "python"

    def install(self) -> None:
        """Set the project up, where no command of the page has done so."""
        if not self.python.exists():
            self.run(["make", ".venv/.installed"], self.clone)

    def run(self, command: list[str], folder: Path) -> None:
        subprocess.run(command, cwd=folder, env=self.environment, check=True, stdin=subprocess.DEVNULL)

    def shell(self, block: str) -> None:
        if "my_scan" in block or "pcflow " in block:
            self.install()
            if not (self.clone / "my_scan.ply").exists():
                self.run([str(self.python), "-c", READERS_FILES], self.clone)
        self.run(["bash", "-euo", "pipefail", "-c", block], self.clone)

    def program(self, parts: list[str]) -> None:
        self.install()
        folder = self.clone.parent / "work"
        folder.mkdir()
        self.run([str(self.python), "-c", READERS_FILES], folder)
        script = folder / "page.py"
        script.write_text("\n".join(parts), encoding="utf-8")
        self.run([str(self.python), "-W", "ignore", script.name], folder)


def without_lines(block: str, left_out: list[str]) -> str:
    """A block without the commands that are to be left out."""
    return "".join(line for line in block.splitlines(True) if line.split("#")[0].strip() not in left_out)


def main() -> int:
    parser = argparse.ArgumentParser(description="Try every command and block of code as a new user would.")
    parser.add_argument("pages", nargs="*", default=PAGES, help="README, install and how-to pages by default")
    parser.add_argument("--without", action="append", default=[], metavar="COMMAND", help="leave out a command")
    options = parser.parse_args()
    if shutil.which("git") is None:
        parser.error("git is needed to make a fresh clone")
    done: set[str] = set()
    failed = 0
    for page in options.pages:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as name:
            reader = Reader(Path(name))
            try:
                for block in blocks(page, "sh"):
                    if block not in done:
                        reader.shell(without_lines(block, options.without))
                        done.add(block)
                if blocks(page, "python"):
                    reader.program(blocks(page, "python"))
                outcome = "works as written"
            except subprocess.CalledProcessError as error:
                failed += 1
                outcome = f"FAILED: {error.cmd[-1]!r} ended with {error.returncode}"
        print(f"== {page}: {outcome}, {time.perf_counter() - start:.0f} s", flush=True)
    for command in options.without:
        print(f"== left out: {command}")
    print(f"== {len(options.pages) - failed} of {len(options.pages)} pages work, on {os.cpu_count()} cores")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
