"""Repairs of what lint finds, each proven before the next one."""
