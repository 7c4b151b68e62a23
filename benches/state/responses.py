"""How long stored responses take to write and to find, one of few and one of 100,000.

    python benches/state/responses.py [--responses 100000] [--output FILE]

Each is an answer of 300 words to a question of 60, in conversations of ten turns. The figures are
medians, and what 99 of 100 calls take at most, in milliseconds; the work of the thread is in them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.state import Bounds, Database, Page, Responses, Submission

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALLS = 500
FEW = 100
TURNS = 10
TARGET_MILLISECONDS = 5.0


def name(number: int) -> str:
    """The ID of a response, as long as OpenAI's."""
    return f"resp_{number:048x}"


def make(number: int, words: list[str]) -> Submission:
    """A response that nothing else is like."""
    chosen = random.Random(number)
    answer = " ".join(chosen.choices(words, k=300))
    question = " ".join(chosen.choices(words, k=60))
    said = {"type": "output_text", "text": answer, "annotations": []}
    asked = {"type": "input_text", "text": question}
    message = {"id": f"msg_{number:048x}", "type": "message", "status": "completed"}
    response = {
        "id": name(number),
        "object": "response",
        "status": "completed",
        "model": "ai/smollm2",
        "output": [{**message, "role": "assistant", "content": [said]}],
    }
    previous = name(number - 1) if number % TURNS else None
    return Submission(
        name(number), response, [{**message, "role": "user", "content": [asked]}], previous
    )


async def measure(call: Callable[[int], Awaitable[object]], numbers: list[int]) -> list[float]:
    """The median and the 99th percentile of a call, in milliseconds."""
    await call(numbers[0])
    times = []
    for number in numbers:
        begun = time.perf_counter()
        await call(number)
        times.append((time.perf_counter() - begun) * 1000)
    return [statistics.median(times), statistics.quantiles(times, n=100)[-1]]


async def figures_of(directory: Path, counts: list[int]) -> dict[str, dict[str, list[float]]]:
    """What each call takes when so many are stored."""
    words = Path(__file__).parents[2].joinpath("README.md").read_text().split()
    bounds = Bounds(seconds=30 * 86400.0, count=max(counts) + CALLS * len(counts), bytes=2**40)
    responses = Responses(Database(directory), bounds)
    figures: dict[str, dict[str, list[float]]] = {}
    stored = 0

    async def put(number: int) -> None:
        await responses.put(make(number, words))

    for count in counts:
        while stored < count:
            await put(stored)
            stored += 1
        chosen = random.Random(count)
        numbers = [chosen.randrange(count) for _ in range(CALLS)]
        figures[f"{count:,}"] = {
            "get": await measure(lambda number: responses.get(name(number)), numbers),
            "history": await measure(
                lambda number: responses.history(name(number), limit=2**30), numbers
            ),
            "input_items": await measure(
                lambda number: responses.input_items(name(number), Page()), numbers
            ),
            "put": await measure(put, list(range(stored, stored + CALLS))),
        }
        stored += CALLS
    await responses.close()
    return figures


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--responses", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        figures = asyncio.run(figures_of(root, [FEW, arguments.responses]))
        size = sum(path.stat().st_size for path in root.glob("state.db*"))
    for count, calls in figures.items():
        for call, (median, slow) in calls.items():
            print(f"{count:>8}  {call:<12} {median:7.3f} ms, 99 %: {slow:7.3f} ms")
    print(f"{size:,} bytes on disk")
    kept = all(calls["get"][0] <= TARGET_MILLISECONDS for calls in figures.values())
    print(f"{'kept' if kept else 'NOT kept'}: {TARGET_MILLISECONDS} ms to get one")
    if arguments.output:
        arguments.output.write_text(json.dumps({**figures, "bytes": size}, indent=2) + "\n")


if __name__ == "__main__":
    main()
