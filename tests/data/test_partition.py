from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edgeres.data.split import partition, round_robin

images = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=120)
seeds = st.integers(0, 2**32)


@given(images, seeds)
def test_parts_cover_everything_once_and_share_no_content(pairs, seed):
    labels, hashes = [label for label, _ in pairs], [str(content) for _, content in pairs]
    parts = partition(labels, hashes, lambda groups: (2, groups // 4), seed)
    assert sorted(index for part in parts for index in part) == list(range(len(pairs)))
    contents = [{hashes[index] for index in part} for part in parts]
    for first in range(len(contents)):
        for second in range(first):
            assert not contents[first] & contents[second]


@given(st.lists(st.integers(6, 30), min_size=1, max_size=5), seeds)
def test_quotas_are_met_in_every_class(sizes, seed):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    hashes = [f"{index}" for index in range(len(labels))]
    parts = partition(labels, hashes, lambda groups: (2, 3), seed)
    for part, each in zip(parts, (2, 3), strict=False):
        assert Counter(labels[index] for index in part) == dict.fromkeys(range(len(sizes)), each)
    assert len(parts[2]) == len(labels) - 5 * len(sizes)


def test_the_order_of_the_files_has_no_say():
    labels = [index % 3 for index in range(60)]
    hashes = [f"{index:x}" for index in range(60)]
    forward = partition(labels, hashes, lambda groups: (5,), 7)
    backward = partition(labels[::-1], hashes[::-1], lambda groups: (5,), 7)
    assert {hashes[index] for index in forward[0]} == {hashes[::-1][index] for index in backward[0]}


def test_another_seed_cuts_otherwise_and_the_same_seed_alike():
    labels, hashes = [0] * 50, [f"{index}" for index in range(50)]
    cuts = [partition(labels, hashes, lambda groups: (25,), seed) for seed in (1, 1, 2)]
    assert cuts[0] == cuts[1] != cuts[2]


def test_one_image_more_moves_at_most_one_other():
    hashes = [f"{index}" for index in range(200)]
    small = partition([0] * 199, hashes[:199], lambda groups: (40,), 3)
    large = partition([0] * 200, hashes, lambda groups: (40,), 3)
    assert len(set(small[0]) - set(large[0])) <= 1


@given(st.lists(st.integers(-1, 5), max_size=80), seeds, st.integers(0, 80))
def test_every_prefix_of_round_robin_is_balanced(labels, seed, length):
    order = round_robin(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    total, taken = Counter(labels), Counter(labels[index] for index in order[:length])
    rounds = max(taken.values(), default=0)
    for label, there in total.items():
        assert taken[label] >= min(there, rounds - 1)


def test_round_robin_shuffles_by_seed():
    orders = [round_robin([0, 1] * 20, seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_fewer_images_than_classes_are_of_random_classes():
    labels = [label for label in range(1000) for _ in range(3)]
    few = [[labels[index] for index in round_robin(labels, seed)[:100]] for seed in range(20)]
    assert all(len(set(chosen)) == 100 for chosen in few)
    assert few[0] != few[1]
    mean = sum(map(sum, few)) / 2000
    assert abs(mean - 499.5) < 5 * 288.7 / 2000**0.5, "five standard errors of a uniform choice"


def test_a_class_more_leaves_the_others_in_their_order():
    order = round_robin([0, 1] * 20, 5)
    longer = round_robin([0, 1] * 20 + [2] * 9, 5)
    assert tuple(index for index in longer if index < 40) == order
