"""What a transport knows of an MCP session, so that another server can take it over.

====================================  ==========================================================
message                               what follows
====================================  ==========================================================
sent: a request                       it is in flight; ``initialize`` is remembered
sent: ``notifications/initialized``   remembered
sent: ``notifications/cancelled``     its request is in flight no more: nobody waits for an answer
sent: an answer                       dropped if it was an earlier server that had asked
received: an answer to our own        swallowed
received: any other answer            its request is in flight no more
received: a request                   from the second server on, it gets an id of ours
lost: the server is gone              an error answer for every request in flight; a cancellation
                                      of every request of the server's that is not answered
opening: a new server is there        ``initialize`` again, or nothing where there was no session
====================================  ==========================================================

With protocol 2026-07-28 there is no handshake: each request says in its ``_meta`` what it needs.
A new server is then opened with a ping that says the same.  No clock and no stream is touched here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define, field
from mcp_types import (
    CONNECTION_CLOSED,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

if TYPE_CHECKING:
    from mcp_types import JSONRPCMessage, RequestId

Answer: TypeAlias = JSONRPCResponse | JSONRPCError

_ENVELOPE = "io.modelcontextprotocol/"
_VERSION = f"{_ENVELOPE}protocolVersion"


@define
class McpSession:
    """One session, over any number of servers.

    :param mark: what the ids of our own requests begin with; nobody else's do.
    """

    mark: str
    #: Whether a server has agreed to the session.
    established: bool = field(default=False, init=False)
    #: The last answer to a request of our own.
    answer: Answer | None = field(default=None, init=False)
    #: The client has said that it is initialized.
    initialized: JSONRPCNotification | None = field(default=None, init=False)
    _initialize: JSONRPCRequest | None = field(default=None, init=False)
    _envelope: dict[str, Any] | None = field(default=None, init=False)
    _in_flight: dict[RequestId, JSONRPCRequest] = field(
        factory=dict["RequestId", JSONRPCRequest], init=False
    )
    # What servers have asked: our id, and the present one's own; then those that are gone.
    _asked: dict[RequestId, RequestId] = field(factory=dict["RequestId", "RequestId"], init=False)
    _stale: set[RequestId] = field(factory=set["RequestId"], init=False)
    _servers: int = field(default=1, init=False)
    _count: int = field(default=0, init=False)

    def sent(self, message: JSONRPCMessage) -> JSONRPCMessage | None:
        """The client sends this: what the server is to get of it."""
        if isinstance(message, JSONRPCRequest):
            if not self._is_ours(message.id):
                self._in_flight[message.id] = message
        elif isinstance(message, JSONRPCNotification):
            if message.method == "notifications/initialized":
                self.initialized = message
            elif message.method == "notifications/cancelled":
                self._in_flight.pop((message.params or {}).get("requestId", ""), None)
        elif message.id is not None:
            if message.id in self._stale:
                self._stale.discard(message.id)
                return None
            theirs = self._asked.pop(message.id, message.id)
            if theirs != message.id:
                return message.model_copy(update={"id": theirs})
        return message

    def received(self, message: JSONRPCMessage) -> JSONRPCMessage | None:
        """The server sends this: what the client is to get of it."""
        if isinstance(message, (JSONRPCResponse, JSONRPCError)):
            if self._is_ours(message.id):
                self.answer = message
                return None
            if message.id is not None:
                self._settle(self._in_flight.pop(message.id, None), message)
        elif isinstance(message, JSONRPCRequest):
            ours = message.id if self._servers == 1 else self._own_id()
            self._asked[ours] = message.id
            if ours != message.id:
                return message.model_copy(update={"id": ours})
        elif message.method == "notifications/cancelled" and self._servers > 1:
            theirs = (message.params or {}).get("requestId")
            for ours, asked in self._asked.items():
                if asked == theirs:
                    params = {**(message.params or {}), "requestId": ours}
                    return message.model_copy(update={"params": params})
        return message

    def lost(self, reason: str, data: Any = None) -> list[JSONRPCMessage]:
        """The server is gone, and another one follows: what the client is to be told."""
        error = ErrorData(code=CONNECTION_CLOSED, message=reason, data=data)
        told: list[JSONRPCMessage] = [
            JSONRPCError(jsonrpc="2.0", id=id, error=error) for id in self._in_flight
        ]
        told += [_cancelled(ours, reason) for ours in self._asked]
        self._stale.update(self._asked)
        self._in_flight.clear()
        self._asked.clear()
        self.answer = None
        self._servers += 1
        return told

    def opening(self) -> JSONRPCRequest | None:
        """The request that gives a new server the session; its answer says whether it takes it."""
        if not self.established:
            return None
        if self._initialize is None:
            return self.ping()
        return self._initialize.model_copy(update={"id": self._own_id()})

    @property
    def opened(self) -> bool:
        """Whether the answer to :meth:`opening` was a good one: to a ping, any answer is."""
        return self._initialize is None or isinstance(self.answer, JSONRPCResponse)

    def ping(self) -> JSONRPCRequest:
        ping = JSONRPCRequest(jsonrpc="2.0", id=self._own_id(), method="ping")
        if self._envelope is not None:
            ping.params = {"_meta": self._envelope}
        return ping

    def _settle(self, request: JSONRPCRequest | None, answer: Answer) -> None:
        if self.established or request is None or isinstance(answer, JSONRPCError):
            return
        meta: dict[str, Any] = (request.params or {}).get("_meta") or {}
        if request.method == "initialize":
            self._initialize = request
        elif _VERSION in meta:
            # Without progressToken and the like, which are of one request.
            self._envelope = {key: meta[key] for key in meta if key.startswith(_ENVELOPE)}
        else:
            return
        self.established = True

    def _own_id(self) -> str:
        self._count += 1
        return f"{self.mark}{self._count}"

    def _is_ours(self, id: RequestId | None) -> bool:
        return isinstance(id, str) and id.startswith(self.mark)


def _cancelled(id: RequestId, reason: str) -> JSONRPCNotification:
    return JSONRPCNotification(
        jsonrpc="2.0",
        method="notifications/cancelled",
        params={"requestId": id, "reason": reason},
    )
