"""The commands that code pictures: compress, decompress, info, verify."""

import functools
import os
import time
from typing import Annotated

import typer

from vqcodec import files, limits
from vqcodec.cli.console import Advance, Report, describe_file, info_text, one_line
from vqcodec.cli.jobs import Job
from vqcodec.cli.parameters import (
    Bpp,
    Effort,
    Force,
    Inputs,
    Json,
    Levels,
    MaxMemory,
    MaxPixels,
    ModelOrTune,
    Output,
    Psnr,
    QualityOrTarget,
    Recursive,
    Region,
    Size,
    Threads,
    Tune,
    Weights,
    Workers,
    one_of,
    parse_region,
    picture_suffix,
    pixel_limit,
    plan_jobs,
    use_threads,
)
from vqcodec.files import PICTURES, STREAM
from vqcodec.options import Callbacks, DecodeOptions, EncodeOptions

__all__ = ["compress", "decompress", "info", "verify"]

VQC = frozenset({".vqc"})


def compress(
    inputs: Inputs,
    output: Output = None,
    quality: QualityOrTarget = None,
    bpp: Bpp = None,
    size: Size = None,
    psnr: Psnr = None,
    effort: Effort = 1,
    levels: Levels = None,
    tune: Tune = None,
    model: ModelOrTune = None,
    force: Force = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave out ICC, EXIF and XMP metadata.")
    ] = False,
    any_format: Annotated[
        bool,
        typer.Option(
            "--any-format",
            help="Also take formats that vqcodec's tests do not cover, as Pillow reads them.",
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Decode each file, all but the pixels, before it is written, as a check.",
        ),
    ] = True,
    max_pixels: MaxPixels = limits.MAX_PIXELS,
    max_memory: MaxMemory = None,
    workers: Workers = None,
    threads: Threads = None,
    as_json: Json = False,
    recursive: Recursive = False,
) -> None:
    """Compress pictures into .vqc files, beside them or at OUT.

    Set the quality with -q, or give a target with --bpp, --size or --psnr: then each picture is
    compressed 4 or 5 times, at most 12, to find the quality.
    """
    use_threads(threads)
    one_of(quality=quality, bpp=bpp, size=size, psnr=psnr)
    one_of(tune=tune, model=model)
    options = EncodeOptions(
        quality=quality,
        bpp=bpp,
        size=size,
        psnr=psnr,
        effort=effort,
        levels=levels,
        tune=tune,
        model=model,
        strip=strip,
        any_format=any_format,
        check=check,
        max_pixels=pixel_limit(max_pixels, max_memory),
        workers=workers,
    )
    report = Report(as_json)
    jobs = plan_jobs(report, inputs, output, ".vqc", PICTURES, recursive, force)

    def work(job: Job, advance: Advance) -> None:
        from vqcodec import codec  # imports torch, seconds: keep it out of --help

        start = time.perf_counter()
        found: list[float] = []
        before = os.path.getsize(job.source) if files.identity(job.source) else None
        data = codec.compress_picture(
            files.read_stdin() if job.source == STREAM else job.source,
            options,
            Callbacks(functools.partial(report.note, job.source), found.append, advance),
        )
        files.write(job.target, data, force, job.new_folders)
        if job.target != STREAM and not job.target.lower().endswith(".vqc"):
            report.note(job.target, "programs will not know it: its name does not end in .vqc")
        if before is not None and before < len(data):
            report.note(job.source, f"the result is larger: {len(data)} bytes, not {before}")
        fields = describe_file(data, options.max_pixels) | {"quality": found[0]}
        report.done(
            job,
            f"{fields['num_bytes']} bytes, {fields['bpp']:.3f} bpp, quality {found[0]:g}",
            **fields,
            seconds=round(time.perf_counter() - start, 3),
        )

    report.each(jobs, work)


def decompress(
    inputs: Inputs,
    output: Output = None,
    levels: Levels = None,
    region: Region = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Decode what is left of a cut or damaged file.")
    ] = False,
    model: Weights = None,
    max_pixels: MaxPixels = limits.MAX_PIXELS,
    max_memory: MaxMemory = None,
    workers: Workers = None,
    threads: Threads = None,
    force: Force = False,
    as_json: Json = False,
    recursive: Recursive = False,
) -> None:
    """Decompress .vqc files into PNG files beside them, or at OUT in the format of its suffix."""
    use_threads(threads)
    suffix = picture_suffix(output, several=recursive or len(inputs) > 1)
    options = DecodeOptions(
        levels=levels,
        region=parse_region(region) if region is not None else None,
        partial=partial,
        model=model,
        max_pixels=pixel_limit(max_pixels, max_memory),
        workers=workers,
    )
    report = Report(as_json)
    jobs = plan_jobs(
        report, inputs, output, ".png", VQC, recursive, force, check_source=files.check_vqc
    )

    def work(job: Job, advance: Advance) -> None:
        from vqcodec import codec
        from vqcodec.picture import writing

        start = time.perf_counter()
        data = files.read_vqc(job.source)
        callbacks = Callbacks(functools.partial(report.note, job.source), progress=advance)
        picture = codec.decompress_picture(data, options, callbacks)
        written = writing.write_picture(picture, suffix)
        if caveat := writing.caveat(picture, suffix):
            report.note(job.source, caveat)
        files.write(job.target, written, force, job.new_folders)
        report.done(
            job,
            f"{picture.width} x {picture.height}",
            **describe_file(data, options.max_pixels),
            output_bytes=len(written),
            seconds=round(time.perf_counter() - start, 3),
        )

    report.each(jobs, work)


def info(inputs: Inputs, max_pixels: MaxPixels = limits.MAX_PIXELS, as_json: Json = False) -> None:
    """Show what .vqc files hold, damaged ones too: size, quality, model, bytes of each part."""
    report = Report(as_json)

    def work(job: Job, advance: Advance) -> None:
        from vqcodec import models

        fields = describe_file(files.read_vqc(job.source), max_pixels)
        name = models.name_of(bytes.fromhex(fields["model_id"]))
        fields = {"input": job.source, **fields, "model": name}
        report.show(info_text(fields), **fields)

    report.each([Job(name, STREAM) for name in inputs], work)


def verify(
    inputs: Inputs,
    model: Weights = None,
    max_pixels: MaxPixels = limits.MAX_PIXELS,
    workers: Workers = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check that .vqc files decode and that every checksum is right; exit status 0 if so."""
    use_threads(threads)
    report = Report(as_json)

    def work(job: Job, advance: Advance) -> None:
        from vqcodec import codec

        data = files.read_vqc(job.source)
        codec.verify(data, model, max_pixels=max_pixels, workers=workers)
        report.show(f"{one_line(job.source)}: ok", input=job.source, ok=True)

    report.each([Job(name, STREAM) for name in inputs], work)
