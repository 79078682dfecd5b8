"""Values to bytes and back: which way they take, and how much of them."""

from __future__ import annotations

import array
import itertools
import os
import pickle
import sys
import threading
from typing import Any, Callable, List

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.core.values.elsewhere import OTHER, SAME, Foreign, Point, load_elsewhere, local_class, plain_values
from xpc_instrument.core.model.errors import PayloadError
from xpc_instrument.core.values.names import type_name
from xpc_instrument.core.values.pickling import dump, load
from xpc_instrument.core.values.traits import PeerProfile

# by which way ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(plain_values)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert load(*dump(value, SAME)) == value


@given(plain_values)
def test_plain_values_cross_between_minor_versions_whatever_they_say(value: Any) -> None:
    assert load(*dump([value, "__main__", b"__main__.x"], OTHER)) == [value, "__main__", b"__main__.x"]


def test_what_has_an_importable_name_crosses_by_name() -> None:
    assert load(*dump((Point, len), SAME)) == (Point, len)
    with pytest.raises(ModuleNotFoundError, match=r"tests\.unit"):
        load_elsewhere(Point(1, 2), SAME, "tests")


@pytest.mark.parametrize(
    "value",
    [lambda: 5, local_class(), local_class()(), Foreign, Foreign(), [1, {"key": Foreign()}]],
    ids=["lambda", "local class", "instance of it", "class of main", "instance of main", "deep inside"],
)
def test_code_that_only_this_program_has_crosses_by_value_between_equal_minor_versions_only(value: Any) -> None:
    load_elsewhere(value, SAME, "__main__", "tests")
    with pytest.raises(PayloadError, match=r"code does not cross between Python 3\.\d+ and 3\.11: put it into a module"):
        dump(value, OTHER)


def test_a_local_function_still_works_on_the_other_side() -> None:
    offset = 3
    assert load(*dump(lambda x: x + offset, SAME))(4) == 7


def test_all_of_a_package_that_the_other_side_lacks_crosses_by_value() -> None:
    traits = PeerProfile("3.11", "3.11", 1_000_000)
    traits.add_foreign("tests.integration.no_such_module")
    arrived = load_elsewhere([Point(1, 2), Point], traits, "tests")
    assert (arrived[0].x, arrived[1].__name__) == (1, "Point")
    with pytest.raises(PayloadError, match="does not cross"):
        dump(Point(1, 2), PeerProfile("3.11", "3.12", 1_000_000, frozenset({"tests"})))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_modules_are_registered_for_as_long_as_any_thread_pickles_by_them_and_no_longer() -> None:
    traits = PeerProfile("3.11", "3.11", 1_000_000, frozenset({"tests"}))
    begun, go_on = threading.Event(), threading.Event()
    seen: List[Any] = []

    class Held:
        times = 0

        def __reduce__(self) -> Any:
            # At first by pickle, until it is seen that `Point` is not there.
            Held.times += 1
            if Held.times == 2:
                begun.set()
                go_on.wait(10)
            return int, ()

    thread = threading.Thread(target=lambda: seen.append(dump([Held(), Point], traits)))
    thread.start()
    assert begun.wait(10)
    # While the other one is in the middle of it.
    assert b"_make_skeleton_class" in bytes(dump(Point, traits)[0])
    before = cloudpickle.list_registry_pickle_by_value()
    child = os.fork()
    if not child:
        os._exit(len(cloudpickle.list_registry_pickle_by_value()))
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    thread.join()
    assert (before, cloudpickle.list_registry_pickle_by_value()) == ({"tests"}, set())
    assert b"_make_skeleton_class" in seen[0][0]


class Pieces:
    """A file that notes how much is written at once."""

    def __init__(self) -> None:
        self.sizes: List[int] = []

    def write(self, data: Any) -> int:
        self.sizes.append(len(data))
        return len(data)


