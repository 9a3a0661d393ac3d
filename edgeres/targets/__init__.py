"""Deployment targets: devices and runtimes, read from YAML files."""
