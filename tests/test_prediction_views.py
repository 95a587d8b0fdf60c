"""What predict.py cannot prepare is refused by name, before any image is read."""

import pytest

from hpa_tf.errors import InputError
from hpa_tf.prediction import members
from hpa_tf.recipes import recipe_named


@pytest.mark.parametrize("name", ["cpu_fcan", "cpu_duo_branch", "cpu_puzzle_cam", "cpu_student_green"])
def test_networks_of_other_views_are_refused(name):
    with pytest.raises(InputError, match=rf"network that sees \w+.*{name}"):
        members.check_view(recipe_named(name), "runs/one")


@pytest.mark.parametrize("name", ["cpu_lite0", "starter", "milimed_b4"])
def test_networks_of_single_cells_are_taken(name):
    members.check_view(recipe_named(name), "runs/one")


@pytest.mark.parametrize("name", ["cpu_bestfitting", "cpu_red_ai", "cpu_mpware_zfturbo_dieter", "bestfitting"])
def test_systems_with_other_views_are_refused(name, tmp_path):
    with pytest.raises(InputError, match=name):
        members.find_system(name, str(tmp_path))
