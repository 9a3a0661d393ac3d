"""Realistic runs for the tests: the bundled digits on a Jetson (latency unmeasured here) and on x86 (all measured)."""

from __future__ import annotations

import base64
import hashlib
import math
import random
import struct
import zlib
from dataclasses import replace

from edgeres.artifacts.artifact import KernelCounts
from edgeres.artifacts.budget_check import BudgetCheck
from edgeres.artifacts.results import LayerSensitivity, StageMetrics, TechniqueResult
from edgeres.runs.findings import Accuracy, Calibration, Confusion, Flip, TensorScale
from edgeres.runs.run import (
    Device,
    Failure,
    FileRow,
    LatencyRow,
    Provenance,
    Run,
    SplitRow,
    StageRow,
    StageTime,
    Timings,
)

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGES = 540
FLOAT_MACS, PRUNED_MACS = 37_039_104, 23_894_016
SAMPLE = (
    "bundled sample task: 1,797 handwritten digits, because neither --weights nor --data was given; "
    "pass --weights FILE --data FOLDER to compile your own network"
)
RECIPE = """\
- train: {epochs: 12}
- evaluate
- fold_batchnorm
- prune: {macs: 0.65}
- recover: {epochs: 3}
- quantize: {calibrator: mse}
- export
- build
- verify
"""
JETSON = Device(
    name="jetson-orin-nano",
    title="Jetson Orin Nano 8GB, JetPack 6.2, TensorRT 10.3",
    backend="tensorrt",
    runtime="TensorRT 10.3.0.30 (JetPack 6.2)",
)
X86 = Device(name="x86", title="x86 CPU with OpenVINO", backend="openvino", runtime="OpenVINO 2026.4")


