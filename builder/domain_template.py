"""The Jinja2 sandbox for domain XML: our templates and users', values that stay values, mistakes explained."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, FileSystemLoader, PrefixLoader, StrictUndefined, TemplateError, nodes
from jinja2.exceptions import TemplateNotFound, TemplateSyntaxError, UndefinedError
from jinja2.loaders import ChoiceLoader
from jinja2.sandbox import ImmutableSandboxedEnvironment

from builder import resources
from builder.errors import ConfigError, WinfoundryError

_NOT_XML = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters XML 1.0 cannot carry, and the control characters it would carry but attributes would normalise."""

_UNESCAPED = ("safe", "tojson", "urlize", "xmlattr")
"""Filters whose result is not escaped any more."""

_MOST_BYTES = 1 << 20


def fill(variables: Mapping[str, Any], own: Path | None = None) -> str:
    """The domain XML of our template, or of the user's `own`, with these variables (the templates' headers list them).

    The user's may `{% include %}` ours. Raises ConfigError for a value XML cannot carry, or a mistake in `own`.
    """
    values = {name: _clean(name, value) for name, value in variables.items()}
    if own is None:
        return _ours_filled(values)
    try:
        return str(_users(own).render(values))
    except TemplateSyntaxError as error:
        raise _mistake(own, f"line {error.lineno}: {error.message}") from None
    except TemplateNotFound as error:
        raise _mistake(own, f"there is no template {error.name!r} to include") from None
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise _mistake(own, f"{_where(error)}: {error}") from None


def _ours_filled(values: Mapping[str, Any]) -> str:
    try:
        return _environment().get_template("domain.xml.j2").render(values)
    except UndefinedError as error:
        raise WinfoundryError(f"{_where(error)}: {error}", why="this is a mistake in winfoundry") from error


def _where(error: Exception) -> str:
    """The template and the line an error comes from; users' templates have no file as far as Jinja knows."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename.endswith((".j2", "<template>"))]
    return f"{frames[-1].filename.rpartition('/')[2].strip('<>')} line {frames[-1].lineno}" if frames else "template"


def read(own: Path) -> str:
    """The text of a user's template. Raises ConfigError."""
    try:
        if not own.is_file() or own.stat().st_size > _MOST_BYTES:
            raise _mistake(own, f"it is not a file of at most {_MOST_BYTES >> 10} KiB")
        return own.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _mistake(own, str(error)) from None


def _users(own: Path) -> Any:
    """The user's template; its text is known to leave escaping on."""
    text = read(own)
    environment = _environment().overlay(
        loader=ChoiceLoader([PrefixLoader({"own": DictLoader({"domain.xml.j2": text})}), _ours()])
    )
    environment.filters = {name: one for name, one in environment.filters.items() if name not in _UNESCAPED}
    if environment.parse(text).find(nodes.EvalContextModifier):
        raise _mistake(own, "it changes autoescape, which keeps values from becoming XML")
    return environment.get_template("own/domain.xml.j2")


def _mistake(own: Path, why: str) -> ConfigError:
    return ConfigError(f"domain_template: {own.name} cannot be rendered", why=why)


def _ours() -> FileSystemLoader:
    return FileSystemLoader(resources.templates() / "domain")


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=_ours(),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _clean(name: str, value: Any) -> Any:
    if any(_NOT_XML.search(text) for text in _texts(value)):
        raise ConfigError(f"{name} has a control character or one that XML cannot carry", why=ascii(value)[:200])
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []
