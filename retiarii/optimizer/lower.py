"""Pass 5, lower: the plan as straight-line Python over stacked tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retiarii.ir.build.expressions import Names
from retiarii.optimizer.apart import apart_call, single_call
from retiarii.optimizer.forest import SHARED, Port, shown
from retiarii.optimizer.gathering import gathered_call, gathered_sum
from retiarii.optimizer.lift import is_random, written
from retiarii.optimizer.plan import Group, Plan
from retiarii.optimizer.routes import Piece, Read, Routes, Source, route
from retiarii.optimizer.rules.base import Form, Fusion, Lowering
from retiarii.optimizer.rules.registry import lower_group
from retiarii.optimizer.storage import Storage
from retiarii.optimizer.sums import inlined, is_sum

_INDENT = "    "
_PLACEHOLDER = re.compile(r"\$(\d+|streams)")
_DIM = {Form.MEMBERS: 0, Form.CHANNELS: 1}


@dataclass(frozen=True, slots=True)
class Code:
    """A lowered plan.

    Attributes:
        source: a function ``run(self, inputs)`` that returns the output stacks, in the form of
            members (plain where all models share the output).
        templates: the items whose layers are called as they are: entries of ``self.templates``.
        copies: how many pieces are copied to bring members together.
        scope: what the source uses besides torch, by name.
    """

    source: str
    templates: tuple[int, ...]
    copies: int
    scope: Mapping[str, Any]


def lower(plan: Plan, storage: Storage) -> Code:
    """Writes the program of a plan."""
    return _Writer(plan, storage).write()


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    form: Form
    members: int


class _Writer:
    def __init__(self, plan: Plan, storage: Storage) -> None:
        self._plan, sums = inlined(plan)
        self._items = plan.forest.items
        self._storage = storage
        self._routes: Routes = route(self._plan, storage, sums)
        self._names = Names({"self", "inputs", "batch", "device", "kernels"})
        self._inputs = {
            i: self._names.new(item.name)
            for i, item in enumerate(self._items)
            if item.leaf is not None and item.leaf.kind == "input"
        }
        self._variables: dict[Source, _Variable] = {}
        self._slices: dict[tuple[Source, int, int], str] = {}
        self._templates: list[int] = []
        self._scope: dict[str, Any] = {}
        self._helpers: dict[str, str] = {}
        self._copies = 0
        # What several groups read in the same order, gathered once: the last of these groups.
        self._repeated = self._routes.repeated()
        self._once: dict[Read, _Variable] = {}

    def write(self) -> Code:
        body = [*self._head(), *self._stacks()]
        dying: dict[int, list[Source]] = {}
        for source, when in self._routes.last.items():
            if source.stack is None and when < len(self._plan.groups):
                dying.setdefault(when, []).append(source)
        for g, group in enumerate(self._plan.groups):
            body += self._group(g, group)
            body += self._drop(g, dying.get(g, ()))
        body += self._return()
        text = "".join(f"{helper}\n" for helper in self._helpers.values())
        text += "def run(self, inputs):\n" + "".join(f"{_INDENT}{line}\n" for line in body)
        return Code(text, tuple(self._templates), self._copies, self._scope)

    # --- leaves -------------------------------------------------------------------------------

    def _head(self) -> Iterator[str]:
        names = list(self._inputs.values())
        if not names:
            return
        yield f"{', '.join(names)}{',' * (len(names) == 1)} = inputs"
        yield f"batch = {names[self._plan.forest.batch_input]}.shape[0]"
        yield f"device = {names[0]}.device"

    def _stacks(self) -> Iterator[str]:
        """Slices of stacks that several groups read in part; the others are read as they are."""
        for source in self._routes.needs:
            if source.stack is None:
                continue
            stack = self._storage.stacks[source.stack]
            form = Form.PLAIN if stack.plain else Form.MEMBERS
            self._variables[source] = _Variable(f"self.{stack.name}", form, len(stack.homes))
            if stack.trainable:
                yield from self._cut(source)

    def _cut(self, source: Source) -> Iterator[str]:
        """Names the slices that readers take of a value."""
        variable = self._variables[source]
        ranges = self._routes.needs.get(source, ())
        if variable.form is Form.PLAIN or all(r == (0, variable.members) for r in ranges):
            return
        base = variable.name.removeprefix("self.")
        names = [self._names.new(f"{base}_{a}_{b}") for a, b in ranges]
        for (a, b), name in zip(ranges, names, strict=True):
            self._slices[source, a, b] = name
        listed = ", ".join(names) + "," * (len(names) == 1)
        yield (
            f"{listed} = kernels.parts({variable.name}, {_DIM[variable.form]}, "
            f"{variable.members}, {ranges})"
        )

    # --- groups -------------------------------------------------------------------------------

    def _group(self, g: int, group: Group) -> Iterator[str]:
        item = self._items[group.members[0]]
        yield from self._gather_once(g, group)
        lowering = self._lowering(g, group)
        gathered = self._gathered(g, group, lowering)
        if gathered is not None:
            lowering = gathered
        texts, after = [], []
        for j, form in enumerate(lowering.inputs):
            text, lines = self._input(g, j, group, form)
            texts.append(text)
            if lines is not None:
                yield lines[0]
                after.append(lines[1])
        yield f"# {self._comment(group)}"
        for j, text in enumerate(texts):
            if not text.isidentifier() and lowering.text.count(f"${j}") > 1:
                texts[j] = self._names.new(f"joined{g}_{j}")
                yield f"{texts[j]} = {text}"
        names = [
            self._names.new(f"{item.call.op}{g}" + (f"_{r}" if r else ""), "value")
            for r in range(len(item.call.results))
        ]
        streams = self._streams(group)
        text = _PLACEHOLDER.sub(
            lambda found: streams if found[1] == "streams" else texts[int(found[1])], lowering.text
        )
        target = ", ".join(names)
        if item.call.result is not None or len(names) != 1:
            target += "," * (len(names) == 1)
        indent = _INDENT if group.no_grad else ""
        if group.no_grad:
            yield "with torch.no_grad():"
        yield f"{indent}{target} = {text}" if names else f"{indent}{text}"
        yield from after
        shared = item.owner == SHARED
        for r, name in enumerate(names):
            source = Source(g, r)
            form = lowering.results[r]
            if shared and form is not Form.PLAIN:
                if form is Form.MEMBERS:
                    yield f"{name} = {name}[0]"
                form = Form.PLAIN
            self._variables[source] = _Variable(name, form, len(group.members))
            yield from self._cut(source)

    def _lowering(self, g: int, group: Group) -> Lowering:
        item = self._items[group.members[0]]
        made = single_call(item) if len(group.members) == 1 else None
        if made is not None or not group.fused:
            made = made or apart_call(item, len(self._templates))
            self._scope.update(made.scope)
            self._helpers.update(made.helpers)
            if made.template:
                self._templates.append(group.members[0])
            return Lowering(
                made.text, (Form.PLAIN,) * len(item.inputs), (Form.PLAIN,) * len(item.call.results)
            )
        forms = tuple(self._form(g, j, shared) for j, shared in enumerate(group.shared))
        fusion = Fusion(group.call, len(group.members), group.shared, forms)
        found = lower_group(fusion)
        assert found is not None
        return found

    def _gathered(self, g: int, group: Group, lowering: Lowering) -> Lowering | None:
        """The group in one pass with bringing its members together, where there is such a way."""
        asked = set(lowering.inputs)
        found = [self._routes.read(g, j) for j in range(len(lowering.inputs))]
        if len(asked) != 1 or any(group.shared):
            return None
        (form,) = asked
        if form is Form.PLAIN or lowering.results != (form,):
            return None
        if any(self._stacked(p, form) is not form for read in found for p in read.pieces):
            return None
        if any(read in self._once for read in found) or all(read.whole for read in found):
            return None
        if is_sum(self._items[group.members[0]], self._items):
            text = gathered_sum(
                _DIM[form], [a for read in found for a in self._addends(read, form)]
            )
        elif any(read.added for read in found):
            return None
        else:
            pieces = [[self._as(p, form) for p in read.first] for read in found]
            made = gathered_call(_DIM[form], pieces, group.call)
            if made is None:
                return None
            text = made
        self._copies += sum(len(read.first) for read in found if not read.whole)
        return Lowering(text, (), lowering.results)

    def _addends(self, read: Read, form: Form) -> Iterator[tuple[int, int, str]]:
        for at, piece in read.addends:
            yield at, at + piece.stop - piece.start, self._as(piece, form)

    def _stacked(self, piece: Piece, asked: Form) -> Form:
        """A piece's form; one member that is called as torch calls it is in any."""
        form = self._variables[piece.source].form
        return asked if form is Form.PLAIN else form

    def _as(self, piece: Piece, asked: Form) -> str:
        form = self._variables[piece.source].form
        return _converted(self._slice(piece), form, asked, piece.stop - piece.start)

    def _form(self, g: int, j: int, shared: bool) -> Form:
        if shared:
            return Form.PLAIN
        forms = {self._variables[p.source].form for p in self._routes.read(g, j).pieces}
        forms.discard(Form.PLAIN)
        return forms.pop() if len(forms) == 1 else Form.MEMBERS

    def _comment(self, group: Group) -> str:
        items = self._items
        who = [f"{items[m].owner}:{items[m].name}" for m in group.members[:4]]
        if items[group.members[0]].owner == SHARED:
            return f"shared, {shown(items[group.members[0]])}: {items[group.members[0]].name}"
        more = f" and {len(group.members) - 4} more" if len(group.members) > 4 else ""
        return f"{len(group.members)} x {shown(items[group.members[0]])}: {', '.join(who)}{more}"

    def _streams(self, group: Group) -> str:
        if not is_random(self._items[group.members[0]].call):
            return "None"
        owners = [max(self._items[m].owner, 0) for m in group.members]
        return f"[self.streams[i].generator for i in {tuple(owners)}]"

    # --- reading ------------------------------------------------------------------------------

    def _input(
        self, g: int, j: int, group: Group, asked: Form
    ) -> tuple[str, tuple[str, str] | None]:
        """An expression for an input; and, for written buffers in pieces, lines around the call."""
        size = len(group.members)
        port = self._items[group.members[0]].inputs[j]
        if port.item in self._inputs:
            return self._shared_as(self._inputs[port.item], asked, size), None
        read = self._routes.read(g, j)
        found = read.first
        if group.shared[j]:
            return self._shared_as(self._plain(found[0]), asked, size), None
        if len(found) > 1 and port.item in written(self._items[group.members[0]], self._items):
            name = self._names.new(f"written{g}_{j}")
            homes = [self._slice(piece) for piece in found]
            self._copies += len(found)
            joined = f"{name} = torch.cat(({', '.join(homes)}))"
            return name, (joined, f"kernels.write_back({name}, ({', '.join(homes)}))")
        return self._joined(read, asked, size), None

    def _plain(self, piece: Piece) -> str:
        """The one member that all models share."""
        variable = self._variables[piece.source]
        return variable.name if variable.form is Form.PLAIN else f"{variable.name}[{piece.start}]"

    def _shared_as(self, text: str, asked: Form, size: int) -> str:
        if asked is Form.PLAIN:
            return text
        if asked is Form.CHANNELS:
            return text if size == 1 else f"kernels.spread({text}, {size})"
        return f"{text}.unsqueeze(0)" if size == 1 else f"kernels.expand({text}, {size})"

    def _gather_once(self, g: int, group: Group) -> Iterator[str]:
        """Gathers what later groups read in the same order."""
        for j, shared in enumerate(group.shared):
            read = self._routes.read(g, j)
            if shared or read in self._once or self._repeated.get(read, g) <= g:
                continue
            form = self._form(g, j, shared)
            name = self._names.new(f"gathered{g}_{j}")
            yield f"{name} = {self._joined(read, form, len(group.members))}"
            self._once[read] = _Variable(name, form, len(group.members))

    def _joined(self, read: Read, asked: Form, size: int) -> str:
        if read in self._once:
            once = self._once[read]
            return _converted(once.name, once.form, asked, size)
        if read.whole:
            (piece,) = read.first
            return _converted(self._slice(piece), self._variables[piece.source].form, asked, size)
        self._copies += len(read.first)
        forms = {self._variables[p.source].form for p in read.pieces}
        common = forms.pop() if len(forms) == 1 else asked
        if common is Form.PLAIN:
            common = Form.MEMBERS if asked is Form.PLAIN else asked
        if read.added:
            joined = gathered_sum(_DIM[common], list(self._addends(read, common)))
        else:
            texts = [self._as(p, common) for p in read.first]
            joined = f"torch.cat(({', '.join(texts)}){', 1' if common is Form.CHANNELS else ''})"
        return _converted(joined, common, asked, size)

    def _slice(self, piece: Piece) -> str:
        variable = self._variables[piece.source]
        if variable.form is Form.PLAIN or (piece.start, piece.stop) == (0, variable.members):
            return variable.name
        known = self._slices.get((piece.source, piece.start, piece.stop))
        if known is not None:
            return known
        return f"{variable.name}[{piece.start}:{piece.stop}]"  # stacks that take no gradient

    # --- the end ------------------------------------------------------------------------------

    def _drop(self, g: int, dying: Sequence[Source]) -> Iterator[str]:
        """Lets go of what nobody reads again."""
        names: list[str] = []
        for found, last in self._repeated.items():
            if last == g and found in self._once:
                names.append(self._once[found].name)
        for source in dying:
            names.append(self._variables[source].name)
            names += [
                self._slices[source, a, b]
                for a, b in self._routes.needs[source]
                if (source, a, b) in self._slices
            ]
        for r in range(len(self._plan.groups[g].call.results)):
            source = Source(g, r)
            if source not in self._routes.last:
                names.append(self._variables[source].name)
        if names:
            yield f"del {', '.join(dict.fromkeys(names))}"

    def _return(self) -> Iterator[str]:
        texts = []
        for out, found in zip(self._plan.outputs, self._routes.outputs, strict=True):
            if not found:
                texts.append(self._inputs[out.ports[0].item])
            elif self._is_shared(out.ports[0]):
                texts.append(self._variables[found[0].source].name)
            else:
                texts.append(self._joined(Read(found), Form.MEMBERS, len(out.ports)))
        for stack, ways in self._untouched():
            for i, out in enumerate(self._plan.outputs):
                if ways >> out.position & 1 and out.type.dtype.is_floating_point:
                    texts[i] = f"kernels.touch({texts[i]}, self.{stack})"
                    break
        yield f"return ({', '.join(texts)}{',' * (len(texts) == 1)})"

    def _untouched(self) -> Iterator[tuple[str, int]]:
        """Stacks that get a gradient of zeros from some outputs, and that no code leads to."""
        forest = self._plan.forest
        places = self._storage.of(forest)
        members: dict[int, list[int]] = {}
        for leaf, (stack, _) in places.items():
            if self._storage.stacks[stack].trainable:
                members.setdefault(stack, []).append(forest.lost.get(leaf, 0))
        for stack, lost in members.items():
            if all(lost):
                yield self._storage.stacks[stack].name, lost[0]

    def _is_shared(self, port: Port) -> bool:
        return self._items[port.item].owner == SHARED


def _converted(text: str, form: Form, asked: Form, members: int) -> str:
    """An expression for the tensor in another form; ``PLAIN`` is one member."""
    if form is asked:
        return text
    if members == 1 and Form.PLAIN in (form, asked) and Form.CHANNELS in (form, asked):
        return text
    if asked is Form.PLAIN:
        return f"{text}.squeeze(0)"
    if form is Form.PLAIN:
        return f"{text}.unsqueeze(0)"
    if asked is Form.CHANNELS:
        return f"kernels.to_channels({text})"
    return f"kernels.to_members({text}, {members})"
