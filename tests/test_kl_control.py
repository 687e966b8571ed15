"""The coefficient of the KL in the reward."""

import json

import pytest
from tolerances import EXACT

from starling.losses.kl_control import KLControl


@pytest.mark.parametrize(
    ("kl", "coef"),
    # error 0.1: 0.5 (1 + 0.1 * 512 / 2048);  error 4 held at 0.2;  error -0.9 held at -0.2;  on target
    [(6.6, 0.5125), (30.0, 0.525), (0.6, 0.475), (6.0, 0.5)],
)
def test_the_coefficient_by_hand(kl: float, coef: float) -> None:
    assert KLControl(0.5, 6.0, 2048).after(kl, 512).coef == pytest.approx(coef, abs=EXACT)


def test_many_answers_to_a_horizon_leave_a_tenth_and_never_reward_the_kl() -> None:
    # error -0.2 of 64 answers to a horizon of 10: 1 - 1.28 would be below 0
    assert KLControl(0.5, 6.0, 10).after(0.0, 64).coef == pytest.approx(0.05, abs=EXACT)


def test_without_a_target_it_is_fixed() -> None:
    assert KLControl(0.5).after(30.0, 512) == KLControl(0.5)


def test_it_drives_a_policy_whose_kl_falls_with_the_coefficient_to_the_target() -> None:
    control = KLControl(0.02, 6.0, 2000)
    for _ in range(300):
        control = control.after(1 / control.coef, 256)
    assert 1 / control.coef == pytest.approx(6.0, rel=1e-6)


def test_its_state_survives_json() -> None:
    control = KLControl(0.5, 6.0, 2048).after(7.0, 100)
    assert KLControl(**json.loads(json.dumps(control._asdict()))) == control
