"""Training: one loop with its data feed, schedules, averaging and snapshots, shared by all stages that train."""
