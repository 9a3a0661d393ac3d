"""Sections of the HTML report after the verdict. No section is left out: one without data states why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.report.benchmark import benchmark_table
from edgeres.report.markup import Markup, join, table, tag
from edgeres.report.parts import NONE, facts, how, missing, plot, section
from edgeres.report.plots import accuracy_plot, confusion_plot, drop_plot, latency_plot, macs_plot
from edgeres.report.select import (
    DRAWN_CLASSES,
    FLIPS_SHOWN,
    confusions,
    fate,
    limit_of,
    reference_float,
    speedup,
    trail,
    worst_first,
)
from edgeres.runs.figures import (
    WEIGHTED,
    between,
    confidence,
    millis,
    number,
    percent,
    points,
    scaled,
    seconds,
    share,
    short,
)
from edgeres.runs.remedy import drop_cause, int8_slowness
from edgeres.settings import plain

if TYPE_CHECKING:
    from edgeres.artifacts.artifact import KernelCounts
    from edgeres.runs.findings import Flip
    from edgeres.runs.run import Run, StageRow

_AT_ONCE = 9
"""Flipped images shown before the rest is collapsed: three rows on a desktop, a few screens on a phone."""


def stages(run: Run) -> Markup:
    """Accuracy, MACs, parameters, size and time after each stage."""
    if not run.stages and not run.error:
        return section("stages", "Stage by stage", missing("No stage finished."))
    heads = ("Stage", "Top-1", "MACs", "Parameters", "Size", "Time")
    rows = [_stage(run, index, row) for index, row in enumerate(run.stages)]
    if run.error:
        rows.append((run.error.stage or "start", *[NONE] * 4, tag("span.stopped", "\u2715 stopped here")))
    top1, macs = trail(run.stages, "top1"), trail(run.stages, "macs")
    plots = []
    if top1:
        plots.append(plot("Accuracy", accuracy_plot(top1), "top-1 on the validation images; the axis is zoomed"))
    if macs:
        limit = limit_of(run, "macs_g")
        drawing = macs_plot(macs, limit * 1e9 if limit else None)
        plots.append(plot("Work", drawing, "MACs for one image; stages that change nothing are left out"))
    details = [item for row in run.stages if (item := _stage_details(row))]
    more = tag("details", tag("summary", "What each stage measured and noted"), *details) if details else Markup()
    return section("stages", "Stage by stage", table(heads, rows, "Stage by stage"), tag("div.pair", *plots), more)


def _stage(run: Run, index: int, row: StageRow) -> tuple[str, ...]:
    time = run.time_of(index)
    spent = NONE if time is None else "cached" if time.cached else seconds(time.seconds)
    return (
        row.stage,
        NONE if row.top1 is None else percent(row.top1),
        NONE if row.macs is None else scaled(row.macs),
        NONE if row.parameters is None else scaled(row.parameters),
        NONE if row.mib is None else f"{number(row.mib)} MiB",
        spent,
    )


def _stage_details(row: StageRow) -> Markup | None:
    pairs = tuple((name, f"{value:.6g}") for name, value in sorted(plain(row.metrics).items()))
    if not pairs and not row.notes:
        return None
    notes = tag("ul", *(tag("li", note) for note in row.notes)) if row.notes else Markup()
    return tag("div.detail", tag("h3", row.stage), facts(*pairs) if pairs else Markup(), notes)


def accuracy(run: Run) -> Markup:
    """Accuracy of the deployed network and of float, with the confidence interval of the difference."""
    a = run.accuracy
    if a is None:
        return section("accuracy", "Accuracy", missing("The run ended before the deployed network was evaluated."))
    limit = limit_of(run, "accuracy_drop_pp")
    open_question = limit is not None and a.low_pp <= limit < a.high_pp
    more = f"{a.n:,} images do not settle it: the interval reaches beyond the limit." if open_question else ""
    interval = between(a.low_pp, a.high_pp)
    figures = facts(
        ("Float reference", percent(a.float_top1)),
        ("Deployed", percent(a.deployed_top1)),
        ("Drop", points(a.drop_pp)),
        (f"{confidence(a.level)} interval", interval),
        ("Same answer as float", percent(a.agreement)),
        ("Newly wrong", f"{a.b:,}"),
        ("Newly right", f"{a.c:,}"),
        ("Images", f"{a.n:,}"),
    )
    drawing = plot(
        "Drop against float", drop_plot(a, limit), f"dot: measured drop; bar: {confidence(a.level)} interval"
    )
    warnings = [tag("p.caution", sentence) for sentence in (drop_cause(run), more) if sentence]
    made = [how(sentence) for sentence in (reference_float(run), a.method)]
    return section("accuracy", "Accuracy", tag("div.pair", drawing, figures), *warnings, *made)


def speed(run: Run) -> Markup:
    """Measured latency, or why there is none."""
    rows = run.timings.latency
    everywhere = benchmark_table(run.timings.bench) if run.timings.bench else Markup()
    if not rows:
        why = run.timings.unmeasured or "The latency was not measured."
        return section("speed", "Speed", missing(why), everywhere)
    heads = ("Variant", "Runtime", "Batch", "Threads", "p50", "95 % interval", "p90", "p99", "Calls")
    cells: list[tuple[str, ...]] = [
        (
            row.variant,
            row.runtime,
            str(row.batch),
            str(row.threads),
            millis(row.p50_ms),
            f"{number(row.low_ms)} to {millis(row.high_ms)}",
            millis(row.p90_ms),
            millis(row.p99_ms),
            f"{row.n:,}",
        )
        for row in rows
    ]
    limits = [
        (f"{name} limit", limit)
        for name in ("p50", "p90")
        if (limit := limit_of(run, f"latency_{name}_ms")) is not None
    ]
    drawing = plot(
        "Latency of one call", latency_plot(rows, limits), "variant, batch: p50 / p90; whisker: interval of p50"
    )
    faster = speedup(rows)
    sentence = tag("p", f"At p50, int8 is {number(faster)} times as fast as float32.") if faster else Markup()
    if slow := int8_slowness(rows):
        sentence = tag("p.caution", slow)
    measured = [how(sentence) for sentence in dict.fromkeys(row.how for row in rows)]
    side = tag("div", sentence, *measured)
    listed = table(heads, cells, "Latency", words=2)
    return section("speed", "Speed", tag("div.pair", drawing, side), listed, everywhere)


def integers(run: Run) -> Markup:
    """Integer and float kernels of the engine, and what was verified on this host."""
    counted = missing("Integer layers were not counted.") if run.kernels is None else _kernels(run.kernels)
    proven = Markup()
    if run.evidence:
        proven = join(tag("h3", "Proven on this host"), tag("ul", *(tag("li", sentence) for sentence in run.evidence)))
    return section("integers", "What runs in integers", counted, proven)


def _kernels(kernels: KernelCounts) -> Markup:
    share = kernels.integer / kernels.weighted if kernels.weighted else 0.0
    gauge = tag("div.gauge", tag("i.neutral", at={"style": f"width:{100 * share:.1f}%"}))
    lead = tag("p.lead", tag("b", f"{kernels.integer} of {kernels.weighted}"), f" {WEIGHTED}")
    types: list[tuple[str, ...]] = [(name, f"{kernels.counts[name]:,}") for name in sorted(kernels.counts)]
    listed = table(("Kernel", "Executed"), types, "Kernel types") if types else Markup()
    return join(lead, gauge, how(kernels.how), tag("div.narrow", listed))


def confusion(run: Run) -> Markup:
    """Confusion matrix of the deployed network, or its largest errors where there are too many classes to draw."""
    title = "Confusion matrix"
    if run.confusion is None:
        return section("confusion", title, missing("The run ended before the deployed network was evaluated."))
    worst: list[tuple[str, ...]] = [
        (run.class_name(true), run.class_name(predicted), f"{count:,}")
        for true, predicted, count in confusions(run.confusion)
    ]
    listed = table(("True", "Predicted", "Images"), worst, "Most frequent errors", words=2)
    errors = join(tag("h3", "Most frequent errors"), listed) if worst else tag("p", "No errors.")
    classes = run.confusion.classes
    if len(classes) > DRAWN_CLASSES:
        return section("confusion", title, how(f"{len(classes):,} classes are too many to draw."), errors)
    drawing = plot(
        "Deployed network", confusion_plot(classes, run.confusion.matrix()), "rows: true class; columns: predicted"
    )
    return section("confusion", title, tag("div.pair", drawing, tag("div", errors)))


def flips(run: Run) -> Markup:
    """Images whose prediction differs between float and the deployed network."""
    title = "Images answered differently than by float"
    if run.accuracy is None:
        return section("flips", title, missing("The run ended before the deployed network was evaluated."))
    if not run.flips:
        return section("flips", title, tag("p", "None: both give the same class on every validation image."))
    ranked = worst_first(run.flips)
    count = f"{len(ranked):,} of {run.accuracy.n:,} images"
    rest = f"; the worst {FLIPS_SHOWN} here, all of them in report.json" if len(ranked) > FLIPS_SHOWN else ""
    cards = [_flip(run, flip) for flip in ranked[:FLIPS_SHOWN]]
    legend = "Lost ones first, of them what float was surest of. Percent: softmax of the answer."
    more = Markup()
    if cards[_AT_ONCE:]:
        more = tag("details", tag("summary", f"{len(cards) - _AT_ONCE} more"), tag("ul.flips", *cards[_AT_ONCE:]))
    return section("flips", title, how(f"{count}{rest}. {legend}"), tag("ul.flips", *cards[:_AT_ONCE]), more)


def _flip(run: Run, flip: Flip) -> Markup:
    kind = fate(flip)
    picture: str = tag("span.blank", "no picture")
    if flip.thumbnail:
        picture = tag(
            "img", at={"src": flip.thumbnail, "alt": f"validation image {flip.index}", "width": 72, "height": 72}
        )
    head = tag(
        "div.head",
        picture,
        tag(
            "div",
            tag(f"span.fate.{kind.replace(' ', '-')}", kind),
            tag("span.quiet", f" #{flip.index} "),
            tag("p", tag("span.quiet", "True: "), tag("b", run.class_name(flip.label))),
            tag("code", short(flip.sha256), at={"title": flip.sha256}),
        ),
    )
    answers = tag(
        "div.answers",
        _answer(run, "Float", flip.float_prediction, flip.float_confidence, flip.label),
        _answer(run, "Deployed", flip.deployed_prediction, flip.deployed_confidence, flip.label),
    )
    return tag("li", head, answers)


def _answer(run: Run, who: str, answer: int, surely: float | None, label: int) -> Markup:
    """One network's predicted class and its confidence."""
    confidence_text = gauge = Markup()
    if surely is not None:
        confidence_text = tag("span", f" {share(surely)}")
        bar = tag("i", at={"style": f"width:{100 * surely:.1f}%"})
        gauge = tag("div.gauge", bar, at={"aria-hidden": "true"})
    kind = "right" if answer == label else "wrong"
    return tag(f"div.{kind}", tag("small", who), tag("p", tag("b", run.class_name(answer)), confidence_text), gauge)
