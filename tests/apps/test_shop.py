"""The example shop, started as a user would and driven over real sockets by fifty clients at once.

Every scenario runs first on stock asyncio, by uvicorn's own command, and then on aioxide, by the
shop's `serve.py` and by `python -m aioxide` around the application that knows nothing of it.
"""

from __future__ import annotations

import asyncio
import csv
import random
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from program import Program

import aioxide

SHOP = Path(__file__).parents[2] / "examples" / "shop"
ADDRESS = r"(http://127\.0\.0\.1:\d+)"

CLIENTS = 50
ORDERS_EACH = 4
STOCK = 1000
SHELF = [
    ("Assam", 890),
    ("Bai Mu Dan", 1640),
    ("Ceylon", 770),
    ("Darjeeling", 1390),
    ("Earl Grey", 820),
    ("Genmaicha", 1050),
    ("Gyokuro", 3480),
    ("Hojicha", 980),
    ("Keemun", 1270),
    ("Lapsang Souchong", 1130),
    ("Oolong", 1510),
    ("Pu-erh", 2260),
    ("Rooibos", 640),
    ("Sencha", 1190),
]
PRICES = dict(SHELF)

UVICORN = ("-m", "uvicorn", "app:app", "--port", "0")
WAYS = {
    "asyncio": (*UVICORN,),
    "serve.py": ("serve.py",),
    "python -m aioxide": ("-m", "aioxide", *UVICORN),
}
MORE_WAYS = {
    "-m aioxide, loop asyncio": ("-m", "aioxide", *UVICORN, "--loop", "asyncio"),
    "-m aioxide, loop none": ("-m", "aioxide", *UVICORN, "--loop", "none"),
    "-m aioxide, script": ("-m", "aioxide", "serve.py"),
    "uvicorn --loop aioxide:Loop": (*UVICORN, "--loop", "aioxide:Loop"),
    "uvicorn --loop aioxide:new_event_loop": (*UVICORN, "--loop", "aioxide:new_event_loop"),
}


def open_shop(way: str, data: Path, **env: str) -> Program:
    """Start the shop in one of the ways."""
    arguments = (WAYS | MORE_WAYS)[way]
    if "serve.py" in arguments:
        arguments = (*arguments, "--data", str(data))
    else:
        env["SHOP_DATA"] = str(data)
    return Program(*arguments, cwd=SHOP, env=env)


def expected_loop(way: str) -> str:
    """Name the class of the loop that a way must run on."""
    kind = asyncio.SelectorEventLoop if way == "asyncio" else aioxide.Loop
    return f"{kind.__module__}.{kind.__qualname__}"


def assert_closed_well(program: Program, way: str, data: Path, number: signal.Signals) -> None:
    """Stop the shop, which must leave nothing behind but its database."""
    assert program.stop(number) == 0, program.said()
    if "uvicorn" in (WAYS | MORE_WAYS)[way]:
        assert all(line.startswith("INFO: ") for line in program.stderr), program.said()
        assert program.stderr[-1].startswith("INFO:     Finished server process"), program.said()
    else:
        assert program.stderr == [], program.said()
        assert program.stdout[-1] == "The tea shop is closed.\n", program.said()
    assert [file.name for file in data.iterdir()] == ["shop.db"]


@dataclass
class Books:
    """What all clients together have been told."""

    order_ids: list[int] = field(default_factory=list)
    sold_out: list[int] = field(default_factory=list)
    packets: Counter[int] = field(default_factory=Counter)
    supplier_calls: set[int] = field(default_factory=set)
    loops: set[str] = field(default_factory=set)


def best_sum(budget: int) -> int:
    """Give the largest sum of different prices that is not above a budget."""
    sums = {0}
    for _, cents in SHELF:
        sums |= {reached + cents for reached in sums}
    return max(reached for reached in sums if reached <= budget)


