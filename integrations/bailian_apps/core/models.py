"""Copies of pydantic models without validation, for the chunks of an answer. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

ModelT = TypeVar("ModelT", bound=BaseModel)


def copy_model(template: ModelT, **values: Any) -> ModelT:
    """Copy a model with some values replaced by other valid ones; the rest is shared.

    A chunk is two or three such copies. pydantic's `model_construct` and `model_copy` take at least
    twice as long, for aliases and private attributes, which the frameworks' chunks do not have.
    """
    copy = object.__new__(type(template))
    set_attribute = object.__setattr__
    set_attribute(copy, "__dict__", {**template.__dict__, **values})
    set_attribute(copy, "__pydantic_fields_set__", template.__pydantic_fields_set__.copy())
    set_attribute(copy, "__pydantic_extra__", None if template.__pydantic_extra__ is None else {})
    set_attribute(copy, "__pydantic_private__", None)
    return copy
