"""Work on one image at a time: results in order, whatever the threads, over weights that are there once."""

import numpy as np
import torch
from random_weights import random_weights

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.quant.streaming import each_image

IMAGES = np.random.default_rng(0).normal(size=(12, 3, 32, 32)).astype(np.float32)


def test_threads_share_the_weights_and_not_the_gradients(thin):
    torch.set_num_threads(4)
    network = Network(graph(thin), random_weights(thin)).eval()
    name = "conv1.weight"
    copies = {}

    def work(mine, image):
        mine.zero_grad(set_to_none=True)
        mine(image).square().sum().backward()
        copies[id(mine)] = mine
        return mine.get_parameter(name).grad.clone()

    found = list(each_image(network, [IMAGES], work, gradients=True))
    assert len({mine.get_parameter(name).data_ptr() for mine in copies.values()}) == 1
    assert len({id(mine.get_parameter(name)) for mine in copies.values()}) == len(copies)
    torch.set_num_threads(1)
    alone = list(each_image(network, [IMAGES], work, gradients=True))
    assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
    assert network.get_parameter(name).grad is None, "the network that was given is left alone"
