"""``Fitting``: the preprocessing of a float network, checked on tuning images against network and labels.

Values that the user states come first, then those of the weights; the others are searched. A network that is still at
chance, or whose accuracy is far higher under another class order, is refused with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeres.artifacts.results import StageMetrics
from edgeres.data.class_order import GAIN, Relabelling, find_relabelling
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import channel_statistics
from edgeres.errors import ChanceError, DataError
from edgeres.model.probe import Scaling, SearchResult, Space, attempt, labelled, search

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeres.artifacts.source import Source
    from edgeres.data.chance import ChanceTest
    from edgeres.data.split import Split
    from edgeres.model.probe import Answers
    from edgeres.model.trial import Trial
    from edgeres.pipeline.stages.stage import Context
    from edgeres.progress import Progress
    from edgeres.tasks.task import Task

AT_CHANCE = "the float network answers at chance: preprocessing, class order or labels"

_VISIBLE = ("resize", "crop", "mean", "std")
"""Fields whose customary values are often wrong; the others seldom matter."""
_LISTED_TRANSFORMS = 6
"""Most transforms whose results a message lists."""

_LISTED = 40
"""Most classes whose names a message lists."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """Chosen preprocessing with its accuracy; ``shown`` are those of the report's ``notes`` that the terminal shows."""

    preprocess: Preprocess
    metrics: StageMetrics
    notes: tuple[str, ...]
    shown: tuple[str, ...]


