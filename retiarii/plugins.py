"""Classes of users by name: strategies and schedulers are found, checked and made alike."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from retiarii.errors import RetiariiError, nearest

T = TypeVar("T")

_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Family(Generic[T]):
    """What is found by name.

    Attributes:
        noun: one of them, for errors.
        base: their base class.
        error: what is raised.
        known: ours by name, each as ``module:Class``: a class is imported when it is asked for.
        group: the entry points by which installed packages offer some; ``None``: they cannot.
        example: how options are written.
    """

    noun: str
    base: type[T]
    error: Callable[..., RetiariiError]
    known: Mapping[str, str]
    group: str | None
    example: str

    def make(self, spec: str | T, options: Mapping[str, Any]) -> T:
        """The one that ``spec`` says.

        Args:
            spec: a name or ``module:Class``, options after it (``"asha,eta=4"``); or one that is
                made already.
            options: further options.

        Raises:
            RetiariiError: of the family's own kind: no such name, module or class; an entry point
                that does not load, or that several packages offer; an unknown option, or a value
                out of range; options for one that is made already.
        """
        if isinstance(spec, self.base):
            if options:
                raise self.error(
                    f"options {sorted(options)} were given for a {self.noun} that is made already",
                    fix=f"give them to {type(spec).__name__}(...)",
                )
            return spec
        if not isinstance(spec, str):
            known = f"give one of {', '.join(sorted(self.known))}, module:Class, or an instance"
            hint = "give an instance: add ()" if inspect.isclass(spec) else known
            raise self.error(f"{spec!r} is not a {self.noun}", fix=hint)
        name, *parts = (part.strip() for part in spec.split(","))
        given = dict(options) | dict(self._option(part, spec) for part in parts)
        place = self._place(name)
        kind = self._load(place)
        self._check_options(name, spec, kind, given)
        try:
            return kind(**given)
        except RetiariiError:
            raise
        except Exception as error:
            raise self.error(
                f"{kind.__name__}() failed: {type(error).__name__}: {error}", where=place
            ) from error

    def _option(self, part: str, spec: str) -> tuple[str, Any]:
        name, equals, text = (each.strip() for each in part.partition("="))
        if equals and text in _WORDS:
            return name, _WORDS[text]
        for kind in (int, float) if equals else ():
            try:
                return name, kind(text)
            except ValueError:
                continue
        raise self.error(
            f"{part!r} is not an option with a number",
            where=spec,
            fix=f"write it so: {self.example}",
        )

    def _place(self, name: str) -> str:
        """``module:Class`` of a name; ours come first, and no package changes what they mean."""
        place = self.known.get(name, name)
        if ":" in place:
            return place
        offered: Iterable[EntryPoint] = entry_points(group=self.group) if self.group else ()
        matching = {point.value: point for point in offered if point.name == name}
        if len(matching) > 1:
            raise self.error(
                f"several packages offer a {self.noun} {name!r}: {', '.join(sorted(matching))}",
                where=f"entry points of the group {self.group!r}",
                fix="name the one that is meant as module:Class",
            )
        if not matching:
            names = sorted({*self.known, *(point.name for point in offered)})
            raise self.error(
                f"there is no {self.noun} {name!r}",
                fix=f"{nearest(name, names)}; or module:Class for your own",
            )
        (point,) = matching.values()
        return self._checked(point)

    def _checked(self, point: EntryPoint) -> str:
        """``module:Class`` of an entry point, which is loaded as what is written like that."""
        module, attribute = point.value.partition(":")[::2]
        if not module or not attribute or "[" in attribute:
            raise self.error(
                f"the entry point {point.name!r} is {point.value!r}, which is no module:Class",
                where=self._origin(point),
                fix=f'write {point.name} = "module:Class" in its package',
            )
        place = f"{module.strip()}:{attribute.strip()}"
        try:
            self._load(place)
        except RetiariiError as error:
            raise self.error(
                f"the entry point {point.name!r} does not load: {error.cause}",
                where=self._origin(point),
                fix=error.fix,
            ) from error
        return place

    def _origin(self, point: EntryPoint) -> str:
        package = f" of {point.dist.name}" if point.dist is not None else ""
        return f"entry point {point.name!r} in {self.group!r}{package}"

    def _load(self, place: str) -> type[T]:
        module_name, _, class_name = place.partition(":")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # a user's module may raise anything
            raise self.error(
                f"the module {module_name!r} of {self.noun} {place!r} cannot be imported: "
                f"{type(error).__name__}: {error}",
                where=place,
                fix="check its name, and that it is installed or beside the space file",
            ) from error
        kind = getattr(module, class_name, None)
        if not inspect.isclass(kind) or not issubclass(kind, self.base):
            found = [
                name
                for name, value in vars(module).items()
                if inspect.isclass(value)
                and issubclass(value, self.base)
                and not inspect.isabstract(value)
            ]
            base = f"{self.base.__module__}.{self.base.__name__}"
            raise self.error(
                f"{module_name!r} has no {self.noun} class {class_name!r}",
                where=place,
                fix=nearest(class_name, found) if found else f"write a subclass of {base} there",
            )
        if inspect.isabstract(kind):
            missing = ", ".join(sorted(getattr(kind, "__abstractmethods__", ())))
            raise self.error(
                f"{class_name} does not define {missing}", where=place, fix="write the methods"
            )
        return kind

    def _check_options(
        self, name: str, spec: str, kind: type[T], options: Mapping[str, Any]
    ) -> None:
        parameters = inspect.signature(kind).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for option in options:
            if option not in parameters:
                raise self.error(
                    f"{self.noun} {name!r} has no option {option!r}",
                    where=spec,
                    fix=nearest(option, list(parameters)) if parameters else "it takes no options",
                )
