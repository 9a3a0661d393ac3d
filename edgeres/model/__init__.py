"""The network as data: spec, graph, costs, weights on disk, and the torch module derived from them."""
