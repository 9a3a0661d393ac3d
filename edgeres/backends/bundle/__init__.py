"""What travels to a device that is not here: the graph, golden answers, preprocessing, build tools, and a manifest."""
