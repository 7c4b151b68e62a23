"""The order of things: which visits a round has, and who is visited."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dialects
import judging
import leaving
import real
import slots
import special
import stuck
import syscalls
import targets
import visits as simple
from processes import BenchError
from registry import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from loads import Figures, Visitor
    from report import Run
    from targets import Engine, Target

# Of all targets, those that are not visited `often` in every other round only.
OF_ALL: dict[str, Callable[[Visitor, Target], Figures]] = {
    "requests": simple.requests,
    "latency": simple.latency,
    "paced": simple.paced,
    "saturated": simple.saturated,
    "ttft": simple.first_event,
}
REAL = ("real", "slots")
VISITS = (*OF_ALL, "dialects", "memory", "syscalls", "prompt", "gil", "cancel", "stuck", *REAL)


def visits(wanted: str, *, quick: bool) -> tuple[str, ...]:
    """The names of visits that were asked for.

    Raises:
        BenchError: There is no such visit.
    """
    if wanted == "all":
        return tuple(name for name in VISITS if not (quick and name in REAL))
    names = tuple(wanted.split(","))
    for name in names:
        if name not in VISITS:
            raise BenchError(f"`{name}` is none of {', '.join(VISITS)}")
    return names


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    visitor: Visitor
    peers: list[str]
    visits: tuple[str, ...]
    rounds: int


@dataclass(slots=True)
class Scene:
    """Everybody who is up all the time."""

    engine: Engine
    standing: list[Target]


def carried_out(plan: Plan, run: Run) -> Iterator[None]:
    """All rounds, one after the other; a step each."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        scene = _set(plan, Path(name), run, stack)
        for number in range(plan.rounds):
            passed = time.monotonic() - start
            print(f"round {number + 1} of {plan.rounds} ({passed:.0f} s)", file=sys.stderr)
            run.rounds.append(Round(plan, scene, run, number).figures())
            yield
    print(f"done ({time.monotonic() - start:.0f} s)", file=sys.stderr)


def _set(plan: Plan, directory: Path, run: Run, stack: ExitStack) -> Scene:
    engine = stack.enter_context(targets.engine(plan.visitor.load, directory))
    standing = [stack.enter_context(targets.direct(engine))]
    for name in list(plan.peers):
        if target := _start(name, engine, plan, run, stack):
            standing.append(target)
        else:
            plan.peers.remove(name)
    return Scene(engine, standing)


def _start(name: str, engine: Engine, plan: Plan, run: Run, stack: ExitStack) -> Target | None:
    try:
        target = stack.enter_context(PEERS[name].start(engine))
        _warm_up(plan.visitor, target)
    except BenchError as error:
        if name == targets.OURS:
            raise
        run.absent[name] = str(error)
        print(f"without {name}: {error}", file=sys.stderr)
        return None
    return target


def _warm_up(visitor: Visitor, target: Target) -> None:
    """Fill pools and caches, and fail early."""
    visitor.run(target, "json", connections=target.some(32), duration=0.3)
    visitor.run(target, "sse", streams=target.some(8), rate=0, events=100, duration=0.2)


