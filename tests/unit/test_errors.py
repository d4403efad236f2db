import inspect

import pytest

from builder import errors

CLASSES = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.WinfoundryError)]


@pytest.mark.parametrize("one", CLASSES)
def test_every_error_is_in_the_tree_of_the_docstring_with_its_code(one):
    row = next(line for line in errors.__doc__.splitlines() if one.__name__ in line.split())
    assert str(one.exit_code) in row.split()


def test_an_error_shows_what_why_and_fix():
    assert str(errors.InputRefused("it is", why="because", fix="do so")) == "it is\n  why: because\n  fix: do so"
    assert str(errors.InputRefused("it is")) == "it is"