def test_a_class_is_noticed_in_every_frame_of_a_long_pickle() -> None:
    # The first string leaves the class just enough room in a frame of 64 KiB, and the second makes the frame as long as it can be.
    longest = 0
    for filling in range(65_480, 65_536):
        value = ["a" * filling, Foreign, "b" * 65_535, "c" * 300_000]
        load_elsewhere(value, SAME, "__main__")
        pieces = Pieces()
        pickle.Pickler(pieces, 5).dump(value)
        longest = max(longest, *(size for size in pieces.sizes if size < 300_000))
    assert longest > 2 * 64 * 1024


def test_a_class_that_was_named_before_is_still_noticed() -> None:
    assert load_elsewhere(["__main__", "Foreign", Point(1, 2), Foreign(), Foreign], SAME, "__main__")[0] == "__main__"


@pytest.mark.parametrize("value", [threading.Lock(), sys, memoryview(b"abc"), (i for i in "abc")], ids=type_name)
def test_what_cannot_be_copied_says_so(value: Any) -> None:
    with pytest.raises(PayloadError, match=r"cannot be pickled: TypeError: cannot pickle"):
        dump(value, SAME)


def test_what_cannot_be_loaded_says_so() -> None:
    for body in (b"", b"rubbish", pickle.dumps(Point(1, 2))[:-1], b"cno_such_module\nname\n."):
        with pytest.raises(PayloadError, match="cannot be loaded here"):
            load(body, ())


# how much -------------------------------------------------------------------------------------------------------------------


class Endless:
    """Pickles as a list without end, and counts."""

    given = 0

    def __reduce__(self) -> Any:
        def items() -> Any:
            for self.given in itertools.count():
                yield f"{self.given:01000}"

        return list, (), None, items()


def test_pickling_stops_soon_after_the_limit() -> None:
    value = Endless()
    with pytest.raises(PayloadError, match="is larger than max-payload, 1000000 bytes"):
        dump(value, SAME)
    assert value.given < 3000


@given(st.integers(0, 70_000))
def test_the_limit_is_exact(size: int) -> None:
    value = b"x" * size
    length = len(dump(value, SAME)[0])
    assert load(*dump(value, PeerProfile("3.11", "3.11", length))) == value
    with pytest.raises(PayloadError, match="larger than"):
        dump(value, PeerProfile("3.11", "3.11", length - 1))


@pytest.mark.parametrize(
    "make", [lambda n: pickle.PickleBuffer(bytearray(n)), lambda n: [bytearray(n)], lambda n: Foreign if n < 9 else [Foreign, b"x" * n]]
)
def test_buffers_and_code_by_value_count_too(make: Callable[[int], Any]) -> None:
    dump(make(400_000), SAME)
    with pytest.raises(PayloadError, match="larger than"):
        dump(make(1_100_000), SAME)


@pytest.mark.parametrize(
    ("value", "beside"),
    [
        (bytearray(b"ab" * 50_000), 0),
        (array.array("i", range(50_000)), 0),
        (pickle.PickleBuffer(b"ab" * 50_000), 1),
        (pickle.PickleBuffer(bytearray(b"ab" * 50_000)), 1),
        (pickle.PickleBuffer(memoryview(bytearray(b"ab" * 50_000))[10:]), 1),
        (pickle.PickleBuffer(b"small"), 0),
        ([pickle.PickleBuffer(bytes([n % 256]) * 65_536) for n in range(300)], 254),
    ],
)
def test_large_buffers_travel_beside_the_pickle(value: Any, beside: int) -> None:
    body, buffers = dump(value, PeerProfile("3.11", "3.11", 30_000_000))
    assert len(buffers) == beside
    arrived = load(body, buffers)
    several = isinstance(value, list)
    for sent, got in zip(value if several else [value], arrived if several else [arrived]):
        assert bytes(got) == bytes(sent)


def test_a_buffer_with_gaps_is_refused_and_not_garbled() -> None:
    with pytest.raises(PayloadError, match="cannot be pickled"):
        dump(pickle.PickleBuffer(memoryview(bytearray(100_000))[::2]), SAME)
