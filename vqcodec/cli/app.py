"""Typer commands: parse, call one function, report.

Nothing here imports torch or NumPy before a command needs it: `--help` and `info` answer at once.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vqcodec import files
from vqcodec.cli import coding
from vqcodec.cli.console import (
    Report,
    Ticker,
    TrainingDisplay,
    one_line,
    one_line_errors,
)
from vqcodec.cli.parameters import (
    Effort,
    Force,
    Json,
    ModelName,
    Quality,
    Threads,
    finite,
    one_of,
    parse_names,
    parse_qualities,
    parse_size,
    picture_suffix,
    print_version,
    use_threads,
)
from vqcodec.config import Tuning

__all__ = ["app"]


class Group(TyperGroup):
    """Commands whose expected errors are one line on standard error, never a traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        with one_line_errors():  # of --help and --version, which end before a command begins
            return super().main(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with one_line_errors():  # before Typer makes of Ctrl-C what it thinks
            return super().invoke(ctx)


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # a bug shows a plain traceback, which can be reported
)


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Compress photographs into small .vqc files by a neural network, and read them again."""


for command in (coding.compress, coding.decompress, coding.info, coding.verify):
    app.command()(command)


@app.command()
def train(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA_DIR",
            exists=True,
            file_okay=False,
            help="Directory of pictures; without it, training draws its own.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default="photo",
            help="Configuration: photo (13 levels, as the shipped models), "
            "vq-vae-2 (2 levels), vq-vae (1 level).",
        ),
    ] = None,
    tune: Annotated[
        Tuning | None,
        typer.Option(
            help="Optimise PSNR or MS-SSIM; default: what the configuration or --init says."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="Weights file to write.")
    ] = Path("weights.safetensors"),
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=finite,
            show_default="30",
            help="Total time of the run, start-up included.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Total steps of the run, instead of --minutes. "
            "With --threads 1 and equal seeds, the weights files are equal.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue an interrupted run with its original options; options given here "
            "override them. Continue a finished run up to a larger --minutes or --steps.",
        ),
    ] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Weights file to start from; the model keeps its configuration.",
        ),
    ] = None,
    prior_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            show_default="0.4",
            help="Share of the time for training the prior, of what --encoder-share leaves.",
        ),
    ] = None,
    encoder_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            show_default="0.15",
            help="Share of the time, at the end, in which the encoder learns from refinement.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, show_default="0", help="Random seed."),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, metavar="N", help="CPU threads; 0 uses all.")] = 0,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    batch: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            show_default="0",
            help="Crops per step; 0 chooses 8 on a CPU, 64 on a GPU.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Train a model on pictures, by default drawn ones; the log goes to OUT.jsonl.

    Ctrl-C or SIGTERM ends the step and keeps the run in OUT.checkpoint, for
    --resume; before the first step it leaves nothing behind. OUT.checkpoint
    stays when the run is finished, so that it can be extended.
    """
    if resume and (preset or tune or init):
        raise typer.BadParameter("--resume keeps the model: it takes no --preset, --tune or --init")
    one_of(minutes=minutes, steps=steps)
    for suffix in ("", ".jsonl", ".checkpoint"):  # hours of another run may lie in these
        files.check_target(f"{output}{suffix}", force or resume)
    from vqcodec.training import train as training

    display = TrainingDisplay()
    asked = {
        "data": data,
        "preset": preset,
        "tune": tune,
        "minutes": minutes,
        "steps": steps,
        "init": init,
        "prior_share": prior_share,
        "encoder_share": encoder_share,
        "seed": seed,
        "batch": batch,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    given |= {"threads": threads, "device": device}
    kind = training.TrainOptions
    options = kind.resumed(output, **given) if resume else kind(output, **given)
    with display.bar:
        training.run(options, display)


@app.command()
def sample(
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=4096, help="How many pictures.")
    ] = 16,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="OUT", help="Contact sheet to write; - is standard output."
        ),
    ] = "samples.png",
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    temperature: Annotated[
        float,
        typer.Option(
            min=0,
            callback=finite,
            help="Below 1: likelier and plainer pictures; 0: always the likeliest.",
        ),
    ] = 1.0,
    top_p: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Draw among the likeliest indices that hold this share of the probability.",
        ),
    ] = 1.0,
    dimensions: Annotated[
        str, typer.Option(metavar="WxH", help="Width and height of each picture, in pixels.")
    ] = "256x256",
    quality: Quality = 30,
    model: ModelName = "photo",
    threads: Threads = None,
    force: Force = False,
) -> None:
    """Draw new pictures from the prior, the model of what is likely; write one contact sheet."""
    use_threads(threads)
    width, height = parse_size(dimensions, count)
    suffix = picture_suffix(output)
    files.check_target(output, force)
    from vqcodec import codec
    from vqcodec.cli.contact_sheet import contact_sheet
    from vqcodec.picture import reading, writing

    pictures = codec.sample(
        count,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        size=(width, height),
        quality=quality,
        model=model,
    )
    sheet = reading.from_pil(contact_sheet(pictures))
    files.write(output, writing.write_picture(sheet, suffix), force)


