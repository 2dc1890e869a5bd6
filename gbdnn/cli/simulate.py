"""The command `gbdnn simulate`: how long a model would take on another machine.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.cli.options import FILE, JSON, OUT, THREADS, Number, check_out
from gbdnn.cli.output import echo_json, printable
from gbdnn.errors import DataUnavailableError, FileFormatError, InputError

if TYPE_CHECKING:
    from gbdnn.simulator import Comparison, Machine, Workload

__all__ = ["simulate"]

IBM_LIKE, THIS = "ibm-like", "this"
COUNT = click.IntRange(1)


def _kept(context: Any, option: Any, given: tuple[str, ...]) -> dict[str, str]:
    """Return PATTERN=FORMAT pairs as a dict."""
    found = {}
    for text in given:
        pattern, equals, kept = text.rpartition("=")
        if not (pattern and equals and kept):
            raise click.BadParameter(f"{text!r} is not PATTERN=FORMAT", context, option)
        found[pattern] = kept
    return found


@click.command("simulate")
@click.argument("model")
@click.option("--machine", default="rapid", show_default=True,
              help="rapid, generic; this: measured now; or a TOML file.")  # fmt: skip
@click.option("--save-machine", type=OUT, help="Write what --machine this measured.")
@click.option("--formats", help="Such as fp16,int4; the first one is compared with. "
              "Default: the machine's.")  # fmt: skip
@click.option("--keep", multiple=True, callback=_kept, metavar="PATTERN=FORMAT",
              help="Weights with another format: 'joint.*=fp16'.")  # fmt: skip
@click.option("--density", type=Number(0, 1, min_open=True),
              help="As if weights had this density; adds --sparse.")  # fmt: skip
@click.option("--sparse", is_flag=True, help="Also without absent weights.")
@click.option("--data", type=FILE, help="Run MODEL on this array, .npy: (n, features), (n, time, "
              "features); of a transducer one utterance, (time, features).")  # fmt: skip
@click.option("--steps", type=COUNT, default=1, show_default=True,
              help="Of MODEL without --data: time steps of a sequence; zeros, for a transducer "
              "random frames.")  # fmt: skip
@click.option("--batch", type=COUNT, default=1, show_default=True,
              help="Of MODEL without --data: samples, or sequences, at a time.")  # fmt: skip
@click.option("--streaming", is_flag=True, help="Of MODEL: time steps come one by one.")
@click.option("--seconds", type=Number(0, min_open=True),
              help="Of audio in a sequence; shows the real-time factor.  "
              "[ibm-like: 10]")  # fmt: skip
@click.option("--beam", type=COUNT, default=16, show_default=True,
              help="Of ibm-like, and of transducers.")  # fmt: skip
@click.option("--new", type=COUNT, help="Of ibm-like: hypotheses in a step that end in a new "
              "label.  [default: all]")  # fmt: skip
@click.option("--fusion/--no-fusion", default=True, help="Of ibm-like: with language models.")
@click.option("--plot", type=OUT, help="Draw the roofline into this .png, .svg or .pdf file.")
@THREADS
@JSON
def simulate(
    model: str,
    machine: str,
    save_machine: Path | None,
    formats: str | None,
    keep: dict[str, str],
    density: float | None,
    sparse: bool,
    plot: Path | None,
    threads: int | None,
    as_json: bool,
    **work: Any,
) -> None:
    """Simulate the time of MODEL on a machine, in each of its number formats.

    MODEL is a model file, or `ibm-like`: a recogniser of 57 million parameters with an external
    language model of 84 million, as Fasoli et al. 2022 are believed to have used. Products and
    elementwise operations of a file are recorded from a run, of a transducer from a decode. All
    times are simulated.
    """
    from gbdnn.simulator import compare, save_roofline

    for path in (save_machine, plot):
        if path is not None:
            check_out(path)
    if save_machine is not None and machine != THIS:
        raise InputError("save_machine", "--machine this, which is measured", repr(machine))
    load, kept = _work(model, **work)
    found = _machine(machine, save_machine, threads)
    for pattern in kept:
        keep.setdefault(pattern, found.formats[0])
    chosen = None if formats is None else [name.strip() for name in formats.split(",")]
    if density is not None:
        load, sparse = load.at_density(density), True
    result = compare(load, found, chosen, sparse=sparse, keep=keep)
    if plot is not None:
        save_roofline(result, plot)
    if as_json:
        echo_json({"model": model, **result.to_dict(), **_papers(model)})
        return
    click.echo("\n".join(map(printable, str(result).split("\n"))))
    if model == IBM_LIKE:
        click.echo(_beside_papers(result))


def _work(
    model: str, *, data: Path | None, steps: int, batch: int, streaming: bool,
    seconds: float | None, beam: int, new: int | None, fusion: bool,
) -> tuple[Workload, list[str]]:  # fmt: skip
    """Return the work, and the weights that a file of few bits holds as floats."""
    import numpy as np

    from gbdnn.decoding import Decoder
    from gbdnn.simulator import ibm_like, record, record_decoding

    if model == IBM_LIKE:
        return ibm_like(seconds or 10.0, beam=beam, fusion=fusion, new=new), []
    from gbdnn.models import Transducer
    from gbdnn.models.files import load
    from gbdnn.weights import Integers

    if not Path(model).is_file():
        fix = f"A file of this name, or {IBM_LIKE!r}."
        raise DataUnavailableError(model, "a model file", "no such file", fix)
    network = load(model)
    X = None if data is None else _array(data)
    if isinstance(network, Transducer):
        decoder = Decoder(network, beam=beam, blank=network.blank,
                          most_per_frame=network.time_factor)  # fmt: skip
        if X is None:
            X = np.random.default_rng(0).standard_normal((steps, network.in_features))
        made = record_decoding(decoder, X, streaming=streaming, seconds=seconds or 0.0)
    else:
        made = record(network, X, steps=steps, batch=batch, streaming=streaming, part="model",
                      seconds=(seconds or 0.0) * (batch if X is None else len(X)))  # fmt: skip
    whole = {name for name, weight in network.weights.items() if isinstance(weight, Integers)}
    prefix = "" if isinstance(network, Transducer) else "model."
    floats = [f"{prefix}{name}" for name in network.weights if name not in whole]
    return made, floats if whole else []


def _array(path: Path) -> Any:
    """Return the array of a .npy file."""
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FileFormatError(str(path), "an array in a .npy file", str(error)[:100]) from None


def _machine(name: str, save: Path | None, threads: int | None) -> Machine:
    from gbdnn.simulator import load_machine, parse_machine

    if name != THIS:
        return load_machine(name)
    from gbdnn.files.disk import atomic_write
    from gbdnn.simulator.measured import measured_toml

    text = measured_toml(threads)
    if save is not None:
        with atomic_write(save) as file:
            file.write(text.encode())
    return parse_machine(text, THIS)


def _papers(model: str) -> dict[str, Any]:
    from gbdnn.simulator import PAPERS

    return {"claimed_by_the_abstract": PAPERS} if model == IBM_LIKE else {}


def _beside_papers(result: Comparison) -> str:
    """Return the claims of the abstract beside what was simulated."""
    from gbdnn.simulator import PAPERS
    from gbdnn.summary import text_table

    last = next((each for each in result.simulations if each.format == "int4"), None)
    if last is None:
        return ""
    rows = [
        ["INT4 of the whole model", "the abstract", "simulated here"],
        [f"times {result.base.format}", f"{PAPERS['speedup']:g}", f"{result.speedup(last):.2f}"],
        ["real-time factor", f"{PAPERS['rtf']:g}", f"{last.rtf:.4f}"],
        ["compression", f"{PAPERS['compression']:g}", f"{last.compression:.2f}, computed"],
    ]
    return "\n" + text_table(rows)
