"""A quantized network in exact integers: what its Q/DQ graph means, without the rounding of any runtime."""
