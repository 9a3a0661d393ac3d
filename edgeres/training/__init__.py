"""Training: one loop, its data feed, schedules, averaging and snapshots, shared by the stages that train."""
