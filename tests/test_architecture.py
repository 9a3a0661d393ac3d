"""Properties of the whole package: light import, purity, recipes by targets, source without danger, golden costs."""

import ast
import json
import os
import resource
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

import pytest
import yaml
from random_weights import random_weights

import edgeres
from edgeres.artifacts import artifact as artifacts
from edgeres.artifacts.artifact import Engine, Exported, File, VerificationResult
from edgeres.artifacts.source import Source
from edgeres.backends.registry import backends, find_backend
from edgeres.data.dataset import open_dataset
from edgeres.data.preprocess import Preprocess
from edgeres.model.cost import macs, parameters
from edgeres.model.graph import graph
from edgeres.model.presets import PRESETS, preset
from edgeres.model.weights import Weights
from edgeres.pipeline.recipe import STAGES, load_recipe, recipe_names
from edgeres.pipeline.runner import key_of
from edgeres.pipeline.stages import stage as contract
from edgeres.pipeline.stages.build import Build
from edgeres.pipeline.stages.evaluate import Evaluate
from edgeres.pipeline.stages.export import Export
from edgeres.pipeline.stages.fold_batchnorm import FoldBatchnorm
from edgeres.pipeline.stages.load import Load
from edgeres.pipeline.stages.load_onnx import LoadOnnx
from edgeres.pipeline.stages.prune import Prune
from edgeres.pipeline.stages.qat import Qat
from edgeres.pipeline.stages.quantize import Quantize
from edgeres.pipeline.stages.recover import Recover
from edgeres.pipeline.stages.sensitivity import Sensitivity
from edgeres.pipeline.stages.stage import Context, Read
from edgeres.pipeline.stages.train import Train
from edgeres.pipeline.stages.verify import Verify
from edgeres.runs.document import encode
from edgeres.runs.run import Device, Provenance, Run
from edgeres.settings import sha256_file
from edgeres.targets.target import find_target, targets

PACKAGE = Path(edgeres.__file__).parent
ALONE = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}

# ---- light import

HEAVY = (
    "torch", "torchvision", "onnxruntime", "openvino", "nncf", "tensorrt", "tensorrt_rtx", "executorch", "sklearn",
    "timm",
)  # fmt: skip

WALK = f"""
import contextlib, io, json, sys
def heavy():
    return sorted(set(sys.modules) & set({HEAVY!r}))
import edgeres
found = {{"import edgeres": [0, heavy()]}}
from edgeres.cli import main
for line in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(line)
        except SystemExit as stop:
            code = stop.code
    found[" ".join(line[:1])] = [code, heavy()]
print(json.dumps(found))
"""


def test_commands_that_compute_nothing_load_no_runtime(chain, tmp_path):
    (tmp_path / "report.json").write_text(_report(), encoding="utf-8")
    model = str(chain["Export"][1].model.path)
    lines = [
        ["--help"],
        ["targets"],
        ["models"],
        ["macs", model, "--explain"],
        ["lint", model, "--target", "cpu"],
        ["report", str(tmp_path)],
    ]
    done = subprocess.run(
        [sys.executable, "-c", WALK, json.dumps(lines)], env=ALONE, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert len(found) == 1 + len(lines)
    assert found == {name: [0, []] for name in found}


def _report():
    target = find_target("cpu")
    device = Device(name=target.name, title=target.title, backend=target.backend, runtime=target.runtime.name)
    provenance = Provenance(data="digits", recipe="- load", seed=0, python="3", platform="here", cpu="")
    run = Run(edgeres="0", command="edgeres", model="resnet20", target=device, until="load", provenance=provenance)
    return encode(run)


def test_help_is_there_at_once():
    def user_seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "edgeres", "--help"], env=ALONE, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert statistics.median(user_seconds() for _ in range(5)) <= 0.4


def test_a_runtime_at_module_level_would_be_noticed():
    code = "import sys, edgeres.model.network; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ALONE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


# ---- purity

SMALL = Preprocess(resize=8, crop=8)
ORDER = (
    Train(epochs=1), Evaluate(), FoldBatchnorm(), Prune(images=32), Recover(epochs=1), Sensitivity(), Quantize(),
    Qat(when="always"), Export(), Build(), Verify(seconds=0.1),
)  # fmt: skip