def sha(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()


def png(seed: int, side: int = 8) -> str:
    """A digit-like grey picture as a PNG data URI, from the standard library alone."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    random_ = random.Random(seed)
    turn, radius = random_.uniform(0, 3), random_.uniform(2.0, 2.8)
    rows = b"".join(
        b"\0"
        + bytes(
            max(0, min(255, int(255 - 150 * abs(math.hypot((x - 3.5) * (1 + 0.4 * math.cos(turn)), y - 3.5) - radius))))
            for x in range(side)
        )
        for y in range(side)
    )
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def answers() -> tuple[list[int], list[int], list[int]]:
    """Labels, float predictions and deployed predictions of 540 images: 7 float errors, 3 images lost and 1 gained."""
    labels = [index % 10 for index in range(IMAGES)]
    float_, deployed = labels[:], labels[:]
    for index, wrong in ((11, 8), (84, 9), (139, 5), (203, 2), (288, 1), (377, 3), (455, 6)):
        float_[index] = deployed[index] = wrong
    for index, wrong in ((98, 1), (318, 9), (471, 8)):
        deployed[index] = wrong
    deployed[84] = labels[84]
    deployed[377] = 2
    return labels, float_, deployed


def accuracy() -> Accuracy:
    labels, float_, deployed = answers()
    hits = [sum(map(int.__eq__, labels, found)) for found in (float_, deployed)]
    b = sum(f == y != d for y, f, d in zip(labels, float_, deployed, strict=True))
    c = sum(d == y != f for y, f, d in zip(labels, float_, deployed, strict=True))
    drop = 100 * (b - c) / IMAGES
    half = 196 * math.sqrt(b + c - (b - c) ** 2 / IMAGES) / IMAGES
    return Accuracy(
        n=IMAGES,
        float_score=100 * hits[0] / IMAGES,
        deployed_score=100 * hits[1] / IMAGES,
        drop_pp=drop,
        low_pp=drop - half,
        high_pp=drop + half,
        b=b,
        c=c,
        agreement=100 * sum(map(int.__eq__, float_, deployed)) / IMAGES,
        method="Paired Wald interval of the difference of two proportions on the same 540 images.",
    )


def flips() -> tuple[Flip, ...]:
    labels, float_, deployed = answers()
    return tuple(
        Flip(
            index=index,
            sha256=sha(f"image {index}"),
            label=labels[index],
            float_prediction=float_[index],
            deployed_prediction=deployed[index],
            float_confidence=round(0.5 + index / 1100, 4),
            deployed_confidence=round(0.9 - index / 1000, 4),
            thumbnail=png(index),
        )
        for index in range(IMAGES)
        if float_[index] != deployed[index]
    )


def stages() -> tuple[StageRow, ...]:
    full, pruned = 11_181_642, 7_352_906
    return (
        StageRow(
            stage="train",
            top1=98.89,
            macs=FLOAT_MACS,
            parameters=full,
            metrics=StageMetrics(epochs=12, train_loss=0.0312),
        ),
        StageRow(stage="evaluate", top1=98.70, macs=FLOAT_MACS, parameters=full),
        StageRow(
            stage="fold_batchnorm",
            top1=98.70,
            macs=FLOAT_MACS,
            parameters=11_172_042,
            metrics=StageMetrics(max_abs_delta_logit=4.77e-6),
        ),
        StageRow(
            stage="prune",
            top1=95.19,
            macs=PRUNED_MACS,
            parameters=pruned,
            notes=("widths are multiples of 16, as the target runs fastest",),
        ),
        StageRow(stage="recover", top1=98.52, macs=PRUNED_MACS, parameters=pruned, metrics=StageMetrics(epochs=3)),
        StageRow(stage="quantize", top1=98.33, macs=PRUNED_MACS, parameters=pruned, metrics=StageMetrics(sqnr_db=31.4)),
        StageRow(
            stage="export", macs=PRUNED_MACS, parameters=pruned, mib=7.12, metrics=StageMetrics(max_abs_delta_logit=0.0)
        ),
        StageRow(
            stage="build",
            mib=7.05,
            notes=("TensorRT-RTX parsed and built the graph on this host; the engine itself is built on the device",),
        ),
        StageRow(stage="verify", top1=98.33),
    )


def lines() -> tuple[BudgetCheck, ...]:
    drop = accuracy().drop_pp
    return (
        BudgetCheck(
            name="accuracy_drop_pp",
            value=drop,
            limit=1.0,
            status="passed",
            how="deployed graph against the float baseline on 540 images, simulated on this host",
            source="default of every target",
        ),
        BudgetCheck(
            name="macs_g",
            value=PRUNED_MACS / 1e9,
            limit=1.8 * (32 / 224) ** 2,
            status="passed",
            how="closed form, equal to a count over the exported graph",
            source="documented 1.8 G for ResNet-18 at 224 px, scaled to 32 px",
        ),
        BudgetCheck(
            name="size_mib",
            value=7.05,
            limit=12.0,
            status="passed",
            how="bytes of the file that ships",
            source="targets/jetson-orin-nano.yaml",
        ),
    )


def calibration() -> Calibration:
    random_ = random.Random(7)
    names = (
        ["image", "relu"]
        + [f"layer{stage}.{block}.{op}" for stage in (1, 2, 3, 4) for block in (0, 1) for op in ("relu1", "relu")]
        + ["layer2.0.downsample", "layer3.0.downsample"]
    )
    return Calibration(
        calibrator="mse",
        images=256,
        data=sha("calibration"),
        tensors=tuple(
            TensorScale(
                tensor=name,
                scale=scale,
                sqnr_db=random_.uniform(27, 42),
                **sketched(random_, 127 * scale, rectified=name.endswith(("relu", "relu1"))),
            )
            for name in names
            for scale in [0.012 * 2 ** random_.uniform(-1.2, 2.5)]
        ),
    )


def sketched(random_: random.Random, top: float, *, rectified: bool) -> dict[str, object]:
    """What calibration saw of a tensor: half a bell behind a ReLU, a whole one elsewhere, each with a long tail."""
    low, high = (0.0 if rectified else -top * random_.uniform(0.4, 1.1)), top * random_.uniform(0.8, 1.4)
    spots = [low + (high - low) * (place + 0.5) / 48 for place in range(48)]
    columns = tuple(int(2e5 * math.exp(-((4 * spot / high) ** 2) / 2) + 40 * math.exp(-abs(spot))) for spot in spots)
    zeros = random_.uniform(0.3, 0.7) if rectified else 0.0
    return {"low": low, "high": high, "zeros": zeros, "columns": columns, "clipped": random_.uniform(0, 0.002)}


def provenance() -> Provenance:
    return Provenance(
        data="digits (UCI, scikit-learn)",
        splits=tuple(
            SplitRow(name=name, images=count, digest=sha(name))
            for name, count in (("train", 901), ("calibration", 256), ("tuning", 100), ("validation", IMAGES))
        ),
        recipe=RECIPE,
        seed=0,
        python="3.11.7",
        platform="Linux x86_64",
        cpu="Intel Xeon Platinum 8481C",
        cores=2,
        code=sha("code"),
        packages={
            "torch": "2.13.0",
            "onnx": "1.20.0",
            "onnxruntime": "1.31.0",
            "numpy": "2.3.1",
            "scikit-learn": "1.8.0",
        },
    )


def jetson() -> Run:
    """Nothing failed, latency unmeasured: the device is not here."""
    return Run(
        edgeres="0.1.0",
        command="edgeres compile resnet18 --target jetson --out build/resnet18-jetson",
        model="resnet18",
        target=JETSON,
        notes=(SAMPLE,),
        lines=lines(),
        stages=stages(),
        accuracy=accuracy(),
        confusion=Confusion.of(CLASSES, answers()[0], answers()[2]),
        flips=flips(),
        kernels=KernelCounts(
            integer=20, weighted=21, how="Q/DQ placement in the graph; the runtime's own count needs the device"
        ),
        calibration=calibration(),
        evidence=(
            "TensorRT-RTX 1.7 parsed the graph and built an engine of it on this host, without a GPU.",
            "ONNX Runtime and torch agree on all 540 validation images.",
        ),
        files={
            name: FileRow(sha256=sha(name), size=size)
            for name, size in (
                ("model.onnx", 7_465_123),
                ("model.float.onnx", 29_411_712),
                ("calibration.json", 18_223),
                ("recipe.lock.yaml", 512),
            )
        },
        provenance=provenance(),
        timings=Timings(
            total_s=84.2,
            stages=tuple(
                StageTime(stage=row.stage, cached=False, seconds=took)
                for row, took in zip(stages(), (41.2, 1.9, 0.8, 3.3, 21.7, 6.4, 2.1, 4.9, 1.7), strict=True)
            ),
            lines=(
                BudgetCheck(
                    name="latency_p50_ms",
                    value=None,
                    limit=0.0408,
                    status="unmeasured",
                    how="a Jetson Orin Nano is not here; run build_engine.sh on it",
                    source="documented 2 ms for ResNet-18 at 224 px on a GPU, scaled to 32 px",
                ),
            ),
            unmeasured="A Jetson Orin Nano is not here; run build_engine.sh on it and time the engine with trtexec.",
        ),
    )


def x86(latency: float = 0.61) -> Run:
    """Every line measured; ``latency`` decides whether the last line holds its 1.02 ms."""
    how = "300 calls after 30 to warm up, two threads, this host, other load unknown"

    def row(variant: str, p50: float) -> LatencyRow:
        return LatencyRow(
            variant=variant,
            runtime="OpenVINO 2026.4",
            batch=1,
            threads=2,
            p50_ms=p50,
            p90_ms=p50 * 1.16,
            p99_ms=p50 * 1.71,
            n=300,
            low_ms=p50 * 0.97,
            high_ms=p50 * 1.02,
            how=how,
        )

    line = BudgetCheck(
        name="latency_p50_ms",
        value=latency,
        limit=1.02,
        status="passed" if latency <= 1.02 else "failed",
        how=how,
        source="documented 50 ms for ResNet-18 at 224 px on a CPU, scaled to 32 px",
    )
    base = jetson()
    return replace(
        base,
        command="edgeres compile resnet18 --target x86",
        target=X86,
        kernels=KernelCounts(
            integer=20,
            weighted=21,
            counts={"jit_avx512_core_amx_i8": 20, "brgemm_f32": 1},
            how="OpenVINO's runtime model, after its own fusion",
        ),
        timings=replace(
            base.timings, lines=(line,), latency=(row("float32", 1.42), row("int8", latency)), unmeasured=""
        ),
    )


def techniques() -> tuple[TechniqueResult, ...]:
    """A search that ended with two layers in float."""

    def tried(name: str, kl: float, top1: float, verdict: str = "FAIL", **more: object) -> TechniqueResult:
        drop, integer = 98.9 - top1, 18 if name == "mixed_precision" else 20
        figures = {"drop_pp": drop, "low_pp": drop - 0.6, "high_pp": drop + 0.7, "agreement": top1, "integer": integer}
        return TechniqueResult(name=name, kl=kl, top1=top1, verdict=verdict, note=f"what {name} did", **figures, **more)

    floats = {"mixed_precision": {"float_layers": ["conv1", "layer1.0.conv1"], "float_share_of_macs": 0.05}}
    return (
        tried("calibrate", 0.021, 96.1),
        tried("equalization", 0.0042, 97.4),
        tried("range_search", 0.0038, 97.5),
        tried("bias_correction", 0.0035, 97.5),
        TechniqueResult(name="nncf", note="left out: named in skip, or beyond the time budget"),
        TechniqueResult(name="gptq", note="left out: named in skip, or beyond the time budget"),
        tried("block_reconstruction", 0.0016, 98.1),
        tried("mixed_precision", 0.0009, 98.7, "PASS", chosen=True, settings=floats),
    )


def full() -> Run:
    """Every section has something to show: searched techniques, sensitivities, many tensors and many flipped images."""
    base = x86()
    timings = {
        "calibrate": 4.0,
        "equalization": 9.0,
        "range_search": 12.0,
        "bias_correction": 3.0,
        "block_reconstruction": 95.0,
        "mixed_precision": 70.0,
    }
    timings |= {"latency float32": 0.00142, "latency int8": 0.00055, "latency mixed_precision": 0.00061}
    times = tuple(replace(time, timings=timings) if time.stage == "quantize" else time for time in base.timings.stages)
    tensors = tuple(
        replace(row, tensor=f"{row.tensor}{twin}") for twin in ("", ".again") for row in base.calibration.tensors
    )
    more = tuple(
        replace(flip, index=flip.index + shift, sha256=sha(f"{flip.index + shift}"))
        for shift in range(6)
        for flip in base.flips
    )
    noise = tuple(
        LayerSensitivity(
            layer=f"layer{1 + place // 5}.{place % 5 // 3}.conv{1 + place % 3}",
            sqnr_db=40.0 - place,
            kl=10.0 ** -(2 + (place * 7) % 5),
            top1=98.5,
            macs=1_000_000,
        )
        for place in range(20)
    )
    return replace(
        base,
        stages=tuple(replace(row, techniques=techniques()) if row.stage == "quantize" else row for row in base.stages),
        sensitivity=noise,
        flips=tuple(sorted(more, key=lambda flip: flip.index)),
        calibration=replace(base.calibration, tensors=tensors),
        timings=replace(base.timings, stages=times),
    )


def stopped() -> Run:
    """A run whose third stage failed."""
    return Run(
        edgeres="0.1.0",
        command="edgeres compile resnet18 --target jetson",
        model="resnet18",
        target=JETSON,
        error=Failure(
            stage="prune",
            kind="StageError",
            what="cannot reach 0.05 of the MACs: every group is at 16 channels",
            hint="ask for macs: 0.2 or more",
        ),
        stages=stages()[:3],
        timings=Timings(total_s=44.0),
    )


TARGETS_OF_EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b|c",
    "`code` ``more``",
    "](http://example.org)",
    "**bold** _it_ @everyone #1",
    "&amp; </style></svg>",
    "line\nbreak\ttab",
    "x" * 90,
    "\u0001control\u202e",
    "\u65e5\u672c\u8a9e\u306e\u30af\u30e9\u30b9\u540d\u524d\u3067\u3059",
)


def evil(names: tuple[str, ...] = TARGETS_OF_EVIL) -> Run:
    """The x86 run with folder names as class names, and one of them in every other text."""
    base, name = x86(), names[0]
    return replace(
        base,
        model=name,
        command=f"edgeres compile {name}",
        notes=names,
        confusion=replace(base.confusion, classes=names),
        lines=tuple(replace(line, how=f"{name} {line.how}", source=names[2]) for line in base.lines),
        stages=tuple(replace(row, stage=names[2], notes=names[:4]) for row in base.stages),
        kernels=replace(base.kernels, counts={names[2]: 3, names[3]: 4}, how=name),
        evidence=names,
        files={f"{names[0]}{names[3]}": FileRow(sha256=sha("evil"), size=1)},
        calibration=replace(
            base.calibration, tensors=tuple(replace(row, tensor=name) for row in base.calibration.tensors)
        ),
        provenance=replace(base.provenance, data=name, recipe="\n".join((*names, "```", "# heading")), cpu=names[5]),
    )
