"""Finds and calls a user's own model factory, given as package.module:factory."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter
from typing import Any

import torch
from torch import nn

from labelleak.errors import BadInput
from labelleak.simulation.designs import DESIGNS


def call_factory(path: str, *, seed: int, **offered: Any) -> nn.Module:
    """Import a factory, with the working directory importable, and call it.

    Args:
        path: ``package.module:factory``.
        seed: of torch's random state when the factory is called; the caller restores the state.
        **offered: keywords, passed on as far as the factory's signature has them. One that is None
            is not known, and a factory that cannot do without it is refused.

    Raises:
        BadInput: if it cannot be found, fails or returns no ``torch.nn.Module``.

    >>> call_factory("torch.nn:Identity", seed=0, num_classes=10)
    Identity()
    >>> call_factory("torch.nn:Nothing", seed=0)
    Traceback (most recent call last):
    labelleak.errors.BadInput: the module torch.nn has no 'Nothing'
    """
    with _working_directory_importable():
        factory = _find(path)
        # Only now, since importing may draw random numbers, and does so only once.
        torch.default_generator.manual_seed(seed)
        taken = _accepted(factory, offered)
        _refuse_unknown(path, factory, taken)
        try:
            model = factory(**{n: value for n, value in taken.items() if value is not None})
        except (Exception, SystemExit) as error:
            raise BadInput(f"calling {path} failed: {describe_error(error)}") from error
    if not isinstance(model, nn.Module):
        raise BadInput(f"{path} must return a torch.nn.Module, not {type(model).__name__}")
    return model


# Functions that were handed over and that no import finds, by the path that stands for them.
_HANDED: dict[str, Callable[..., object]] = {}


def name_factory(model: str | Callable[..., nn.Module]) -> str:
    """Return the path of a factory; a function that no import finds is kept under it.

    >>> name_factory(nn.Identity), name_factory("cnn")
    ('torch.nn.modules.linear:Identity', 'cnn')
    """
    if isinstance(model, str):
        return model
    if not callable(model):
        raise BadInput(
            f"`model` takes a name, a torch.nn.Module or a function that builds one, not "
            f"{type(model).__name__}"
        )
    name = getattr(model, "__qualname__", type(model).__name__)
    path = f"{getattr(model, '__module__', 'own')}:{name}"
    _HANDED[path] = model
    return path


def _find(path: str) -> Callable[..., object]:
    if path in _HANDED:
        return _HANDED[path]
    module_name, _, attribute = path.partition(":")
    if module_name.endswith(".py"):
        plain = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise BadInput(f"a function is named by its module, not by a file: {plain}:{attribute}")
    try:
        found = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        hint = f"; the activation of {module_name} is chosen by `activation`"
        raise BadInput(
            f"importing {module_name!r} failed: {describe_error(error)}"
            f"{hint if module_name in DESIGNS else ''}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise BadInput(f"the module {module_name} has no {attribute!r}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        raise BadInput(f"{path} is a model already; give a function that builds it")
    if not callable(found):
        raise BadInput(f"{path} is no function, but {type(found).__name__}")
    return found


def _accepted(factory: Callable[..., object], offered: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(factory).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return offered
    by_keyword = {n for n, one in parameters.items() if one.kind is not one.POSITIONAL_ONLY}
    return {name: value for name, value in offered.items() if name in by_keyword}


def describe_error(error: BaseException) -> str:
    """Shorten an error of someone else's code to its class and first line.

    >>> describe_error(KeyError("weight"))
    "KeyError: 'weight'"
    """
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _refuse_unknown(path: str, factory: Callable[..., object], taken: dict[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    for name, value in taken.items():
        if value is None and name in parameters and parameters[name].default is Parameter.empty:
            raise BadInput(f"{path} takes {name}, which is not known; give `{name}` or own data")


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