@pytest.fixture(scope="module")
def surroundings():
    """Everything a stage may ask for, small: real digits, few of each."""
    data = open_dataset(None, seed=0, calibration=32, allow=frozenset())
    return Context(
        target=find_target("cpu"),
        train=data.train.take(range(64)),
        calibration=data.calibration.take(range(32)),
        tuning=data.tuning.take(range(32)),
        validation=data.validation.take(range(40)),
        classes=data.classes,
        seed=0,
        workspace=Path(),
        scratch=Path(),
    )


@pytest.fixture(scope="module")
def chain(tmp_path_factory, surroundings):
    """Every stage's class name to ``(stage, what it made, what it got, digests of that before, context)``."""
    found = {}

    def walk(stage, given):
        context = replace(
            surroundings,
            workspace=tmp_path_factory.mktemp(stage.name),
            scratch=tmp_path_factory.mktemp(f"{stage.name}-scratch"),
        )
        before = contents(given)
        made = stage(given, context.view(stage.reads))
        found[type(stage).__name__] = (stage, made, given, before, context)
        return made

    made = Source("resnet20", preprocess=SMALL)
    for stage in ORDER:
        made = walk(stage, made)
    saved = tmp_path_factory.mktemp("weights") / "bare.safetensors"
    found["Train"][1].weights.save(saved)
    walk(Load(), Source("resnet20", file=File.of(saved)))
    graph = File.of(found["Export"][1].float_model.path)
    walk(Quantize(), walk(LoadOnnx(), Source("model", file=graph, preprocess=SMALL)))
    return found


def contents(value):
    """Digests of an artifact counted anew: cached ones would hide a change made in place."""
    match value:
        case Source():
            return (value.digest, sha256_file(value.file.path) if value.file else None)
        case artifacts.Checkpoint():
            teacher = contents(value.teacher) if value.teacher else None
            return (value.digest, Weights(dict(value.weights)).digest, teacher)
        case Exported():
            files = (value.model, value.float_model, value.scales)
            return (value.digest, *(sha256_file(file.path) for file in files if file))
        case Engine():
            files = {name: sha256_file(file.path) for name, file in value.files.items()}
            return (value.digest, files, contents(value.exported))
        case VerificationResult():
            return (value.digest, contents(value.engine))


@pytest.mark.parametrize("name", [stage.__name__ for stage in STAGES.values()])
def test_no_stage_changes_what_it_gets(chain, name):
    _, made, given, before, _ = chain[name]
    assert contents(given) == before
    assert made.digest != given.digest
    assert made.metadata.lineage[-1].stage == STAGES_BY_CLASS[name]


STAGES_BY_CLASS = {stage.__name__: name for name, stage in STAGES.items()}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_change_in_place_would_be_noticed(chain):
    import torch

    made = chain["Train"][1]
    copy = replace(made, weights=Weights(dict(made.weights)))
    before = contents(copy)
    key = next(iter(copy.weights))
    torch.from_numpy(copy.weights[key]).add_(1)  # shares memory, and does not heed that numpy calls it read-only
    assert contents(copy) != before


@pytest.mark.parametrize("name", [stage.__name__ for stage in STAGES.values()])
def test_files_of_a_stage_lie_in_its_workspace(chain, name):
    _, made, given, _, context = chain[name]
    got = set(_paths(given))
    assert all(path.is_relative_to(context.workspace) for path in _paths(made) if path not in got)


def _paths(value):
    match value:
        case Source():
            return [value.file.path] if value.file else []
        case Exported():
            return [file.path for file in (value.model, value.float_model, value.scales) if file]
        case Engine():
            return [*_paths(value.exported), *(file.path for file in value.files.values())]
        case VerificationResult():
            return _paths(value.engine)
        case _:
            return []


DECLARED = [(stage.__name__, read) for stage in STAGES.values() for read in stage.reads]


@pytest.mark.parametrize(("name", "read"), DECLARED)
def test_every_stage_needs_what_it_declares(chain, tmp_path, name, read):
    """A read that is declared and never used would only make the cache miss."""
    stage, _, given, _, context = chain[name]
    fewer = tuple(other for other in stage.reads if other != read)
    blind = replace(context, workspace=tmp_path, scratch=tmp_path).view(fewer)
    with pytest.raises((AttributeError, TypeError, RuntimeError), match=r"does not declare|_Hidden"):
        stage(given, blind)


