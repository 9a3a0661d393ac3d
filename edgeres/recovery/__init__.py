"""Accuracy recovery: quantization techniques tried in order of cost; the candidate nearest to float is kept."""