@dataclass(frozen=True, slots=True)
class Round:
    """One round."""

    plan: Plan
    scene: Scene
    run: Run
    number: int

    def figures(self) -> dict[str, Figures]:
        """Every figure of every target; for each figure, all targets one right after the other."""
        engine = self.scene.engine
        found: dict[str, Figures] = {target.name: {} for target in self.scene.standing}
        for name, visit in OF_ALL.items():
            self._each(found, name, visit, self._present())
        often = [target for target in self._present() if self._is_often(target)]
        if "prompt" in self.plan.visits:
            for name, figures in special.large_prompts(self.plan.visitor, often).items():
                found[name] |= figures
        self._each(found, "cancel", partial(leaving.streams, engine), self._present())
        self._each(found, "cancel", partial(leaving.whole_answers, engine), often)
        ours = [target for target in often if target.name == targets.OURS]
        self._each(found, "dialects", dialects.translated, ours)
        self._each(found, "gil", special.held_gil, ours)
        self._syscalls(found, ours if self.number else often)
        self._afresh(found, "memory", partial(simple.memory, engine))
        self._afresh(found, "stuck", partial(stuck.stuck, engine))
        self._real(found)
        judging.add_differences(found)
        return found

    def _present(self) -> list[Target]:
        """Nobody is always the first, or always after the same neighbour."""
        standing = self.scene.standing
        start = self.number % len(standing)
        turned = standing[start:] + standing[:start]
        return [target for target in turned if self._is_often(target) or not self._odd()]

    @staticmethod
    def _is_often(target: Target) -> bool:
        return target.pid is None or PEERS[target.name].often

    def _each(
        self,
        found: dict[str, Figures],
        name: str,
        visit: Callable[[Visitor, Target], Figures],
        whom: Iterable[Target],
    ) -> None:
        for target in whom if name in self.plan.visits else ():
            found[target.name] |= self._visit(name, visit, target)

    def _visit(
        self, name: str, visit: Callable[[Visitor, Target], Figures], target: Target
    ) -> Figures:
        try:
            return visit(self.plan.visitor, target)
        except BenchError as error:
            self._note(target.name, name, error)
            return {}

    def _note(self, target: str, visit: str, error: BenchError) -> None:
        # Others may fail, visibly. Without these two there is nothing to compare.
        if target in (targets.BARE, targets.OURS) and visit != "syscalls":
            raise error
        self.run.failures[f"{target}: {visit}"] = str(error)
        print(f"{target}: {visit} failed: {error}", file=sys.stderr)

    def _syscalls(self, found: dict[str, Figures], whom: list[Target]) -> None:
        if "syscalls" in self.plan.visits and syscalls.strace() is None:
            self.run.absent["system calls"] = "strace is not here: apt-get install strace"
            return
        self._each(found, "syscalls", syscalls.syscalls, whom)

    def _afresh(
        self, found: dict[str, Figures], visit: str, of: Callable[[Visitor, Target], Figures]
    ) -> None:
        """Needs processes that nobody has used: what a burst took may not be given back."""
        chosen = self.plan.peers if visit in self.plan.visits else []
        if visit == "stuck":
            # A router that takes all that an engine has, whoever reads it, is never stuck.
            chosen = [name for name in chosen if PEERS[name].often]
        for name in chosen:
            # It differs by little from one round to the next, and costs up to 20 s.
            if name == targets.OURS or not self.number or (PEERS[name].often and not self._odd()):
                found[name] |= self._visit_afresh(name, visit, of)

    def _visit_afresh(
        self, name: str, visit: str, of: Callable[[Visitor, Target], Figures]
    ) -> Figures:
        try:
            with PEERS[name].start(self.scene.engine) as fresh:
                return of(self.plan.visitor, fresh)
        except BenchError as error:
            self._note(name, visit, error)
            return {}

    def _odd(self) -> bool:
        return self.number % 2 == 1

    def _real(self, found: dict[str, Figures]) -> None:
        wanted = [name for name in REAL if name in self.plan.visits]
        if not wanted:
            return
        if real.program() is None:
            self.run.absent["a real engine"] = "no llama-server on PATH or in LLAMA_SERVER_PATH"
            return
        # Started for the round, so that the other visits have the machine for themselves.
        with tempfile.TemporaryDirectory(prefix="bench-real-") as name:
            directory = Path(name)
            for model in real.models(directory):
                with real.standing(model, directory) as whom:
                    for visit in wanted:
                        figures = self._real_visit(visit, whom, model)
                        for target, of_target in figures.items():
                            found.setdefault(target, {}).update(of_target)

    def _real_visit(self, visit: str, whom: list[Target], model: real.Model) -> dict[str, Figures]:
        if visit == "real":
            return real.generation(self.plan.visitor, whom, model)
        # A model that is fast: the other slot's tokens come without a pause.
        return slots.freed(self.plan.visitor, whom, model) if model.label == "tiny" else {}