@pytest.mark.parametrize("read", get_args(Read))
def test_what_is_not_declared_is_out_of_sight(surroundings, read):
    blind, seeing = surroundings.view(()), surroundings.view((read,))
    part = read in ("scheme", "runtime", "device", "budget")
    with pytest.raises((AttributeError, TypeError)):
        getattr(blind.target, read) if part else _use(getattr(blind, read))
    if part:
        assert getattr(seeing.target, read) == getattr(surroundings.target, read)
    else:
        assert getattr(seeing, read) == getattr(surroundings, read)


def _use(part):
    """What any user of a part does sooner or later."""
    if hasattr(type(part), "__iter__") or hasattr(type(part), "__len__"):
        return len(part)
    return part.name if not isinstance(part, int) else part


@pytest.mark.parametrize("name", [stage.__name__ for stage in STAGES.values()])
def test_a_key_covers_what_is_declared_and_nothing_else(chain, surroundings, name):
    stage, *_ = chain[name]
    target = surroundings.target
    assert target.scheme is not None
    others = {
        "scheme": replace(surroundings, target=replace(target, scheme=replace(target.scheme, signed=True))),
        "runtime": replace(surroundings, target=replace(target, runtime=replace(target.runtime, opset=13))),
        "train": replace(surroundings, train=surroundings.train.take(range(8))),
        "calibration": replace(surroundings, calibration=surroundings.calibration.take(range(8))),
        "tuning": replace(surroundings, tuning=surroundings.tuning.take(range(8))),
        "validation": replace(surroundings, validation=surroundings.validation.take(range(8))),
        "classes": replace(surroundings, classes=tuple("abcdefghij")),
        "seed": replace(surroundings, seed=1),
        "margin": replace(surroundings, margin=0.5),
    }
    key = key_of(stage, "given", surroundings)
    moved = {read for read, changed in others.items() if key_of(stage, "given", changed) != key}
    declared = set(stage.reads) | ({"scheme", "runtime"} if "target" in stage.reads else set())
    assert moved == declared & set(others)


# ---- recipes by targets

TENSORRT = {
    "8.0": (13, 7),
    "8.2": (13, 7),
    "8.4": (17, 8),
    "8.5": (17, 8),
    "8.6": (17, 8),
    "10.0": (20, 10),
    "10.1": (20, 10),
    "10.3": (20, 10),
    "10.6": (20, 10),
    "10.9": (22, 10),
    "10.13": (24, 10),
    "10.16": (24, 10),
    "11.1": (24, 10),
    "11.4": (24, 10),
    "rtx-1.7": (20, 10),
}
"""TensorRT version to the highest opset and IR version its parser takes.

Opsets: docs/operators.md and README.md of github.com/onnx/onnx-tensorrt, branch of each release. IR versions follow
from the ONNX release each one bundles (1.8: 7, 1.12 and 1.13: 8, 1.16 and later: 10). TensorRT-RTX publishes no table
of its own and is held to the parser generation it stems from, 10.x.
"""

JETPACK = {
    "4.6": "8.0",
    "4.6.1": "8.2",
    "5.0.2": "8.4",
    "5.1": "8.5",
    "6.0": "8.6",
    "6.1": "10.3",
    "6.2": "10.3",
    "7.0": "10.13",
    "7.1": "10.13",
    "7.2": "10.16",
}
"""JetPack to its TensorRT, after the L4T package lists (github.com/anduril/jetpack-nixos, sourceinfo)."""


def test_every_target_file_is_read_and_no_name_means_two():
    files = sorted(path.stem for path in (PACKAGE / "targets" / "devices").glob("*.yaml"))
    assert sorted(targets()) == files
    assert {target.name for target in targets().values()} == set(files)
    names = [name for target in targets().values() for name in (target.name, *target.aliases)]
    assert len(names) == len(set(names))
    for target in targets().values():
        assert all(find_target(name) is target for name in (target.name, *target.aliases))


VERSIONS = [f"{name}:{version}" for name, target in targets().items() for version in target.versions]


@pytest.mark.parametrize("name", [*sorted(targets()), *VERSIONS])
def test_a_target_asks_its_runtime_for_no_more_than_it_takes(name):
    target = find_target(name)
    assert find_backend(target.backend).name == target.backend
    assert target.runtime.source
    assert target.device.source
    if target.runtime.tensorrt:
        opset, ir_version = TENSORRT[target.runtime.tensorrt]
        assert target.runtime.opset <= opset
        assert target.runtime.ir_version <= ir_version
        # TensorRT refuses zero-points and reads uint8 as int8; per-channel DequantizeLinear begins with opset 13.
        assert target.scheme is None or target.scheme.signed
        assert target.runtime.opset >= 13
    if target.runtime.jetpack:
        assert target.runtime.tensorrt == JETPACK[target.runtime.jetpack]


