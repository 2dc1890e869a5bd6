"""Write the tables of docs/speech.md from a study: python docs/make_speech.py OUT.

OUT is the folder of `gbdnn speech study --out OUT`, whose last act was to write summary.json.
Besides the tables: docs/results/speech-study.json, figures, and the short table in README.md.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from gbdnn.summary import markdown_table  # noqa: E402

BEGIN, END = "<!-- docs/make_speech.py writes {} from here -->", "<!-- to here -->"
FIGURES = {"fusion": "errors over beams", "bytes": "errors against bytes"}


def main(out: Path) -> None:
    """Put what the study has into the pages; a table that it does not have says so."""
    study = json.loads((out / "summary.json").read_text())
    (DOCS / "results").mkdir(exist_ok=True)
    shutil.copy(out / "summary.json", DOCS / "results" / "speech-study.json")
    pieces = {**study["tables"], "origin": origin(study)}
    for name, title in FIGURES.items():
        if (out / f"{name}.png").exists():
            shutil.copy(out / f"{name}.png", DOCS / "figures" / f"speech-{name}.png")
            pieces[f"figure of {name}"] = f"![{title}](figures/speech-{name}.png)\n"
    write(DOCS / "speech.md", pieces)
    write(DOCS.parent / "README.md", {"the study": essence(study)})


def write(path: Path, pieces: dict[str, str]) -> None:
    """Replace what stands between the marks of a page."""

    def piece(match: re.Match[str]) -> str:
        name = match[1]
        text = pieces.get(name, "Not measured.\n")
        return f"{BEGIN.format(name)}\n{text}{END}"

    pattern = re.escape(BEGIN).replace(r"\{\}", "(.+?)") + r"\n.*?" + re.escape(END)
    path.write_text(re.sub(pattern, piece, path.read_text(), flags=re.DOTALL))


def origin(study: dict[str, Any]) -> str:
    """Return settings, machine and versions as sentences."""
    given, here = study["settings"], study["machine"]
    seeds = {row["seed"] for row in study["rows"] if row.get("kind") == "words"}
    options = ", ".join(f"{name} {value}" for name, value in given.items())
    packages = ", ".join(f"{name} {number}" for name, number in study["versions"].items())
    text = f"Settings: {options}; seeds {', '.join(map(str, sorted(seeds)))}. "
    return (
        f"{text}Threads: {study['threads'] or 'all'}; {here['processor']}, {here['cores']} cores; "
        f"{packages}.\n"
    )


def essence(study: dict[str, Any]) -> str:
    """Return claims and verdicts, in a few columns, and the table of the tests."""
    rows = [[claim["claim"], claim["verdict"]] for claim in study["claims"]]
    table = markdown_table(["claim", "verdict"], rows, left=2)
    beam = study["settings"]["beam"]
    text = f"Beam {beam}{', that is greedy search' * (beam == 1)}; without a language model:"
    return f"{text}\n\n{study['tables'].get('tests', '')}\n{table}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
