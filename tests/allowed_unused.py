# ruff: noqa: B018, F821
"""Names in ``edgeres`` that Python code never reads and that are needed all the same, for ``vulture``.

``make lint`` fails on every function, class, attribute or parameter without a use in ``edgeres/``; tests and benchmarks
do not count as uses. A name goes here only where something other than this package's Python code reads it.
"""

# Parameters of callbacks whose signature a library sets: signal handlers, and the progress of a TensorRT build.
frame
phase

# Methods that a base class calls: TensorRT's IProgressMonitor and rich's Console.
_.phase_start
_.step_complete
_.phase_finish
_.on_broken_pipe

# A validator that pydantic calls.
_._consistent

# Read by object.__getattribute__, which takes its name as a string.
_._visible

# Rules that a runtime shares with TensorRT, found in their module by edgeres.lint.linter.discovered.
SHARED
LITERT_SHARED
OPENVINO_SHARED

# Settings of sessions and builders: onnxruntime.SessionOptions, tensorrt.IBuilderConfig, argparse.Action.
_.enable_profiling
_.graph_optimization_level
_.intra_op_num_threads
_.log_severity_level
_.optimized_model_filepath
_.profile_file_prefix
_.profiling_verbosity
_.num_compute_capabilities
_.help

# Fields of files that are written through their own classes: the schema of .ort, protobufs of ONNX.
_.minalign
_.model_version
_.producer_name
_.producer_version
_.raw_data

# Metrics of stages, which report.json and its pages list by name.
_.activation_quantizers
_.float_graph_score
_.float_graph_top1
_.float_max_relative_delta
_.int8_max_relative_delta
_.integer_weights
_.lint_findings
_.logit_range
_.macs_removed
_.max_abs_delta_logit
_.nodes_given
_.probe_images
_.probe_top1
_.train_loss
_.tuning_drop_pp
_.tuning_loss_rise
_.tuning_score
_.tuning_top1

# Validators that pydantic calls.
_.from_name
_.gathered

# Fields of report.json, gate.json and bench.json, and of what a device bundle reports: the JSON's reader uses them.
_.by
_.kl_low
_.kl_high
_.median_gmacs
_.model_sha256
_.n_to_settle
_.p90_high
_.p90_high_ms
_.p99_high
_.p99_high_ms
_.plan_sha256
_.stolen_s

# Fields that users set in YAML: budgets are checked field by field over all names, a target's power is for its reader.
_.accuracy_drop_pp
_.latency_p50_ms
_.latency_p90_ms
_.latency_p99_ms
_.params_m
_.peak_activation_mib
_.size_mib
_.tdp_w

# A key of build.json, which the bundle's scripts read on the device.
_.optimization_level

# Called by pydantic.
_._plain