def test_every_backend_has_a_target():
    named = [f"{target.name}:{version}" for target in targets().values() for version in target.versions]
    served = [*targets().values(), *(find_target(name) for name in named)]
    assert {target.backend for target in served} == set(backends())


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_goes_from_a_source_to_a_verdict(name):
    recipe = load_recipe(name)
    given = Source
    for stage in recipe.stages:
        names = {**vars(artifacts), **vars(contract)}
        hints = get_type_hints(type(stage).__call__, localns=names)
        taken = hints["artifact"]
        if isinstance(taken, TypeVar):  # what comes back is of the type that went in
            assert given in taken.__constraints__
            continue
        assert issubclass(given, taken)
        given = hints["return"]
    assert given is VerificationResult
    order = [stage.name for stage in recipe.stages]
    if "quantize" in order and "load_onnx" not in order:
        assert order.index("fold_batchnorm") < order.index("quantize")
    if "prune" in order:
        assert order.index("prune") < order.index("recover") < order.index("quantize")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_written_down_is_the_same_recipe(name, tmp_path):
    recipe = load_recipe(name)
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe.entries()), encoding="utf-8")
    assert load_recipe(str(path)) == recipe


def test_every_stage_is_in_a_recipe():
    assert {stage.name for name in recipe_names() for stage in load_recipe(name).stages} == set(STAGES)


@pytest.mark.parametrize("target", sorted(targets()))
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_has_a_key_on_every_target(recipe, target, surroundings):
    """What a stage reads of a target exists on it, and stages of one recipe never collide."""
    context = replace(surroundings, target=find_target(target))
    keys = [key_of(stage, str(index), context) for index, stage in enumerate(load_recipe(recipe).stages)]
    assert len(set(keys)) == len(keys)


# ---- what the source never does

NEVER = {
    "pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess", "multiprocessing", "pty",
    "os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "os.posix_spawn", "eval", "exec", "compile",
    "__import__", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "input",
}  # fmt: skip

DECLARED_PLACES = {
    ("backends/bundle/device.py", "subprocess"),
    ("latency/benchmark/worker.py", "subprocess"),
}
"""A bundle's commands
ask a Jetson's own ``nvpmodel -q`` for the power mode, on the device, without a shell; ``edgeres bench`` gives each
runtime a process of its own, this interpreter with a fixed module and no shell, because two in one process disturb
each other.
"""

LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


