"""Write environment.yml (conda) with the pins of .requirements.lock; `make lock` calls it."""

from __future__ import annotations

import sys
from pathlib import Path

from latentclap.errors import run_app
from latentclap.files import write_text
from latentclap.options import application

app = application()
ROOT = Path(__file__).parents[1]
HEAD = """# conda env create -f environment.yml     Made by `make lock`: the pins of .requirements.lock.
name: latentclap
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - make
  - git
  - pip:
"""


def environment() -> str:
    """Return the text of environment.yml for the present lock."""
    lines = (ROOT / ".requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if "==" in line]
    return HEAD + "".join(f"      - {pin}\n" for pin in [*pins, "-e .[book,test,paper,cluster]"])


@app.command()
def main() -> None:
    """Write environment.yml with the pins of .requirements.lock."""
    write_text(ROOT / "environment.yml", environment())


if __name__ == "__main__":
    sys.exit(run_app(app))
