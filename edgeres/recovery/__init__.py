"""The recovery ladder: candidates for a quantized network, tried in order and judged; the best one is kept."""
