"""`gbdnn speech score`: word error rates, their intervals, and comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.cli.options import FILE, JSON
from gbdnn.cli.output import echo_json, echo_rows

if TYPE_CHECKING:
    from gbdnn.speech.scoring import Comparison

__all__ = ["score"]


@click.command()
@click.argument("reference", type=FILE)
@click.argument("hypotheses", type=FILE, nargs=-1, required=True)
@click.option("--characters", is_flag=True, help="Errors of characters instead of words.")
@click.option("--worst", type=click.IntRange(0), default=0, help="Show the worst utterances.")
@JSON
def score(
    reference: Path, hypotheses: tuple[Path, ...], characters: bool, worst: int, as_json: bool
) -> None:
    """Count substitutions, deletions and insertions of one or more HYPOTHESES against REFERENCE.

    Each file is a manifest, or a text with a line for each utterance in the same order. Manifests
    are matched by their audio. Further hypotheses are compared with the first one: difference of
    the rates with a bootstrap interval, and the matched-pairs test. Intervals are of 95 %.
    """
    from gbdnn.speech import scoring
    from gbdnn.speech.data.manifest import paired_texts

    unit = "character" if characters else "word"
    results: dict[str, Any] = {}
    first: scoring.Score | None = None
    for path in hypotheses:
        said, heard = paired_texts(reference, path)
        found = scoring.score(said, heard, unit=unit)
        record: dict[str, Any] = dict(found.record)
        compared = None if first is None else scoring.compare(first, found)
        if compared is not None:
            record["against_first"] = vars(compared)
        first = found if first is None else first
        order = sorted(range(len(said)), key=lambda k: -int(found.errors[k]))[:worst]
        shown = [{"errors": int(found.errors[k]), "said": said[k], "heard": heard[k]}
                 for k in order if found.errors[k]]  # fmt: skip
        results[str(path)] = record | ({"worst": shown} if worst else {})
        if not as_json:
            _show(str(path), record, compared, unit, shown)
    if as_json:
        echo_json({"unit": unit, "reference": str(reference), "results": results})


def _show(
    path: str, record: dict[str, Any], compared: Comparison | None, unit: str,
    worst: list[dict[str, Any]],
) -> None:  # fmt: skip
    kinds = ", ".join(f"{record[kind]:,} {kind}"
                      for kind in ("substitutions", "deletions", "insertions"))  # fmt: skip
    rows = {
        f"{unit} error rate": f"{record['rate']:.2%} ({record['low']:.2%} to {record['high']:.2%})",
        "errors": f"{record['errors']:,} in {record['words']:,} {unit}s: {kinds}",
        "utterances": f"{record['utterances']:,}, {record['wrong_utterances']:,} with errors",
    }
    if compared is not None:
        rows["against the first"] = (
            f"{compared.difference:+.2%} ({compared.low:+.2%} to {compared.high:+.2%}), matched "
            f"pairs p = {compared.p:.3g}"
        )
    echo_rows(path, rows)
    for entry in worst:
        click.echo(f"  {entry['errors']} errors\n    said  {entry['said']}"
                   f"\n    heard {entry['heard']}")  # fmt: skip
