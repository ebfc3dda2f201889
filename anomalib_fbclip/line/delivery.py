# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Delivery of verdicts, in order, to an HTTP address or an MQTT topic."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from anomalib_fbclip.concurrency import growing_pauses

from .outbox import Message, Outbox

if TYPE_CHECKING:
    from paho.mqtt.client import Client

TIMEOUT = 10.0
"""Seconds that a target may take to answer."""

LAST_SECONDS = 5.0
"""Seconds for which remaining messages are sent after the end."""

PORTS = {"mqtt": 1883, "mqtts": 8883}

IDEMPOTENCY_KEY = "Idempotency-Key"
"""Header of a request, by which a receiver recognizes a message that it already has."""


class UndeliveredError(Exception):
    """A message was not accepted, or got no answer. The text says why."""


class Webhook:
    """An address to which messages are posted. An answer with code 200 to 299 accepts one.

    Its name has no password. A ``ValueError`` says why an address is not valid.
    """

    def __init__(self, address: str) -> None:
        parts = _split(address, ("http", "https"), "https://host/path")
        import httpx

        try:
            self._address = httpx.URL(address)
        except httpx.InvalidURL as error:
            msg = f"{_without_password(parts)} is not a valid address: {error}"
            raise ValueError(msg) from error
        self.name = _without_password(parts)
        logging.getLogger(httpx.__name__).setLevel(logging.WARNING)  # it logs each request
        self._errors = httpx.HTTPError
        self._client = httpx.Client(timeout=TIMEOUT)

    def send(self, message: Message) -> None:
        """Post a message, and wait until it is accepted.

        Raises:
            UndeliveredError: If it is refused, or there is no answer.
        """
        headers = {"Content-Type": "application/json", IDEMPOTENCY_KEY: message.id}
        try:
            response = self._client.post(self._address, content=message.body, headers=headers)
        except self._errors as error:
            raise UndeliveredError(str(error) or type(error).__name__) from error
        if not response.is_success:
            msg = f"it answers {response.status_code} {response.reason_phrase}"
            raise UndeliveredError(msg)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class Mqtt:
    """A topic of an MQTT broker. Messages have quality of service 1: the broker acknowledges each.

    The address is ``mqtt://host/topic``, or ``mqtts://`` for TLS, possibly with port, user and password.
    """

    def __init__(self, address: str) -> None:
        parts = _split(address, tuple(PORTS), "mqtt://host/topic")
        self._topic = unquote(parts.path.removeprefix("/"))
        if not self._topic or "+" in self._topic or "#" in address or parts.query:
            msg = f"{_without_password(parts)} needs a topic, without +, # and ?: mqtt://host/topic"
            raise ValueError(msg)
        import paho.mqtt.client
        import paho.mqtt.enums

        self.name = _without_password(parts)
        self._new_client = partial(paho.mqtt.client.Client, paho.mqtt.enums.CallbackAPIVersion.VERSION2)
        self._parts = parts
        self._client: Client | None = None

    def send(self, message: Message) -> None:
        """Publish a message. See :meth:`Webhook.send`."""
        try:
            is_taken = self._publish(message)
        except (OSError, RuntimeError, ValueError) as error:
            self.close()
            raise UndeliveredError(str(error)) from error
        if not is_taken:
            self.close()  # otherwise the library would also send it again
            msg = "the broker does not answer"
            raise UndeliveredError(msg)

    def _publish(self, message: Message) -> bool:
        if self._client is None or not self._client.is_connected():
            self.close()
            self._client = self._connect()
        published = self._client.publish(self._topic, message.body, qos=1)
        published.wait_for_publish(TIMEOUT)
        return published.is_published()

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def _connect(self) -> "Client":
        """Connect, and wait for the broker's answer. An ``OSError`` says why there is no connection."""
        client = self._new_client()
        answers: list[str] = []
        answered = Event()

        def note(*arguments: object) -> None:
            reason = arguments[3]
            if getattr(reason, "is_failure", False):
                answers.append(str(reason))
            answered.set()

        client.on_connect = note
        if self._parts.username:
            client.username_pw_set(unquote(self._parts.username), unquote(self._parts.password or ""))
        if self._parts.scheme == "mqtts":
            client.tls_set()
        client.connect(self._parts.hostname or "", self._parts.port or PORTS[self._parts.scheme])
        client.loop_start()
        if answered.wait(TIMEOUT) and not answers:
            return client
        client.disconnect()
        client.loop_stop()
        msg = f"the broker refuses: {answers[0]}" if answers else "the broker does not answer"
        raise ConnectionError(msg)


Target = Webhook | Mqtt


class Delivery:
    """Sends the messages of an outbox in order, with one thread per target.

    A message that is not accepted is sent again after growing pauses, and the next ones wait. If only the answer was
    lost, a target gets a message twice, with the same id. ``tell`` shows when a target stops accepting messages, and
    when it accepts them again.
    """

    def __init__(self, outbox: Outbox, targets: Sequence[Target], tell: Callable[[str], None]) -> None:
        self._outbox = outbox
        self._targets = targets
        self._tell = tell
        self._stopped = Event()
        self._end = float("inf")
        self._added = [Event() for _ in targets]
        self._threads = ThreadPoolExecutor(max(len(targets), 1))
        self._running: list[Future[None]] = []

    @property
    def names(self) -> list[str]:
        """Names of the targets."""
        return [target.name for target in self._targets]

    def wake(self) -> None:
        """Have the threads send a new message. An error that has ended one of them is raised."""
        for future in self._running:
            if future.done():
                future.result()
        self._wake_all()

    def _wake_all(self) -> None:
        for event in self._added:
            event.set()

    def _deliver(self, target: Target, added: Event) -> None:
        """Send messages until the end, and the remaining ones for some seconds after it."""
        pauses: Iterator[float] | None = None
        while not (self._stopped.is_set() and (pauses or time.monotonic() > self._end)):
            added.clear()
            message = self._outbox.next_of(target.name)
            if message is None:
                if self._stopped.is_set():
                    break
                added.wait()
                continue
            try:
                target.send(message)
            except UndeliveredError as error:
                if pauses is None:
                    self._tell(
                        f"{target.name} accepts no messages ({error}). Verdicts are kept, and sent once it is back."
                    )
                    pauses = growing_pauses()
                self._stopped.wait(next(pauses))
                continue
            self._outbox.remove(message)
            if pauses is not None:
                self._tell(f"{target.name} is back.")
                pauses = None
        target.close()

    def __enter__(self) -> "Delivery":
        """Start sending."""
        self._running = [
            self._threads.submit(self._deliver, target, added)
            for target, added in zip(self._targets, self._added, strict=True)
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send the remaining messages, if the targets accept them, and end."""
        self._end = time.monotonic() + LAST_SECONDS
        self._stopped.set()
        self._wake_all()
        self._threads.shutdown()
        if kind is None:
            self.wake()


def _split(address: str, schemes: Sequence[str], example: str) -> SplitResult:
    """Split an address. A ``ValueError`` says that it is not like the example."""
    wrong = f"{address.rpartition('@')[2]!r} is not a valid address: give {example}"
    try:
        parts = urlsplit(address)
        is_right = parts.scheme in schemes and parts.hostname and parts.port != 0 and address.isprintable()
    except ValueError as error:
        raise ValueError(wrong) from error
    if not is_right or " " in address:
        raise ValueError(wrong)
    return parts


def _without_password(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
