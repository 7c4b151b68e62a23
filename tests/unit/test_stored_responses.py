"""Stored responses: chains, bounds, several servers, and files that cannot be used."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import asynccontextmanager, closing

import pytest

from model_runner.errors import (
    CannotCancel,
    PreviousResponseNotFound,
    PreviousResponseUnfinished,
    RequestTooLarge,
    ResponseNotFound,
    StateError,
    StateFull,
)
from model_runner.state import Bounds, Database, Page, Responses, Submission
from model_runner.state.schema import MIGRATIONS

DAY = 86400.0
BOUNDS = Bounds(seconds=30 * DAY, count=1000, bytes=2**30)


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        self.now += 0.001  # no two moments are the same
        return self.now


@asynccontextmanager
async def opened(directory, bounds=BOUNDS, clock=None):
    responses = Responses(Database(directory), bounds, clock=clock or Clock())
    try:
        yield responses
    finally:
        await responses.close()


def message(text, role="user"):
    return {"type": "message", "role": role, "content": text, "id": f"msg_{role}_{text}"}


def answer(number, previous=None, **fields):
    """A response to the question of a number."""
    response_id = f"resp_{number}"
    made = {
        "id": response_id,
        "object": "response",
        "status": "completed",
        "output": [message(f"answer {number}", "assistant")],
        **fields,
    }
    before = None if previous is None else f"resp_{previous}"
    return Submission(response_id, made, [message(f"question {number}")], before)


async def texts(responses, response_id, limit=10**6):
    items = await responses.history(response_id, limit=limit)
    return [
        item["content"][0]["text"] if isinstance(item["content"], list) else item["content"]
        for item in items
    ]


def rows(directory, query="SELECT id FROM responses ORDER BY number"):
    with closing(sqlite3.connect(directory / "state.db")) as connection:
        return [row[0] for row in connection.execute(query)]


def test_a_response_comes_back_as_it_was(tmp_path):
    whole = {"text": "ä\u2028😀\udc80", "count": 1.5, "nothing": None, "large": "x" * 5000}

    async def main():
        async with opened(tmp_path) as responses:
            await responses.put(answer(1, **whole))
        async with opened(tmp_path) as responses:
            return json.loads(await responses.get("resp_1"))

    assert asyncio.run(main()) == {**answer(1).response, **whole}
    assert (tmp_path / "state.db").stat().st_mode & 0o777 == 0o600


def test_a_chain_is_told_oldest_first(tmp_path):
    async def main():
        async with opened(tmp_path) as responses:
            for number in range(4):
                await responses.put(answer(number, number - 1 if number else None))
            await responses.put(answer("fork", 1))
            return await texts(responses, "resp_3"), await texts(responses, "resp_fork")

    straight, fork = asyncio.run(main())
    assert straight == [f"{word} {n}" for n in range(4) for word in ("question", "answer")]
    assert fork[-2:] == ["question fork", "answer fork"]
    assert fork[:4] == straight[:4]


def test_a_chain_without_its_middle_names_what_is_missing(tmp_path):
    async def main():
        async with opened(tmp_path) as responses:
            for number in range(3):
                await responses.put(answer(number, number - 1 if number else None))
            await responses.delete("resp_1")
            with pytest.raises(PreviousResponseNotFound) as caught:
                await responses.history("resp_2", limit=10**6)
            assert await texts(responses, "resp_0")
            assert json.loads(await responses.get("resp_2"))["id"] == "resp_2"
            page = await responses.input_items("resp_2", Page())
            return str(caught.value), page

    said, page = asyncio.run(main())
    assert "'resp_1' not found" in said
    assert "'resp_2' goes back to it" in said
    assert [item["content"][0]["text"] for item in page["data"]] == ["question 2"]


def test_a_chain_that_bites_its_tail_ends(tmp_path):
    async def main():
        async with opened(tmp_path) as responses:
            await responses.put(answer(1, 2))
            await responses.put(answer(2, 1))
            with pytest.raises(PreviousResponseNotFound):
                await responses.history("resp_2", limit=10**6)

    asyncio.run(main())


def test_a_conversation_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    async def main():
        async with opened(tmp_path) as responses:
            await responses.put(answer(1, filler="x" * 10_000))
            await responses.put(answer(2, 1))
            with pytest.raises(RequestTooLarge, match="10000 bytes"):
                await responses.history("resp_2", limit=10_000)

    asyncio.run(main())


@pytest.mark.parametrize("ask", ["get", "delete", "cancel"])
def test_what_is_not_there(tmp_path, ask):
    async def main():
        async with opened(tmp_path) as responses:
            await responses.put(answer(1))
            await responses.delete("resp_1")
            with pytest.raises(ResponseNotFound, match="resp_1"):
                await getattr(responses, ask)("resp_1")

    asyncio.run(main())


def test_a_cancelled_response_stays_cancelled(tmp_path):
    async def main():
        async with opened(tmp_path) as responses:
            begun = {**message("so f", "assistant"), "status": "in_progress"}
            await responses.put(answer(1, background=True, status="in_progress", output=[begun]))
            with pytest.raises(PreviousResponseUnfinished):
                await responses.history("resp_1", limit=10**6)
            cancelled = await responses.cancel("resp_1")
            await responses.put(answer(1, background=True))
            assert await responses.get("resp_1") == cancelled
            assert await responses.cancel("resp_1") == cancelled
            return json.loads(cancelled)

    response = asyncio.run(main())
    assert response["status"] == "cancelled"
    assert response["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"background": True}, "completed"),
        ({"background": True, "status": "failed"}, "failed"),
        ({"background": False}, "synchronous"),
        ({}, "synchronous"),
    ],
)
def test_what_cannot_be_cancelled(tmp_path, fields, kind):
    async def main():
        async with opened(tmp_path) as responses:
            await responses.put(answer(1, **fields))
            with pytest.raises(CannotCancel, match=f"Cannot cancel a {kind} response"):
                await responses.cancel("resp_1")

    asyncio.run(main())


def test_what_is_deleted_while_it_is_made_does_not_come_back(tmp_path):
    async def main():
        async with opened(tmp_path) as responses:
            await responses.put(answer(1, background=True, status="in_progress"))
            await responses.delete("resp_1")
            await responses.put(answer(1, background=True))
            for ask in (responses.get, responses.delete):
                with pytest.raises(ResponseNotFound):
                    await ask("resp_1")

    asyncio.run(main())


def test_old_responses_go(tmp_path):
    clock = Clock()

    async def main():
        async with opened(tmp_path, clock=clock) as responses:
            for number in range(50):
                await responses.put(answer(number))
            clock.now += 20 * DAY
            await responses.put(answer("new"))
            clock.now += 11 * DAY
            with pytest.raises(ResponseNotFound):
                await responses.get("resp_49")
            await responses.sweep()
            await responses.get("resp_new")

    asyncio.run(main())
    assert rows(tmp_path) == ["resp_new"]
    assert rows(tmp_path, "SELECT count(*) FROM response_bodies") == [1]
    assert rows(tmp_path, "SELECT count FROM response_totals") == [1]


def test_a_conversation_that_goes_on_is_kept_from_its_beginning(tmp_path):
    clock = Clock()

    async def main():
        async with opened(tmp_path, clock=clock) as responses:
            await responses.put(answer(0))
            for number in range(1, 5):
                clock.now += 20 * DAY
                assert len(await texts(responses, f"resp_{number - 1}")) == 2 * number
                await responses.put(answer(number, number - 1))
                await responses.sweep()

    asyncio.run(main())
    assert len(rows(tmp_path)) == 5


def test_what_is_in_progress_is_never_too_old(tmp_path):
    clock = Clock()

    async def main():
        async with opened(tmp_path, clock=clock) as responses:
            await responses.put(answer(1, background=True, status="queued"))
            clock.now += 31 * DAY
            await responses.sweep()
            return json.loads(await responses.get("resp_1"))

    assert asyncio.run(main())["status"] == "queued"


def test_the_oldest_go_when_there_are_too_many(tmp_path):
    async def main():
        async with opened(tmp_path, Bounds(DAY, 10, 2**30)) as responses:
            for number in range(25):
                await responses.put(answer(number))

    asyncio.run(main())
    assert rows(tmp_path) == [f"resp_{number}" for number in range(15, 25)]


def test_the_file_stays_within_its_bytes_and_gives_room_back(tmp_path):
    megabyte = 2**20
    filler = "".join(map(str, range(30_000)))  # 140 kB

    async def main():
        async with opened(tmp_path, Bounds(DAY, 1000, 16 * megabyte)) as responses:
            for number in range(400):
                await responses.put(answer(number, filler=filler))
        full = (tmp_path / "state.db").stat().st_size
        assert rows(tmp_path)[-1] == "resp_399"
        assert 12 * megabyte < full < 24 * megabyte
        async with opened(tmp_path, Bounds(DAY, 1000, megabyte)) as responses:
            await responses.sweep()
        return full

    full = asyncio.run(main())
    assert rows(tmp_path)[-1] == "resp_399"
    assert rows(tmp_path, "SELECT bytes FROM response_totals")[0] <= megabyte
    # What is left free for the next ones is 4 MiB.
    assert (tmp_path / "state.db").stat().st_size < 8 * megabyte < full


def test_lowered_bounds_are_reached_step_by_step(tmp_path):
    steps = []

    class Watched(Database):
        async def write(self, work):
            before = rows(tmp_path, "SELECT count(*) FROM responses")[0]
            result = await super().write(work)
            steps.append(before - rows(tmp_path, "SELECT count(*) FROM responses")[0])
            return result

    async def main():
        async with opened(tmp_path) as responses:
            for number in range(200):
                await responses.put(answer(number))
        responses = Responses(Watched(tmp_path), Bounds(DAY, 10, 2**30), clock=Clock())
        await responses.sweep()
        await responses.close()

    asyncio.run(main())
    assert sum(steps) == 190
    assert max(steps) <= 32


def test_one_that_is_larger_than_all_may_be_is_refused(tmp_path):
    async def main():
        async with opened(tmp_path, Bounds(DAY, 10, 1000)) as responses:
            await responses.put(answer(1))
            filler = "".join(map(str, range(5000)))
            with pytest.raises(StateFull, match="1000"):
                await responses.put(answer(2, filler=filler))
            await responses.get("resp_1")

    asyncio.run(main())


def test_twenty_writers_on_two_servers(tmp_path):
    async def main():
        async with opened(tmp_path) as one, opened(tmp_path) as other:

            async def write(writer):
                responses = (one, other)[writer % 2]
                for number in range(10):
                    name = f"{writer}-{number}"
                    before = f"{writer}-{number - 1}" if number else None
                    await responses.put(answer(name, before))

            await asyncio.gather(*map(write, range(20)))
            return [len(await texts(one, f"resp_{writer}-9")) for writer in range(20)]

    assert asyncio.run(main()) == [20] * 20
    assert rows(tmp_path, "SELECT count FROM response_totals") == [200]


def test_what_another_living_server_is_making_is_left_alone(tmp_path):
    async def main():
        async with opened(tmp_path) as one:
            await one.put(answer(1, background=True, status="in_progress"))
            async with opened(tmp_path) as other:
                await other.sweep()
                return json.loads(await other.get("resp_1"))

    assert asyncio.run(main())["status"] == "in_progress"


def test_what_a_server_left_unfinished_has_failed(tmp_path):
    async def main():
        async with opened(tmp_path) as one:
            begun = [{**message("so f", "assistant"), "status": "in_progress"}]
            await one.put(answer(1, background=True, status="in_progress", output=begun))
        async with opened(tmp_path) as other:
            return json.loads(await other.get("resp_1"))

    response = asyncio.run(main())
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["output"][0]["status"] == "incomplete"
    assert list((tmp_path / "servers").iterdir()) == []


def test_looking_and_sweeping_make_no_file_before_there_is_one(tmp_path):
    async def main():
        async with opened(tmp_path / "state") as responses:
            await responses.sweep()

    asyncio.run(main())
    assert not (tmp_path / "state").exists()


def test_an_empty_file_becomes_a_database(tmp_path):
    (tmp_path / "state.db").touch()

    async def main():
        async with opened(tmp_path) as responses:
            await responses.put(answer(1))

    asyncio.run(main())
    assert rows(tmp_path, "PRAGMA user_version") == [len(MIGRATIONS)]
    assert rows(tmp_path, "PRAGMA journal_mode") == ["wal"]


def test_a_file_of_a_newer_program_is_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")

    async def main():
        async with opened(tmp_path) as responses:
            with pytest.raises(StateError, match="newer program"):
                await responses.put(answer(1))

    asyncio.run(main())


def test_a_damaged_file_is_told_of_until_it_is_moved_away(tmp_path):
    (tmp_path / "state.db").write_bytes(b"this is no database" * 1000)

    async def main():
        async with opened(tmp_path) as responses:
            with pytest.raises(StateError, match=r"state\.db` is damaged.*move it away"):
                await responses.put(answer(1))
            (tmp_path / "state.db").rename(tmp_path / "damaged")
            await responses.put(answer(1))
            await responses.get("resp_1")

    asyncio.run(main())


def test_a_file_that_is_removed_under_a_running_server_takes_everything_along(tmp_path):
    async def main():
        async with opened(tmp_path) as responses:
            await responses.put(answer(1))
            (tmp_path / "state.db").unlink()
            with pytest.raises(ResponseNotFound):
                await responses.get("resp_1")
            await responses.put(answer(2))
            await responses.get("resp_2")

    asyncio.run(main())
    assert rows(tmp_path) == ["resp_2"]


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()

    async def main():
        async with opened(tmp_path / "file") as responses:
            with pytest.raises(StateError, match=r"state\.db` cannot be used: "):
                await responses.put(answer(1))

    asyncio.run(main())


def test_a_full_disk_fails_one_response_and_no_more(tmp_path):
    async def main():
        async with opened(tmp_path) as responses:
            await responses.put(answer(1))
            # What SQLite says of a file that may not grow is what it says of a full disk.
            await responses._database.read(
                lambda c: c.execute("PRAGMA max_page_count = 1").fetchone()
            )
            filler = " ".join(map(str, range(100_000)))
            with pytest.raises(StateFull, match="disk"):
                await responses.put(answer(2, filler=filler))
            await responses.get("resp_1")
            await responses.put(answer("later"))  # the file is opened anew, and may grow

    asyncio.run(main())


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    async def main():
        async with opened(tmp_path) as responses:
            await responses.put(answer(1))

            def work(connection):
                connection.execute("DELETE FROM responses")
                raise ResponseNotFound("x")

            with pytest.raises(ResponseNotFound):
                await responses._database.write(work)
            await responses.get("resp_1")

    asyncio.run(main())


@pytest.mark.parametrize("ask", ["get", "history", "put"])
def test_one_of_many_takes_no_more_work_than_one_of_few(tmp_path, ask):
    """What 100,000 take in milliseconds is measured in benches/state."""

    async def work(responses):
        steps = []
        database = responses._database
        await database.read(lambda c: c.set_progress_handler(lambda: steps.append(1), 1))
        if ask == "get":
            await responses.get("resp_7")
        elif ask == "history":
            await texts(responses, "resp_7")
        else:
            await responses.put(answer("new"))
        await database.read(lambda c: c.set_progress_handler(None, 0))
        return len(steps)

    async def main():
        async with opened(tmp_path, Bounds(DAY, 10_000, 2**30)) as responses:
            for number in range(20):
                await responses.put(answer(number))
            few = await work(responses)
            for number in range(20, 600):
                await responses.put(answer(number))
            return few, await work(responses)

    few, many = asyncio.run(main())
    assert 0 < many < 2 * few