@cache
def trees():
    return {
        str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def forbidden(tree):
    """Names of ``NEVER`` that a module imports or calls, and loaders and processes without their safeguard."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                found |= {alias.name.partition(".")[0] for alias in node.names} & NEVER
            case ast.ImportFrom():
                module = node.module or ""
                found |= {module.partition(".")[0], *(f"{module}.{alias.name}" for alias in node.names)} & NEVER
            case ast.Call():
                name = ast.unparse(node.func)
                keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
                found |= {name} & NEVER
                if keywords.get("shell") == "True":
                    found.add("shell=True")
                if name.endswith("torch.load") and keywords.get("weights_only") != "True":
                    found.add("torch.load")
                if name.endswith("np.load") and keywords.get("allow_pickle") != "False":
                    found.add("np.load")
    return found


def test_nothing_unpickles_starts_a_process_or_evaluates_text():
    found = {(name, what) for name, tree in trees().items() for what in forbidden(tree)}
    assert found == DECLARED_PLACES


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import pickle", "pickle"),
        ("from subprocess import run", "subprocess"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("from yaml import unsafe_load", "yaml.unsafe_load"),
        ("import os\nos.system('ls')", "os.system"),
        ("run('ls', shell=True)", "shell=True"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("np.load(path)", "np.load"),
        ("eval(text)", "eval"),
    ],
)
def test_the_walk_notices(text, what):
    assert forbidden(ast.parse(text)) == {what}


def test_files_and_functions_stay_short():
    lengths = {name: len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in trees()}
    assert {name for name, lines in lengths.items() if lines > 300} == set(LONG_FILES)
    functions = {
        f"{name}:{node.name}": _lines(node)
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name for name, lines in functions.items() if lines > 50} == set(LONG_FUNCTIONS)


def _lines(function):
    """Lines of a function without its docstring."""
    docstring = function.body[0] if ast.get_docstring(function) else None
    return function.end_lineno - function.lineno + 1 - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)


def test_no_two_test_files_have_one_name():
    """Folders of tests are no packages: pytest can import two files of one name only in different processes."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_rooms_import_downwards_only():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=PACKAGE.parent,
        env=ALONE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


SHARED_BY_STAGES = ("stage", "fitting", "imported", "operation_parity", "quantization", "training")


def test_stages_and_backends_do_not_know_each_other():
    imports = defaultdict(set)
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                imports[name].add(node.module)
    stages = {name for name in trees() if name.startswith("pipeline/stages/") and not name.endswith("__init__.py")}
    shared = {f"edgeres.pipeline.stages.{name}" for name in SHARED_BY_STAGES}
    assert len(stages) == len(STAGES) + len(shared)
    for name in stages:
        assert {module for module in imports[name] if module.startswith("edgeres.pipeline.stages")} <= shared
    for name in (name for name in trees() if name.startswith("backends/")):
        assert not any(module.startswith("edgeres.pipeline.stages") for module in imports[name]), name


def test_no_stage_asks_for_the_name_of_its_target():
    for name, tree in trees().items():
        if name.startswith("pipeline/stages/"):
            compared = {
                ast.unparse(side)
                for node in ast.walk(tree)
                if isinstance(node, ast.Compare)
                for side in (node.left, *node.comparators)
            }
            assert not {text for text in compared if text.endswith(("target.name", "target.backend"))}, name


# ---- golden costs

COSTS = {
    "resnet18": (1_814_073_344, 11_689_512),
    "resnet34": (3_663_761_408, 21_797_672),
    "resnet50": (4_089_184_256, 25_557_032),
    "resnet101": (7_801_405_440, 44_549_160),
    "resnet152": (11_513_626_624, 60_192_808),
    "resnext50_32x4d": (4_230_479_872, 25_028_904),
    "resnext101_32x8d": (16_414_015_488, 88_791_336),
    "resnext101_64x4d": (15_460_270_080, 83_455_272),
    "wide_resnet50_2": (11_398_021_120, 68_883_240),
    "wide_resnet101_2": (22_753_050_624, 126_886_696),
    "resnet50_v1": (3_857_973_248, 25_557_032),
    "seresnet50": (4_091_699_200, 28_088_024),
    "seresnet101": (7_806_148_608, 49_326_872),
    "seresnet152": (11_520_204_800, 66_821_848),
    "resnetv2_18": (1_814_073_344, 11_687_720),
    "resnetv2_34": (3_663_761_408, 21_795_880),
    "resnetv2_50": (4_089_184_256, 25_549_352),
    "resnetv2_101": (7_801_405_440, 44_541_480),
    "resnetv2_152": (11_513_626_624, 60_185_128),
    "resnet20": (40_551_040, 269_722),
    "resnet32": (68_862_592, 464_154),
    "resnet44": (97_174_144, 658_586),
    "resnet56": (125_485_696, 853_018),
    "resnet110": (252_887_680, 1_727_962),
    "resnet20_b": (40_813_184, 272_474),
}
"""MACs at 224 px (CIFAR networks at 32 px) and parameters.

Counted by torch's FlopCounterMode and ``numel`` over torchvision 0.28 (resnet, resnext, wide) and timm 1.0.31
(seresnet, resnetv2); the CIFAR family and the original stride follow He et al. 2015: 0.27 / 0.46 / 0.66 / 0.85 / 1.7 M
in table 6.
"""


@pytest.mark.parametrize("name", COSTS)
def test_costs_are_exact_to_the_unit(name):
    spec = preset(name)
    side = 224 if spec.stem.pool else 32
    assert (macs(graph(spec), side, side), parameters(graph(spec))) == COSTS[name]


def test_parameters_are_those_of_the_arrays():
    spec = preset("seresnet18")
    learnt = [array.size for key, array in random_weights(spec).items() if "running_" not in key]
    assert sum(learnt) == parameters(graph(spec)) == 11_778_592  # Hu et al.'s SE-ResNet-18, squeezed to a 16th


def test_every_family_is_there():
    wanted = {
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
        "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2", "resnet20", "resnet32", "resnet44", "resnet56",
        "resnet110", "seresnet50", "resnetv2_50", "resnet50_v1",
    }  # fmt: skip
    assert wanted <= set(PRESETS)
