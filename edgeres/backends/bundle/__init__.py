"""Device bundles: graph, golden outputs, preprocessing, build tools and a manifest, to be copied to the device."""
