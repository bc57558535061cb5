"""A small web framework in the shape of Bocadillo's: async views by function and by class.

Bocadillo asked for little: `async def view(req, res)`, or a class with a method for each verb,
hooks around a view, websocket views that are iterated over, templates, error handlers. It no
longer installs; programs of its shape do. This one lays the same over today's Starlette.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Self

import jinja2
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

View = Callable[..., Any]
VERBS = ("get", "post", "put", "delete")


class HTTPError(Exception):
    """Ends a view with a status and a reason."""

    def __init__(self, status: int, detail: str = "") -> None:
        self.status, self.detail = status, detail


class Stream(StreamingResponse):
    """Pieces that are made while they are sent; their generator ends with the answer."""

    def __init__(self, pieces: AsyncGenerator[bytes], **options: Any) -> None:
        super().__init__(pieces, **options)
        self._pieces = pieces

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send them, however far the guest listens."""
        async with contextlib.aclosing(self._pieces):
            await super().__call__(scope, receive, send)


class Answer:
    """What a view fills in: one of `json`, `text`, `html` and `stream`, a status, headers."""

    def __init__(self) -> None:
        self.json: Any = None
        self.text: str | None = None
        self.html: str | None = None
        self.stream: AsyncGenerator[bytes] | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.task: BackgroundTask | None = None

    def background(self, function: Callable[..., Awaitable[None]]) -> None:
        """Run a coroutine function once the answer has been sent."""
        self.task = BackgroundTask(function)

    def render(self) -> Response:
        """Make Starlette's response of it."""
        common: dict[str, Any] = {
            "status_code": self.status,
            "headers": self.headers,
            "background": self.task,
        }
        if self.stream is not None:
            return Stream(self.stream, **common)
        if self.html is not None:
            return Response(self.html, media_type="text/html", **common)
        if self.text is not None:
            return Response(self.text, media_type="text/plain", **common)
        return JSONResponse(self.json, **common)


class Socket:
    """A websocket to iterate over; leaving its `async with` block closes it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.closed = False

    async def __aenter__(self) -> Self:
        await self._socket.accept()
        return self

    async def __aexit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
        if not self.closed:
            await self.close(1000 if exc is None else 1011)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        try:
            return await self._socket.receive_text()
        except WebSocketDisconnect:
            self.closed = True
            raise StopAsyncIteration from None

    async def send(self, text: str) -> None:
        """Send a message."""
        await self._socket.send_text(text)

    async def close(self, code: int = 1000) -> None:
        """Close it with a code."""
        self.closed = True
        await self._socket.close(code)


def before(hook: View) -> Callable[[View], View]:
    """Call a hook before a view, with the same arguments; it may raise HTTPError."""

    def decorate(view: View) -> View:
        async def hooked(req: Request, res: Answer, **params: Any) -> None:
            await call(hook, req, res, **params)
            await call(view, req, res, **params)

        return hooked

    return decorate


async def call(view: View, *args: Any, **params: Any) -> None:
    """Call an async view here, and a plain one in a thread, as Bocadillo did."""
    if inspect.iscoroutinefunction(view):
        await view(*args, **params)
    else:
        await run_in_threadpool(view, *args, **params)


class App:
    """Routes, templates, error handlers, and what to do when the server starts and stops."""

    def __init__(self) -> None:
        self._routes: list[Any] = []
        self._templates: dict[str, str] = {}
        self._handlers: dict[type[Exception], Callable[[Any, Answer, Any], Awaitable[None]]] = {}
        self._around: list[Callable[[], contextlib.AbstractAsyncContextManager[None]]] = []
        self._starlette: Starlette | None = None
        self._environment = jinja2.Environment(
            loader=jinja2.DictLoader(self._templates), autoescape=True, enable_async=True
        )

    def template(self, name: str, text: str) -> None:
        """Add a template."""
        self._templates[name] = text

    async def render(self, name: str, **values: Any) -> str:
        """Render a template."""
        return await self._environment.get_template(name).render_async(values)

    def route(self, path: str, methods: tuple[str, ...] = ("get",)) -> Callable[[Any], Any]:
        """Add a view: a function, or a class with a method for each verb."""

        def decorate(view: Any) -> Any:
            views = dict.fromkeys(methods, view)
            if inspect.isclass(view):
                made = view()
                views = {verb: getattr(made, verb) for verb in VERBS if hasattr(made, verb)}

            async def endpoint(request: Request) -> Response:
                return await self._answer(views[request.method.lower()], request)

            verbs = [verb.upper() for verb in views]
            self._routes.append(Route(path, endpoint, methods=verbs))
            return view

        return decorate

    def websocket_route(self, path: str) -> Callable[[View], View]:
        """Add a websocket view: `async def view(socket, ...)`."""

        def decorate(view: View) -> View:
            async def endpoint(socket: WebSocket) -> None:
                await view(Socket(socket), **socket.path_params)

            self._routes.append(WebSocketRoute(path, endpoint))
            return view

        return decorate

    def error_handler(self, kind: type[Exception]) -> Callable[[Any], Any]:
        """Add a view for what other views raise."""

        def decorate(view: Any) -> Any:
            self._handlers[kind] = view
            return view

        return decorate

    def around(self, manager: Callable[[], contextlib.AbstractAsyncContextManager[None]]) -> None:
        """Enter a context when the server starts and leave it when it stops."""
        self._around.append(manager)

    async def _answer(self, view: View, request: Request) -> Response:
        answer = Answer()
        try:
            await call(view, request, answer, **request.path_params)
        except ClientDisconnect:
            return Response(status_code=400)
        except HTTPError as error:
            answer = Answer()
            answer.status, answer.json = error.status, {"error": error.detail}
        except tuple(self._handlers) as error:
            handler = next(
                self._handlers[kind] for kind in self._handlers if isinstance(error, kind)
            )
            answer = Answer()
            await handler(request, answer, error)
        return answer.render()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for manager in self._around:
                await stack.enter_async_context(manager())
            yield

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Be an ASGI application."""
        if self._starlette is None:
            self._starlette = Starlette(routes=self._routes, lifespan=self._lifespan)
        await self._starlette(scope, receive, send)
