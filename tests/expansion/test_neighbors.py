"""Neighbours on the embedded release: hand-picked families, and every answer against a plain reading of the titles."""

import pytest

from ccl_jax.expansion.neighbors import Neighborhood
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release


@pytest.fixture(scope='module')
def release():
    return Release.embedded()


@pytest.fixture(scope='module')
def neighborhood(release):
    return Neighborhood(release)


def near(neighborhood, code):
    return {neighbor.code: str(neighbor.difference) for neighbor in neighborhood.near(code)}


def test_sides_and_joints(neighborhood):
    found = near(neighborhood, 'M25.561')
    assert found['M25.562'] == 'left -> right'
    assert found['M25.569'] == 'unspecified knee -> right knee'
    assert found['M25.551'] == 'hip -> knee'
    assert 'M25.552' not in found, 'two values differ'
    assert 'M25.461' not in found, 'pain is no effusion'
    assert next(iter(found)) in {'M25.562', 'M25.569'}, 'the same parent first'


def test_seventh_character_or_the_rest_but_not_both(neighborhood):
    found = near(neighborhood, 'S80.01XA')
    assert found['S80.01XD'] == 'subsequent encounter -> initial encounter'
    assert found['S80.02XA'] == 'left -> right'
    assert 'S80.02XD' not in found


def test_a_code_alone_in_its_category_has_none_near_but_some_around(neighborhood):
    assert neighborhood.near('I10') == []
    assert 'I16' in set(neighborhood.around('I10'))


def test_around_is_the_category_nearest_first_without_the_code(neighborhood, release):
    around = list(neighborhood.around('M25.561'))
    assert 'M25.561' not in around
    assert set(around[:2]) == {'M25.562', 'M25.569'}
    category = {code for code in release.billable_codes() if code.startswith('M25')} - {'M25.561'}
    assert set(around[: len(category)]) == category


@pytest.mark.parametrize('category', ['H40', 'L89', 'S52', 'J01', 'I50', 'E11'])
def test_neighbours_are_billable_and_mutual_and_share_their_titles_but_for_the_difference(
    neighborhood, release, category
):
    codes = [code for code in release.billable_codes() if code.startswith(category)]
    for code in codes[:: max(1, len(codes) // 150)]:
        for neighbor in neighborhood.near(code):
            assert release.billable(neighbor.code)
            assert neighbor.code != code
            old, new = (set(fold(part).split()) - {'unspecified'} for part in str(neighbor.difference).split(' -> '))
            titles = (set(fold(release.title(other)).split()) - {'unspecified'} for other in (neighbor.code, code))
            old_title, new_title = titles
            assert old_title - new_title <= old
            assert new_title - old_title <= new
            if neighbor.difference.old is not None and neighbor.difference.new is not None:
                assert code in near(neighborhood, neighbor.code), f'{neighbor.code} should know {code}'
