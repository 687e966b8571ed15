"""Which addresses only this machine reaches."""

import pytest

from starling.addresses import is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.0.1", "::1"])
def test_addresses_of_this_machine_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "127.evil.example", "127.0.0.1.evil.example", "a"])
def test_other_addresses_and_names_that_only_look_like_them_are_not(host: str) -> None:
    assert not is_loopback(host)
