"""Addresses as gateways are told of them."""

import pytest

from agents.picker.destination import Destinations, canonical, destination
from envs.live.endpoint import Endpoint


@pytest.mark.parametrize(
    ("said", "is_meant"),
    [
        ("10.0.0.1:8000", "10.0.0.1:8000"),
        (" 10.0.0.1:08000 ", "10.0.0.1:8000"),
        ("[2600:4040:5204::1574:24AE]:80", "[2600:4040:5204::1574:24ae]:80"),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
        ("10.0.0.1", None),
        ("10.0.0.256:80", None),
        ("host:80", None),
        ("10.0.0.1:http", None),
        ("10.0.0.1:", None),
        ("", None),
        (":", None),
    ],
)
def test_an_address_has_one_spelling(said, is_meant):
    assert canonical(said) == is_meant


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("http://10.0.0.1:8000/v1", "10.0.0.1:8000"),
        ("http://10.0.0.1", "10.0.0.1:80"),
        ("https://10.0.0.1", "10.0.0.1:443"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_an_endpoint_is_where_its_url_says(url, where):
    assert destination(Endpoint("a", url)) == where


@pytest.mark.parametrize("url", ["http://vllm-0:8000", "http://10.0.0.1:8000/a"])
def test_names_and_paths_cannot_be_told(url):
    with pytest.raises(ValueError, match=r"endpoint 'a' .*: gateways are told ip:port alone"):
        destination(Endpoint("a", url))


class Place:
    def __init__(self, url):
        self.endpoint = Endpoint("x", url)


class Fleet(list):
    max_instances = 2


def test_those_among_addresses_are_found_in_any_spelling():
    one, two = Place("http://10.0.0.1:8000"), Place("http://[::1]:80")
    places = Destinations(Fleet([one, two]))
    assert places.among(["10.0.0.1:8000", "10.9.9.9:1", "nonsense"]) == [one]
    assert places.among(["[0::1]:80"]) == [two]
    assert places.among([]) == []


def test_what_has_long_gone_is_forgotten():
    places = Destinations(Fleet())
    for number in range(200):
        assert places.of(Place(f"http://10.0.0.1:{number + 1}")) == f"10.0.0.1:{number + 1}"
        assert len(places._known) <= 16 * Fleet.max_instances + 1