@app.command()
def demo(
    picture: Annotated[
        Path | None,
        typer.Argument(
            metavar="PICTURE",
            exists=True,
            dir_okay=False,
            help="Picture to try; without it, a photograph that comes with vqcodec.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Directory for the results.")
    ] = Path("demo"),
    force: Force = False,
) -> None:
    """Try the codec on one picture at three qualities: bytes, bits per pixel, PSNR, seconds."""
    from vqcodec.cli.demo import demo as trials

    print("quality    bytes    bpp  PSNR dB  encode s  decode s")
    for trial in trials(output, picture, force=force):
        print(
            f"{trial.quality:7g} {trial.num_bytes:8} {trial.bpp:6.3f} {trial.psnr_db:8.2f} "
            f"{trial.encode_seconds:9.2f} {trial.decode_seconds:9.2f}  {trial.path}"
        )


@app.command()
def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Folder of pictures."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="Directory for the report.")
    ] = Path("report"),
    qualities: Annotated[
        str, typer.Option(metavar="Q,Q,...", help="Qualities of vqcodec to measure.")
    ] = "5,20,30,40,50,60,70,80,95",
    baselines: Annotated[
        str, typer.Option(metavar="NAME,...", help="Codecs to compare with, or none.")
    ] = "jpeg,webp,avif,jpeg2000",
    effort: Effort = 1,
    model: ModelName = "photo",
    threads: Threads = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure bytes and quality of vqcodec and other codecs over all pictures below DIR."""
    from vqcodec.evaluation import evaluate as evaluation
    from vqcodec.evaluation import report as results
    from vqcodec.evaluation.baselines import BASELINES

    use_threads(threads)
    rates, names = parse_qualities(qualities), parse_names(baselines, BASELINES)
    results.check_targets(output, force)
    report = Report(as_json)
    skip = results.targets(output)
    with report.bar:
        found = evaluation.evaluate(
            evaluation.Options(folder, rates, names, effort, model, skip),
            complain=report.error,
            notes=lambda text: report.note(str(folder), text),
            progress=Ticker(report.bar),
        )
    results.write(output, found, force)
    report.show(results.text(output, found), **results.summary(found))
    if report.failures:
        raise typer.Exit(1)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that came with vqcodec."""
    from dataclasses import asdict

    from vqcodec import models

    report = Report(as_json)
    cards = models.cards()
    width = max([len("name"), *(len(card.name) for card in cards)])
    if not as_json:
        print(f"{'name':{width}}  {'id':8}  {'bytes':>10}  note")
    for card in cards:
        row = f"{card.name:{width}}  {card.model_id:8}  {card.num_bytes:10}  {card.note}"
        report.show(row.rstrip(), **asdict(card))


@app.command()
def doctor(model: ModelName = "photo", as_json: Json = False) -> None:
    """Check that this machine computes exactly what decoding needs, in every way that it can.

    Exit status 0 if it does.
    """
    from vqcodec.cli.doctor import print_table
    from vqcodec.evaluation import exactness

    report = Report(as_json)
    with report.bar:
        found = exactness.examine(model, Ticker(report.bar))
    if not as_json:
        print_table(found)
    report.show(one_line(found.verdict), **found.summary())
    if not found.exact:
        raise typer.Exit(1)
