"""Networks as data: spec, graph, costs, weights on disk, and the torch module built from them."""
