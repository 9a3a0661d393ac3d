"""Interleaved latency benchmark of one network on every runtime of this host, one process per runtime."""