def fit(
    answers: Answers,
    source: Source,
    own: Preprocess | None,
    sizes: Sequence[Scaling],
    context: Context,
    *,
    task: Task,
    channels: int = 3,
) -> Fitting:
    """Determines the preprocessing of a network, from images to logits by ``answers``, of customary ``sizes``.

    ``own`` is the preprocessing stored with the weights, None where there is none; ``channels`` are those of its input.
    Predictions are the largest of all outputs, also where a subset is scored: among a few, a wrong order of the classes
    may look like a weak network.

    Raises:
        ChanceError: Accuracy is at chance under every transform, or under the stated one.
        DataError: Accuracy is far higher under another class order, or there are no tuning images.
    """
    _check_channels(source, own, channels)
    images, chance_allowed = labelled(context.tuning), "chance" in context.allow
    if not task.searched:
        return _unsearched(source, own, sizes, task, channels)

    def logits(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return task.logits(answers(batch))

    if not len(images):
        return _without_images(source, own, channels)
    start = _start(source, own, images, channels)
    result = _settled(logits, source, own, sizes, start=start, images=images, progress=context.progress)
    chosen, wider = result.best, None
    lost = chosen.chance.standing == "at"
    if source.preprocess is not None or (own is not None and lost):
        wider = _search(logits, Space.around(chosen, sizes), images, context.progress, chosen)
        # Few images cannot show chance by themselves; compared with a transform that is clearly right, they can.
        beaten = wider.best.preprocess != chosen.preprocess and wider.best.chance.standing == "above"
        lost = lost or (chosen.chance.standing == "unknown" and beaten)
    known = {trial.preprocess: trial for trial in (chosen, *result.trials, *(wider.trials if wider else ()))}
    if lost or not source.classes:
        # A wrong order misleads the search, so it is checked under every transform that was evaluated on all images.
        able = [trial for trial in known.values() if lost or len(trial.labels) == len(images)]
        _check_order(chosen, able, context.classes)
    if lost and not chance_allowed:
        raise _at_chance(chosen, tuple(known.values()), wider.best if wider else chosen)
    return _fitting(source, own, result, wider)


def _without_images(source: Source, own: Preprocess | None, channels: int) -> Fitting:
    """The preprocessing that is stated or stored with the weights; an error where something of it is open."""
    if own is None and (source.preprocess is None or source.left_open):
        raise DataError("no labelled tuning images to probe the preprocessing on", "say it with --resize and --crop")
    note = _origin(source, own)
    preprocess = source.stated_over(own or Preprocess.usual(channels))
    return Fitting(preprocess, StageMetrics(), (note,) if note else (), ())


def _start(source: Source, own: Preprocess | None, images: Split, channels: int) -> Preprocess:
    """The transform from which the search begins; means and deviations of other than RGB images are measured."""
    start = source.preprocess or Preprocess()
    if channels == 3:
        return start
    start = source.stated_over(Preprocess.usual(channels))
    if own is None and (source.preprocess is None or "mean" in source.left_open):
        mean, std = channel_statistics(images, start)
        start = replace(start, mean=mean, std=std if "std" in source.left_open or not source.preprocess else start.std)
    return start


def _check_channels(source: Source, own: Preprocess | None, channels: int) -> None:
    """Refuses preprocessing, stated or stored with the weights, of other channels than the network's."""
    stated, hint = source.preprocess, "state one --mean and one --std for each channel, and --channels grey or bands"
    known = stated is not None and ("mean" not in source.left_open or "std" not in source.left_open)
    named = stated is not None and "channels" not in source.left_open and stated.channels != "bands"
    if stated is not None and (known or named) and stated.count != channels:
        what = f"the network reads images of {channels} channels, the stated preprocessing has {stated.count}"
        raise DataError(what, hint if channels != 3 else "state three of each, or leave --channels out")
    if own is not None and own.count != channels:
        raise DataError(f"the network reads {channels} channels, the preprocessing stored with it {own.count}", hint)


def check_chance(chance: ChanceTest | None, findings: Sequence[str] = (), *, allowed: bool) -> tuple[str, ...]:
    """Refuses a float network that is at chance on the validation images.

    There is a note where that is allowed, or where there are too few images to decide; ``findings`` are earlier ones on
    its preprocessing.

    Raises:
        ChanceError: It is at chance and that is not allowed.
    """
    if chance is None or chance.standing == "above":
        return ()
    if chance.standing == "unknown":
        return (f"too few validation images to distinguish the float network from chance: {chance.label}",)
    if allowed:
        return (f"the float network answers at chance, as allowed: {chance.label}",)
    raise ChanceError(
        "; ".join([f"{AT_CHANCE} ({chance.label} among the validation images)", *findings]),
        "check that the validation folders name the same classes as the training folders, or pass --allow chance",
    )


def _unsearched(source: Source, own: Preprocess | None, sizes: Sequence[Scaling], task: Task, channels: int) -> Fitting:
    """The stated preprocessing, else the network's own, else the customary one with a note that says so."""
    resize, crop = sizes[0]
    preprocess = source.stated_over(own or replace(Preprocess.usual(channels), resize=resize, crop=crop))
    if own is not None or (source.preprocess is not None and not set(_VISIBLE) & set(source.left_open)):
        return Fitting(preprocess, StageMetrics(), tuple(filter(None, [_origin(source, own)])), ())
    note = (
        f"preprocessing {preprocess.label}: customary and not checked, since --task {task.name} has no search for it; "
        f"to state it outright: {preprocess.options}"
    )
    return Fitting(preprocess, StageMetrics(), (note,), (note,))


def _settled(
    answers: Answers,
    source: Source,
    own: Preprocess | None,
    sizes: Sequence[Scaling],
    *,
    start: Preprocess,
    images: Split,
    progress: Progress,
) -> SearchResult:
    """The stated preprocessing, evaluated as it is, or the best completion of it."""
    if own is not None or (source.preprocess is not None and not source.left_open):
        stated = source.stated_over(own or start)
        with progress.task("try the preprocessing", len(images)) as advance:
            trial = attempt(answers, images, stated, advance)
        return SearchResult(trial, trial, (trial,))
    # The resampling filter keeps its default where it is not stated: it changes accuracy by tenths of a point.
    fields = source.left_open or tuple(Preprocess.__dataclass_fields__)
    return _search(answers, Space.open(start, tuple(sizes), fields), images, progress)


def _search(
    answers: Answers, space: Space, images: Split, progress: Progress, started: Trial | None = None
) -> SearchResult:
    total, done = space.budget(len(images)), 0
    with progress.task("search the preprocessing", total) as advance:

        def counted(count: int) -> None:
            nonlocal done
            done += count
            advance(count)

        result = search(answers, images, space, counted, started)
        advance(max(0, total - done))
    return result


def _check_order(chosen: Trial, trials: Sequence[Trial], classes: tuple[str, ...]) -> None:
    """Refuses data whose classes are in another order than the network's outputs."""
    orders = [
        (order, trial)
        for trial in trials
        if (order := find_relabelling(trial.predictions, trial.labels, len(classes), len(trials))) is not None
    ]
    if not orders:
        return
    order, trial = max(orders, key=lambda pair: pair[0].share)
    if 100 * (order.share - GAIN) >= chosen.top1:
        raise _other_order(order, trial, classes)


def _other_order(relabelling: Relabelling, trial: Trial, classes: tuple[str, ...]) -> DataError:
    present = set(trial.labels.tolist())
    moved = [
        f"{name!r} (number {index}) is output {output}"
        for index, (name, output) in enumerate(zip(classes, relabelling.outputs, strict=True))
        if index != output and index in present
    ]
    listed = len(classes) <= _LISTED and len(present) == len(classes)
    order = ", ".join(relabelling.names(classes)) if listed else f"{'; '.join(moved[:5])}, {len(moved)} in all"
    before, after = (f"{100 * right / relabelling.images:.1f} %" for right in (relabelling.before, relabelling.after))
    hint = (
        "write the folder names in the order of the network's outputs into a text file, one a line, and pass "
        "--classes FILE; with the present order in it, that is taken as meant"
    )
    if len(present) < len(classes):
        hint = "write each folder with the number of its output into a CSV of folder,output, and pass --classes FILE"
    return DataError(
        f"the class folders are numbered in another order than the network's outputs: {before} of {relabelling.images} "
        f"tuning images are right in the present order, {after} in another one, each judged by an order found without "
        f"it ({trial.preprocess.label}); outputs in order: {order}",
        hint,
    )


def _at_chance(chosen: Trial, trials: Sequence[Trial], better: Trial) -> ChanceError:
    """The error for a network at chance, with the transforms tried and any that fits better."""
    ranked = sorted(trials, key=lambda trial: float(trial.loss.mean()))[:_LISTED_TRANSFORMS]
    tried = f"{len(trials)} tried, the best: " + "; ".join(trial.label for trial in ranked)
    what = f"{AT_CHANCE} ({chosen.chance.label} among the tuning images, with {chosen.preprocess.label})"
    if better.preprocess != chosen.preprocess and better.chance.standing != "at":
        fits = f"{better.preprocess.label} fits better: {better.chance.label}"
        return ChanceError(f"{what}; {fits}; {tried}", f"pass {better.preprocess.options}, or leave them out")
    none = "no customary preprocessing and no other order of the classes fits better"
    hint = "check that the weights belong to these classes, and the labels; --allow chance continues all the same"
    return ChanceError(f"{what}; {none}; {tried}", hint)


def _origin(source: Source, own: Preprocess | None) -> str:
    """Origin of a preprocessing that was not searched; empty where the user stated all of it."""
    if own is None:
        return ""
    if source.preprocess is None:
        return "preprocessing as stated with the weights"
    stated = [name for name in Preprocess.__dataclass_fields__ if name not in source.left_open]
    return f"preprocessing as stated with the weights, but for {', '.join(stated)}"


def _fitting(source: Source, own: Preprocess | None, result: SearchResult, wider: SearchResult | None) -> Fitting:
    chosen, count = result.best, len(result.best.labels)
    notes, shown = [], []
    if len(result.trials) > 1:
        better = chosen is not result.start
        usual = result.start.label if better else "no other fits better beyond noise"
        against = f"against the customary {usual}" if better else f"the customary one, as {usual}"
        stated = "the rest of the preprocessing is not stated" if source.preprocess else "nothing states it"
        shown.append(
            f"preprocessing found by trying {len(result.trials)} on {count} tuning images, as {stated}: "
            f"{chosen.label}, {against}"
        )
        notes.append(f"to state it outright: {chosen.preprocess.options}")
        notes.append("tried: " + "; ".join(trial.label for trial in result.trials))
    elif origin := _origin(source, own):
        notes.append(origin)
    if wider is not None and wider.best.preprocess != chosen.preprocess:
        shown.append(
            f"the stated preprocessing fits clearly worse than a customary one: {chosen.label}, against "
            f"{wider.best.label}; what is stated is taken ({wider.best.preprocess.options} takes the other)"
        )
    if chosen.chance.standing == "at":
        shown.append(f"the float network answers the tuning images at chance, as allowed: {chosen.chance.label}")
    metrics = StageMetrics(probe_top1=chosen.top1, probe_images=count)
    return Fitting(chosen.preprocess, metrics, (*shown, *notes), tuple(shown))
