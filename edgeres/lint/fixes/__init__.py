"""Repairs of lint findings, each checked numerically before the next one."""
