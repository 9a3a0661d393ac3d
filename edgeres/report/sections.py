"""Sections of the HTML report after the verdict. No section is left out: one without data states why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.report import plots, select
from edgeres.report.benchmark import benchmark_table
from edgeres.report.markup import (
    NONE,
    Markup,
    bullets,
    details,
    digest,
    facts,
    how,
    join,
    missing,
    plot,
    section,
    table,
    tag,
)  # fmt: skip
from edgeres.runs import figures
from edgeres.runs.verdict import drop_cause, int8_slowness
from edgeres.settings import plain
from edgeres.tasks.registry import task_kind

if TYPE_CHECKING:
    from edgeres.artifacts.artifact import KernelCounts
    from edgeres.runs.findings import Flip
    from edgeres.runs.run import Run, StageRow

DRAWN_CLASSES = 24
"""Most classes of a confusion matrix that is drawn."""
_AT_ONCE = 9
"""Flipped images shown before the rest is collapsed: three rows on a desktop, a few screens on a phone."""


def stages(run: Run) -> Markup:
    """Accuracy, MACs, parameters, size and time after each stage."""
    if not run.stages and not run.error:
        return section("stages", "Stage by stage", missing("No stage finished."))
    rows = select.stage_cells(run, NONE, tag("span.stopped", "\u2715 stopped here"))
    scores, macs = select.trail(run.stages, "measured"), select.trail(run.stages, "macs")
    drawings = []
    if scores:
        drawings.append(
            plot(
                "Accuracy",
                plots.accuracy_plot(scores, run.metric),
                f"{run.metric} on the validation images; the axis is zoomed",
            )
        )
    if macs:
        limit = run.limit_of("macs_g")
        drawing = plots.macs_plot(macs, limit * 1e9 if limit else None)
        drawings.append(plot("Work", drawing, "MACs for one image; stages that change nothing are left out"))
    measured = [item for row in run.stages if (item := _stage_details(row))]
    more = details("What each stage measured and noted", *measured) if measured else Markup()
    listed = table(select.stage_heads(run), rows, "Stage by stage")
    return section("stages", "Stage by stage", listed, tag("div.pair", *drawings), more)


def _stage_details(row: StageRow) -> Markup | None:
    pairs = tuple((name, f"{value:.6g}") for name, value in sorted(plain(row.metrics).items()))
    if not pairs and not row.notes:
        return None
    return tag("div.detail", tag("h3", row.stage), facts(*pairs) if pairs else Markup(), bullets("ul", row.notes))


def accuracy(run: Run) -> Markup:
    """Accuracy of the deployed network and of float, with the confidence interval of the difference."""
    a = run.accuracy
    if a is None:
        return section("accuracy", "Accuracy", missing(select.UNVERIFIED))
    limit, level = run.limit_of("accuracy_drop_pp"), figures.confidence(a.level)
    undecided = limit is not None and a.low_pp <= limit < a.high_pp
    more = f"{a.n:,} images do not settle it: the interval reaches beyond the limit." if undecided else ""
    listed = facts(
        ("Float reference", figures.percent(a.float_score)),
        ("Deployed", figures.percent(a.deployed_score)),
        ("Drop", figures.points(a.drop_pp)),
        (f"{level} interval", figures.between(a.low_pp, a.high_pp)),
        ("Same answer as float", figures.percent(a.agreement)),
        *(() if a.b is None else (("Newly wrong", f"{a.b:,}"),)),
        *(() if a.c is None else (("Newly right", f"{a.c:,}"),)),
        ("Images", f"{a.n:,}"),
    )
    drawing = plot("Drop against float", plots.drop_plot(a, limit), f"dot: measured drop; bar: {level} interval")
    warnings = [tag("p.caution", sentence) for sentence in (drop_cause(run), more) if sentence]
    more_figures = (*map(figures.further_text, a.further), *map(figures.output_text, a.outputs))
    notes = [how(sentence) for sentence in (*more_figures, select.reference_float(run), a.method)]
    return section("accuracy", "Accuracy", tag("div.pair", drawing, listed), *warnings, *notes)


def speed(run: Run) -> Markup:
    """Measured latency, or why there is none."""
    rows = run.timings.latency
    everywhere = benchmark_table(run.timings.bench) if run.timings.bench else Markup()
    if not rows:
        why = run.timings.unmeasured or "The latency was not measured."
        return section("speed", "Speed", missing(why), everywhere)
    limits = [(f"{name} limit", run.limit_of(f"latency_{name}_ms")) for name in ("p50", "p90")]
    drawn = plots.latency_plot(rows, [(name, limit) for name, limit in limits if limit is not None])
    drawing = plot("Latency of one call", drawn, "variant, batch: p50 / p90; whisker: interval of p50")
    conclusion = select.int8_conclusion(rows)
    sentence = tag("p.caution" if int8_slowness(rows) else "p", conclusion) if conclusion else Markup()
    side = tag("div", sentence, *(how(method) for method in dict.fromkeys(row.how for row in rows)))
    listed = table(select.LATENCY_HEADS, select.latency_cells(rows), "Latency", words=2)
    return section("speed", "Speed", tag("div.pair", drawing, side), listed, everywhere)


def integers(run: Run) -> Markup:
    """Integer and float kernels of the engine, and what was verified on this host."""
    counted = missing("Integer layers were not counted.") if run.kernels is None else _kernels(run.kernels)
    proven = join(tag("h3", "Proven on this host"), bullets("ul", run.evidence)) if run.evidence else Markup()
    return section("integers", "What runs in integers", counted, proven)


def _kernels(kernels: KernelCounts) -> Markup:
    share = kernels.integer / kernels.weighted if kernels.weighted else 0.0
    gauge = tag("div.gauge", tag("i.neutral", style=f"width:{100 * share:.1f}%"))
    lead = tag("p.lead", tag("b", f"{kernels.integer} of {kernels.weighted}"), f" {figures.WEIGHTED}")
    types = [(name, f"{count:,}") for name, count in sorted(kernels.counts.items())]
    listed = table(("Kernel", "Executed"), types, "Kernel types") if types else Markup()
    return join(lead, gauge, how(kernels.how), tag("div.narrow", listed))


def confusion(run: Run) -> Markup:
    """Confusion matrix of the deployed network, or its largest errors where there are too many classes to draw."""
    title = "Confusion matrix"
    if run.confusion is None:
        return section("confusion", title, missing(select.NO_CLASSES if run.accuracy else select.UNVERIFIED))
    worst = select.confusion_cells(run)
    listed = table(("True", "Predicted", "Images"), worst, "Most frequent errors", words=2)
    errors = join(tag("h3", "Most frequent errors"), listed) if worst else tag("p", "No errors.")
    classes = run.confusion.classes
    if len(classes) > DRAWN_CLASSES:
        return section("confusion", title, how(f"{len(classes):,} classes are too many to draw."), errors)
    drawn = plots.confusion_plot(classes, run.confusion.matrix())
    drawing = plot("Deployed network", drawn, "rows: true class; columns: predicted")
    return section("confusion", title, tag("div.pair", drawing, tag("div", errors)))


def flips(run: Run) -> Markup:
    """Images whose prediction differs between float and the deployed network."""
    title, shown = "Images answered differently than by float", select.FLIPS_SHOWN
    if run.accuracy is None:
        return section("flips", title, missing(select.UNVERIFIED))
    if not task_kind(run.task).classes:
        return section("flips", title, missing(select.NO_CLASSES))
    if not run.flips:
        return section("flips", title, tag("p", "None: both give the same class on every validation image."))
    cards = [_flip(run, flip) for flip in select.worst_first(run.flips)[:shown]]
    count = f"{len(run.flips):,} of {run.accuracy.n:,} images"
    rest = f"; the worst {shown} here, all of them in report.json" if len(run.flips) > shown else ""
    legend = "Lost ones first, of them what float was surest of. Percent: softmax of the answer."
    first, others = tag("ul.flips", *cards[:_AT_ONCE]), cards[_AT_ONCE:]
    more = details(f"{len(others)} more", tag("ul.flips", *others)) if others else Markup()
    return section("flips", title, how(f"{count}{rest}. {legend}"), first, more)


def _flip(run: Run, flip: Flip) -> Markup:
    kind = select.fate(flip)
    picture = tag("span.blank", "no picture")
    if flip.thumbnail:
        picture = tag("img", src=flip.thumbnail, alt=f"validation image {flip.index}", width=72, height=72)
    words = tag(
        "div",
        tag(f"span.fate.{kind.replace(' ', '-')}", kind),
        tag("span.quiet", f" #{flip.index} "),
        tag("p", tag("span.quiet", "True: "), tag("b", run.class_name(flip.label))),
        digest(flip.sha256),
    )
    answers = tag(
        "div.answers",
        _answer(run, "Float", flip.float_prediction, flip.float_confidence, flip.label),
        _answer(run, "Deployed", flip.deployed_prediction, flip.deployed_confidence, flip.label),
    )
    return tag("li", tag("div.head", picture, words), answers)


def _answer(run: Run, who: str, answer: int, surely: float | None, label: int) -> Markup:
    confidence = gauge = Markup()
    if surely is not None:
        confidence = tag("span", f" {figures.share(surely)}")
        gauge = tag("div.gauge", tag("i", style=f"width:{100 * surely:.1f}%"), aria_hidden="true")
    kind = "right" if answer == label else "wrong"
    return tag(f"div.{kind}", tag("small", who), tag("p", tag("b", run.class_name(answer)), confidence), gauge)


def provenance(run: Run) -> Markup:
    """Inputs of the run and the files it wrote."""
    p, title = run.provenance, "Provenance"
    if p is None:
        unknown = tag("p.missing", "The run ended before its inputs were known.")
        return section("provenance", title, unknown, _files(run))
    recipe = run.files.get("recipe.lock.yaml")
    listed = facts(
        ("edgeres", run.edgeres),
        ("Code", tag("code.long", p.code) if p.code else NONE),
        ("Target", f"{run.target.title} ({run.target.runtime})"),
        ("Weights", tag("code.long", p.weights) if p.weights else "trained in this run"),
        *((("Scales", tag("code.long", p.scales)),) if p.scales else ()),
        *((("Recipe", tag("code.long", recipe.sha256)),) if recipe else ()),
        ("Data", f"{p.data} ({p.data_kind})" if p.data_kind else p.data),
        ("Seed", str(p.seed)),
        ("Python", p.python),
        ("Platform", p.platform),
        ("CPU", p.cpu if p.cores is None else f"{p.cpu}, {p.cores} cores used"),
    )
    splits = [(split.name, f"{split.images:,}", digest(split.digest)) for split in p.splits]
    split_table = tag("div.narrow", table(("Split", "Images", "Digest"), splits, "Data splits")) if splits else Markup()
    census = Markup()
    if p.census is not None:
        census = tag("div.narrow", table(("Images", "as stored"), p.census.rows, "Images as stored"))
    packages = tag("div.narrow", table(("Package", "Version"), sorted(p.packages.items()), "Packages"))
    text = details("Recipe", tag("pre", p.recipe, tabindex=0))
    return section("provenance", title, listed, split_table, census, text, details("Packages", packages), _files(run))


def _files(run: Run) -> Markup:
    files = [(name, figures.bytes_(file.size), digest(file.sha256)) for name, file in sorted(run.files.items())]
    listed = tag("div.narrow", table(("File", "Size", "sha256"), files, "Files"))
    return join(tag("h3", "Files"), listed) if files else Markup()


def reproduce(run: Run) -> Markup:
    """The command that reproduces the run."""
    command = tag("pre", tag("code", run.command), tabindex=0)
    same = how("With the same versions, data and seed everything but the timings comes out the same, byte for byte.")
    source = f"Made by edgeres {run.edgeres}. This page holds nothing that report.json ({run.schema}) does not."
    return section("reproduce", "How to reproduce", command, same, how(source))