class Client:
    """One customer with connections, a taste and a luck of their own."""

    def __init__(self, number: int, url: str, books: Books) -> None:
        self.number = number
        self.books = books
        self.random = random.Random(number)
        self.http = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)

    async def get(self, path: str, status: int = 200) -> Any:
        """Give the JSON answer to a request, which must have a status."""
        answer = await self.http.get(path)
        assert answer.status_code == status, (path, answer.status_code, answer.text)
        return answer.json()

    async def order(self, product_id: Any, quantity: Any, status: int = 202) -> Any:
        """Place an order and give the JSON answer."""
        answer = await self.http.post(
            "/orders", json={"product_id": product_id, "quantity": quantity}
        )
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json()

    async def look_around(self) -> None:
        """Ask for everything that only reads the shelf."""
        self.books.loops.add((await self.get("/"))["loop"])
        shelf = await self.get("/products")
        assert [(tea["id"], tea["name"], tea["cents"]) for tea in shelf] == [
            (number, *tea) for number, tea in enumerate(SHELF, 1)
        ]
        answer = await self.http.get("/products.csv")
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(answer.text.splitlines()))
        assert [(row["name"], int(row["cents"])) for row in rows] == SHELF

    async def read_pages(self) -> None:
        """Read a product's page, once without the time for it, and one that is not there."""
        number = self.random.randint(1, len(SHELF))
        name, cents = SHELF[number - 1]
        page = await self.get(f"/products/{number}?within=60")
        assert page["product"]["name"] == name
        assert page["sold"] >= 0
        assert page["delivery_days"] == len(name)
        self.check_offer(page["offer"], number, cents)
        late = await self.get(f"/products/{number}?within=0", status=504)
        assert late == {"detail": "not within 0 seconds"}
        assert await self.get("/products/99", status=404) == {"detail": "no such tea"}
        await self.get("/products/none", status=422)
        await self.get(f"/products/{2**63}", status=422)

    def check_offer(self, offer: dict[str, int], number: int, cents: int) -> None:
        """Compare one answer of the supplier's."""
        assert (offer["product_id"], offer["cents"]) == (number, cents * 3 // 5)
        self.books.supplier_calls.add(offer["calls"])

    async def compare_offers(self) -> None:
        """Have the shop ask its supplier about everything."""
        offers = await self.get("/offers")
        assert len(offers) == len(SHELF)
        for number, (offer, (_, cents)) in enumerate(zip(offers, SHELF, strict=True), 1):
            self.check_offer(offer, number, cents)

    async def choose_gift(self) -> None:
        """Have the shop work something out in another process."""
        budget = self.random.randint(600, 20_000)
        box = await self.get(f"/gift?budget={budget}")
        assert len(set(box["teas"])) == len(box["teas"])
        assert sum(PRICES[tea] for tea in box["teas"]) == box["cents"] == best_sum(budget)
        await self.get("/gift?budget=0", status=422)

    async def shop(self) -> None:
        """Place orders, good ones and bad ones, and wait until they are dealt with."""
        for _ in range(ORDERS_EACH):
            number, quantity = self.random.randint(1, len(SHELF)), self.random.randint(1, 3)
            wanted = {"product_id": number, "quantity": quantity}
            order = await self.order(number, quantity)
            self.books.order_ids.append(order["id"])
            self.books.packets[number] += quantity
            assert order == {"id": order["id"], **wanted, "status": "new"}
            done = await self.get(f"/orders/{order['id']}?wait=60")
            assert done == {"id": order["id"], **wanted, "status": "packed"}
        greedy = await self.order(1, STOCK + 1)
        self.books.order_ids.append(greedy["id"])
        self.books.sold_out.append(greedy["id"])
        assert (await self.get(f"/orders/{greedy['id']}?wait=60"))["status"] == "sold out"
        await self.order(99, 1, status=404)
        await self.order(1, 0, status=422)
        await self.get("/orders/999999?wait=60", status=404)

    async def visit(self, doors: asyncio.Barrier) -> None:
        """Do everything, beginning somewhere else than the neighbours."""
        errands = [
            self.look_around,
            self.read_pages,
            self.compare_offers,
            self.choose_gift,
            self.shop,
        ]
        first = self.number % len(errands)
        async with self.http:
            await doors.wait()
            for errand in errands[first:] + errands[:first]:
                await errand()


async def rush(url: str) -> Books:
    """Let all clients in at once, and count afterwards what the shop says it has done."""
    books = Books()
    doors = asyncio.Barrier(CLIENTS)
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(Client(number, url, books).visit(doors))

    late = Client(CLIENTS, url, books)
    async with late.http:
        packed, refused = CLIENTS * ORDERS_EACH, CLIENTS
        assert await late.get("/orders") == {"new": 0, "packed": packed, "sold out": refused}
        for tea in await late.get("/products"):
            assert tea["stock"] == STOCK - books.packets[tea["id"]], tea
            page = await late.get(f"/products/{tea['id']}?within=60")
            assert page["sold"] == books.packets[tea["id"]]
    return books


def orders_in(data: Path) -> list[tuple[int, int, int, str]]:
    """Read all orders from the database's file."""
    with closing(sqlite3.connect(data / "shop.db")) as database:
        rows = database.execute("SELECT id, product_id, quantity, status FROM orders ORDER BY id")
        return rows.fetchall()


@pytest.mark.parametrize("way", WAYS)
def test_fifty_clients(way: str, tmp_path: Path) -> None:
    """Fifty clients get every answer right; Ctrl-C then leaves nothing but the database."""
    with open_shop(way, tmp_path / "data") as program:
        url = program.wait_line(ADDRESS)[1]
        books = asyncio.run(rush(url))
        assert_closed_well(program, way, tmp_path / "data", signal.SIGINT)

    assert books.loops == {expected_loop(way)}
    assert max(books.supplier_calls) in range(2, 5), "the fan-out is not limited to four"
    orders = orders_in(tmp_path / "data")
    assert [order[0] for order in orders] == sorted(books.order_ids), "lost or duplicated"
    assert {id for id, _, _, status in orders if status == "sold out"} == set(books.sold_out)


async def place_orders(url: str, count: int) -> list[int]:
    """Place orders for two packets of the third tea, all at once, and give their ids."""
    order = {"product_id": 3, "quantity": 2}
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        answers = await asyncio.gather(*(http.post("/orders", json=order) for _ in range(count)))
    return sorted(answer.json()["id"] for answer in answers)


@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_during_a_rush(way: str, tmp_path: Path) -> None:
    """Ctrl-C right after a rush: the shop packs what it has accepted, then closes."""
    data = tmp_path / "data"
    with open_shop(way, data) as program:
        ids = asyncio.run(place_orders(program.wait_line(ADDRESS)[1], 60))
        assert_closed_well(program, way, data, signal.SIGINT)
    assert ids == [*range(1, 61)]
    assert orders_in(data) == [(number, 3, 2, "packed") for number in ids]


@pytest.mark.parametrize("way", WAYS)
def test_kill_during_a_rush(way: str, tmp_path: Path) -> None:
    """What was not packed when the shop was killed is packed when it opens again, and once."""
    data = tmp_path / "data"
    with open_shop(way, data) as program:
        ids = asyncio.run(place_orders(program.wait_line(ADDRESS)[1], 60))
        assert program.stop(signal.SIGKILL) == -signal.SIGKILL
    with closing(sqlite3.connect(data / "shop.db")) as database, database:
        database.execute("INSERT INTO orders VALUES (61, 3, 2, 'new')")

    with open_shop(way, data) as program:
        url = program.wait_line(ADDRESS)[1]
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            for number in [*ids, 61]:
                order = http.get(f"/orders/{number}?wait=60").json()
                assert order == {"id": number, "product_id": 3, "quantity": 2, "status": "packed"}
            assert http.get("/orders").json() == {"new": 0, "packed": 61, "sold out": 0}
            assert http.get("/products").json()[2]["stock"] == STOCK - 61 * 2
        assert_closed_well(program, way, data, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_while_starting(number: signal.Signals, tmp_path: Path) -> None:
    """A signal as soon as the address is known, before anything is set up, ends the shop too."""
    with open_shop("serve.py", tmp_path / "data") as program:
        program.wait_line(ADDRESS)
        assert program.stop(number) == 0, program.said()
        assert program.stderr == [], program.said()
        assert program.stdout[-1] == "The tea shop is closed.\n", program.said()


def test_sigterm(tmp_path: Path) -> None:
    """SIGTERM ends the shop as Ctrl-C does, with status 0."""
    data = tmp_path / "data"
    with open_shop("serve.py", data) as program:
        url = program.wait_line(ADDRESS)[1]
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            assert http.get("/gift?budget=640").json() == {"teas": ["Rooibos"], "cents": 640}
        assert_closed_well(program, "serve.py", data, signal.SIGTERM)


@pytest.mark.parametrize("way", MORE_WAYS)
def test_every_way_runs_on_aioxide(way: str, tmp_path: Path) -> None:
    """However uvicorn is asked for a loop, it gets aioxide's; a process pool works there."""
    data = tmp_path / "data"
    with open_shop(way, data) as program:
        url = program.wait_line(ADDRESS)[1]
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            assert http.get("/").json()["loop"] == expected_loop(way)
            assert http.get("/gift?budget=640").json() == {"teas": ["Rooibos"], "cents": 640}
        assert_closed_well(program, way, data, signal.SIGINT)


def test_debug_mode_has_nothing_to_say(tmp_path: Path) -> None:
    """asyncio's debug mode finds no slow start, no wrong thread, nothing never awaited."""
    data = tmp_path / "data"
    with open_shop("serve.py", data, PYTHONASYNCIODEBUG="1") as program:
        url = program.wait_line(ADDRESS)[1]
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            http.get("/gift?budget=640").raise_for_status()
            http.get("/products.csv").raise_for_status()
            http.get("/products/1").raise_for_status()
        assert program.stop() == 0
    slow = [line for line in program.stderr if not line.startswith("Executing <")]
    assert slow == [], program.said()


def test_port_in_use(tmp_path: Path) -> None:
    """A port that is taken is one line on stderr and status 1."""
    with open_shop("serve.py", tmp_path / "first") as program:
        port = program.wait_line(ADDRESS)[1].rpartition(":")[2]
        arguments = ("serve.py", "--port", port, "--data", str(tmp_path / "second"))
        with Program(*arguments, cwd=SHOP) as second:
            assert second.end() == 1
            assert second.stderr == [f"cannot listen on port {port}: Address already in use\n"]
        assert not (tmp_path / "second").exists()
