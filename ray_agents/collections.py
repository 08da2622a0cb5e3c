"""State collections: typed rows by key, whose every write is an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ray_agents.effects import Effects
from ray_agents.errors import DuplicateKey, InvalidPayload, MissingKey
from ray_agents.events import JSON, Draft, Operation, decode
from ray_agents.projection import USER_TYPE_PREFIX

Row = TypeVar("Row", bound=BaseModel)


def validated(model: type[Row], value: JSON, *, what: str) -> Row:
    """``value`` as ``model``.

    Raises:
        InvalidPayload: it does not fit; the message names ``what`` and the field.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "(whole)"
        message = f"{what}: field {field!r} does not fit {model.__name__}: {first['msg']}"
        raise InvalidPayload(message, field=field, problem=first["msg"]) from error


class Collection(Generic[Row]):
    """One collection of an entity's state; ``key`` is the primary key."""

    def __init__(self, name: str, model: type[Row], *, effects: Effects) -> None:
        self.name = name
        self._model = model
        self._type = USER_TYPE_PREFIX + name
        self._effects = effects

    def insert(self, row: Row | Mapping[str, JSON]) -> Row:
        """Add a row.

        Raises:
            DuplicateKey: the key exists.
            InvalidPayload: the row does not fit the model.
        """
        checked = self._checked(row)
        key = self._key(checked)
        return self._effects.on_loop(lambda: self._insert(key, checked))

    def upsert(self, row: Row | Mapping[str, JSON]) -> Row:
        """Add a row or put it in the place of the one with its key."""
        checked = self._checked(row)
        return self._stage(Operation.UPSERT, self._key(checked), checked)

    def update(
        self, key: str, change: Callable[[Row], None] | None = None, /, **changed: JSON
    ) -> Row:
        """Change a row, by a function that mutates it or by the fields given.

        Raises:
            MissingKey: no such row.
            InvalidPayload: the changed row does not fit the model.
        """
        return self._effects.on_loop(lambda: self._update(key, change, changed))

    def _update(
        self, key: str, change: Callable[[Row], None] | None, changed: Mapping[str, JSON]
    ) -> Row:
        draft = self.get(key).model_copy(deep=True)
        if change is not None:
            change(draft)
        checked = self._checked(draft.model_dump(mode="json") | dict(changed))
        if self._key(checked) != key:
            message = f"update of {key!r} in {self.name!r} would change its key; insert a new row"
            raise InvalidPayload(message, field="key")
        return self._stage(Operation.UPDATE, key, checked)

    def delete(self, key: str) -> None:
        """Remove a row.

        Raises:
            MissingKey: no such row.
        """
        self._effects.on_loop(lambda: self._delete(key))

    def _delete(self, key: str) -> None:
        self.get(key)
        draft = Draft(type=self._type, key=key, operation=Operation.DELETE)
        self._effects.stage("delete", f"{self._type}/{key}", content=None, drafts=[draft])

    def get(self, key: str) -> Row:
        """The row of that key.

        Raises:
            MissingKey: no such row.
        """
        text = self._effects.row(self._type, key)
        if text is None:
            message = f"collection {self.name!r} has no row {key!r}"
            raise MissingKey(message, collection=self.name, key=key)
        return self._model.model_validate(decode(text))

    def __contains__(self, key: str) -> bool:
        return self._effects.row(self._type, key) is not None

    def __len__(self) -> int:
        return len(self._effects.rows(self._type))

    def list(self) -> list[Row]:
        """All rows, in the order of their first writing."""
        texts = self._effects.rows(self._type).values()
        return [self._model.model_validate(decode(text)) for text in texts]

    def _checked(self, row: Row | Mapping[str, JSON]) -> Row:
        value = row.model_dump(mode="json") if isinstance(row, BaseModel) else row
        return validated(self._model, value, what=f"a row of {self.name!r}")

    def _key(self, row: Row) -> str:
        key: Any = getattr(row, "key")  # noqa: B009 - the definition checked that it has one
        if not isinstance(key, str) or not key:
            message = f"a row of {self.name!r} needs a non-empty string `key`, not {key!r}"
            raise InvalidPayload(message, field="key")
        return key

    def _insert(self, key: str, row: Row) -> Row:
        if not self._effects.repeats() and key in self:
            message = f"collection {self.name!r} already has a row {key!r}; update it instead"
            raise DuplicateKey(message, collection=self.name, key=key)
        return self._stage(Operation.INSERT, key, row)

    def _stage(self, operation: Operation, key: str, row: Row) -> Row:
        value = row.model_dump(mode="json")
        draft = Draft.of(self._type, key, value=value, operation=operation)
        self._effects.stage(operation.value, f"{self._type}/{key}", content=value, drafts=[draft])
        return row


class Collections:
    """``ctx.state``: the collections of an entity by name, as attributes or items."""

    def __init__(self, models: Mapping[str, type[BaseModel]], effects: Effects) -> None:
        self._by_name: dict[str, Collection[Any]] = {
            name: Collection(name, model, effects=effects) for name, model in models.items()
        }

    def __getattr__(self, name: str) -> Collection[Any]:
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(sorted(self._by_name)) or "none"
            message = f"no state collection {name!r}; this type declares: {known}"
            raise AttributeError(message) from None

    def __getitem__(self, name: str) -> Collection[Any]:
        return getattr(self, name)

    def __dir__(self) -> list[str]:
        return sorted(self._by_name)
