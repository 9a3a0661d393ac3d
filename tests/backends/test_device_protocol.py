"""The protocol, the statistics and the state of a device that every command of a bundle shares."""

from __future__ import annotations

import itertools
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.backends.bundle import device, engine
from edgeres.latency import timer

SAMPLES = st.lists(st.integers(1_000, 10**9), min_size=1, max_size=700)


@settings(deadline=None)
@given(SAMPLES)
def test_percentiles_intervals_and_bounds_are_those_of_the_host(samples):
    found = device.figures(samples)
    expected = [float(value) / 1e6 for value in np.percentile(samples, (50, 90, 99))]
    assert [found["p50"], found["p90"], found["p99"]] == expected
    assert (found["low"], found["high"]) == tuple(value / 1e6 for value in timer.median_interval(samples))
    for share in (90, 99):
        bound = timer.percentile_bound(samples, share / 100)
        assert found[f"p{share}_high"] == (None if bound is None else bound / 1e6)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_binomial_quantile_is_scipys(share):
    from scipy.stats import binom

    for n in (1, 2, 5, 43, 44, 458, 459, 1000, 4999, device.MOST):
        for probability in (0.025, 0.5, 0.99):
            assert device._binomial_quantile(n, share, probability) == int(binom.ppf(probability, n, share)), n


def test_bounds_need_as_many_calls_as_the_host_says():
    told = [[device.percentile_bound([1] * n, share) for n in (43, 44, 458, 459)] for share in (0.9, 0.99)]
    assert told == [[None, 1, 1, 1], [None, None, None, 1]]


class Clock:
    """Nanoseconds that pass by a rhythm, one step for each call that is timed."""

    def __init__(self, *steps):
        self.now, self.steps, self.calls = 0, itertools.cycle(steps), 0

    def __call__(self):
        return self.now

    def call(self):
        self.calls += 1
        self.now += next(self.steps)


def test_it_warms_up_and_stops_once_the_median_is_narrow():
    clock = Clock(1_000_000, 1_001_000)
    found = device.timed(clock.call, 60, clock)
    assert clock.calls == device.WARMUP + device.WANTED
    assert (found["p50"], found["p99_high"], found["warmup"]) == (1.0, 1.001, 50)
    assert "459" in found["protocol"]


def test_it_goes_on_while_the_median_is_wide():
    clock = Clock(1_000_000, 2_000_000)
    found = device.timed(clock.call, 60, clock)
    assert len(found["samples_ns"]) == device.MOST


def test_a_slow_device_stops_when_the_time_is_up_but_not_before_44_calls():
    clock = Clock(3_000_000_000)
    found = device.timed(clock.call, 60, clock)
    assert len(found["samples_ns"]) == device.LEAST
    assert found["p90_high"] == 3000
    assert found["p99_high"] is None


def put(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_a_jetsons_state_is_read_where_its_kernel_keeps_it(tmp_path, monkeypatch):
    for core, khz in enumerate((1510400, 729600)):
        put(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", f"{khz}\n")
    put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n")
    put(tmp_path, "sys/class/devfreq/17000000.gpu/cur_freq", "624750000\n")
    put(tmp_path, "sys/class/devfreq/13e10000.host1x/cur_freq", "1\n")
    for zone, (name, value) in enumerate({"cpu-thermal": "48500", "gpu-thermal": "", "tj-thermal": "-1000"}.items()):
        put(tmp_path, f"sys/class/thermal/thermal_zone{zone}/type", f"{name}\n")
        put(tmp_path, f"sys/class/thermal/thermal_zone{zone}/temp", value)
    put(tmp_path, "proc/stat", "cpu  1 2 3 4 5 6 7 800 9\n")
    put(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    put(tmp_path, "proc/cpuinfo", "processor : 0\nmodel name : ARMv8 Processor rev 1 (v8l)\n")
    tool = tmp_path / "nvpmodel"
    tool.write_text('#!/bin/sh\nprintf "NV Power Mode: %s\\n1\\n" "$1"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = device.conditions(tmp_path)
    assert found["cpu_mhz"] == [1510.4, 729.6]
    assert found["gpu_mhz"] == {"17000000.gpu": 624.75}
    assert found["temperature_c"] == {"cpu-thermal": 48.5, "tj-thermal": -1.0}
    assert (found["governor"], found["nvpmodel"]) == ("schedutil", "NV Power Mode: -q 1")
    assert found["stolen_s"] == 800 / 100
    assert device.machine(tmp_path)["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert device.machine(tmp_path)["cpu"] == "ARMv8 Processor rev 1 (v8l)"


def test_machine_without_kernel_files_reports_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = device.conditions(tmp_path)
    assert {**found, "load": 0} == {
        "load": 0, "governor": None, "cpu_mhz": [], "gpu_mhz": {}, "temperature_c": {}, "stolen_s": None,
        "nvpmodel": None,
    }  # fmt: skip


def test_device_report_is_sealed_and_names_its_bundle(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    manifest = {"model": "m", "target": "t", "entry": "e", "files": {"e": {"sha256": "0" * 64}}}
    whole = device.report(tmp_path, manifest, {"latency_ms": {"samples_ns": [1, 2]}})
    read = json.loads((tmp_path / device.REPORT).read_text())
    assert read == whole
    assert read["seal"] == device.seal(read)
    assert read["manifest_sha256"] == device.sha256(b"{}")
    read["latency_ms"]["samples_ns"][1] = 1
    assert read["seal"] != device.seal(read)


def test_the_bar_draws_on_a_terminal_and_says_its_label_once_elsewhere(monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    bar = engine.Bar(lambda: clock.now)
    for share in (0.0, 0.5, 1.0):
        bar.show("building", share)
    assert capsys.readouterr().err == "  ...  building\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = engine.Bar(lambda: clock.now)
    bar.show("building", 0.0)
    clock.now = 30.0
    bar.show("building", 0.25)
    bar.show("building", 0.26)
    bar.done()
    drawn = capsys.readouterr().err
    assert "building [#######.......................]  25% eta 1:30" in drawn
    assert "26%" not in drawn
    assert "eta -:--" in drawn
