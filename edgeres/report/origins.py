"""Report sections on provenance: scales, inputs, files, and the command that reproduces them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.report.markup import NONE, Markup, facts, how, join, plot, section, table, tag
from edgeres.report.plots import scales_plot
from edgeres.report.sketches import distributions
from edgeres.runs.figures import bytes_, share, short

if TYPE_CHECKING:
    from edgeres.runs.findings import Calibration
    from edgeres.runs.run import Run


_RECIPE = "recipe.lock.yaml"


def calibration(run: Run) -> Markup:
    """Quantization scales and the calibration data they come from."""
    found = run.calibration
    if found is None or not found.tensors:
        why = "No calibration: the network stays in float, or the run ended before it."
        return section("calibration", "Calibration", tag("p.missing", why))
    title = f"Scales of {len(found.tensors)} activation tensors"
    drawing = plot(title, scales_plot(found.tensors), "step between two integers; hollow dots are uint8")
    figures = facts(
        ("Calibrator", found.calibrator),
        ("Images", f"{found.images:,}"),
        ("Data and preprocessing", tag("code", short(found.data), title=found.data)),
    )
    every = tag("details", tag("summary", "Every tensor"), _scales(found))
    return section("calibration", "Calibration", tag("div.pair", drawing, figures), distributions(found.tensors), every)


def _scales(found: Calibration) -> Markup:
    rows: list[tuple[str, ...]] = [
        (
            row.tensor,
            f"{'int' if row.signed else 'uint'}{row.bits}",
            f"{row.scale:.6g}",
            str(row.zero_point),
            NONE if row.clipped is None else share(row.clipped),
            NONE if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB",
        )
        for row in found.tensors
    ]
    return table(("Tensor", "Type", "Scale", "Zero-point", "Clipped", "SQNR"), rows, "Scales", words=2)


def provenance(run: Run) -> Markup:
    """Inputs of the run and the files it wrote."""
    made = _files(run)
    p = run.provenance
    if p is None:
        return section(
            "provenance", "Provenance", tag("p.missing", "The run ended before its inputs were known."), made
        )
    recipe = run.files.get(_RECIPE)
    figures = facts(
        ("edgeres", run.edgeres),
        ("Code", tag("code.long", p.code) if p.code else NONE),
        ("Target", f"{run.target.title} ({run.target.runtime})"),
        ("Weights", tag("code.long", p.weights) if p.weights else "trained in this run"),
        *((("Scales", tag("code.long", p.scales)),) if p.scales else ()),
        *((("Recipe", tag("code.long", recipe.sha256)),) if recipe else ()),
        ("Data", p.data),
        ("Seed", str(p.seed)),
        ("Python", p.python),
        ("Platform", p.platform),
        ("CPU", p.cpu if p.cores is None else f"{p.cpu}, {p.cores} cores used"),
    )
    splits: list[tuple[str, ...]] = [
        (split.name, f"{split.images:,}", tag("code", short(split.digest), title=split.digest)) for split in p.splits
    ]
    packages: list[tuple[str, ...]] = [(name, p.packages[name]) for name in sorted(p.packages)]
    return section(
        "provenance",
        "Provenance",
        figures,
        tag("div.narrow", table(("Split", "Images", "Digest"), splits, "Data splits")) if splits else Markup(),
        tag("details", tag("summary", "Recipe"), tag("pre", p.recipe, tabindex=0)),
        tag(
            "details",
            tag("summary", "Packages"),
            tag("div.narrow", table(("Package", "Version"), packages, "Packages")),
        ),
        made,
    )


def _files(run: Run) -> Markup:
    files: list[tuple[str, ...]] = [
        (
            name,
            bytes_(run.files[name].size),
            tag("code", short(run.files[name].sha256), title=run.files[name].sha256),
        )
        for name in sorted(run.files)
    ]
    if not files:
        return Markup()
    return join(tag("h3", "Files"), tag("div.narrow", table(("File", "Size", "sha256"), files, "Files")))


def reproduce(run: Run) -> Markup:
    """The command that reproduces the run."""
    same = "With the same versions, data and seed everything but the timings comes out the same, byte for byte."
    return section(
        "reproduce",
        "How to reproduce",
        tag("pre", tag("code", run.command), tabindex=0),
        how(same),
        how(f"Made by edgeres {run.edgeres}. This page holds nothing that report.json ({run.schema}) does not."),
    )
