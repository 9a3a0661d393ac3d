"""The recovery ladder: candidates for a quantized network, tried in order, judged on tuning images, the best one kept."""
