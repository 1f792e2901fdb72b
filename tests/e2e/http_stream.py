"""The stream of an answer over HTTP, with arrival times; needs nothing but Python."""

import http.client
import json
import time
from dataclasses import dataclass, field


@dataclass
class Answer:
    """What came back for one request."""

    status: int = 200
    #: Each response's text_output, decoded.
    messages: list = field(default_factory=list)
    #: When each of them arrived, in time.monotonic() seconds.
    times: list = field(default_factory=list)
    #: The error with which the front end ended the stream, if it did.
    error: str = ""
    sent: float = 0.0
    #: False while the stream is open.
    ended: bool = False

    @property
    def chunks(self):
        return [m["content"] for m in self.messages if m.get("type") == "chunk"]

    @property
    def text(self):
        return "".join(self.chunks)

    @property
    def complete(self):
        return [m for m in self.messages if m.get("type") == "complete"]

    def whole(self):
        """Asserts that the stream is complete and returns its text."""
        assert self.status == 200 and not self.error, f"{self.status} {self.error}"
        assert self.ended, "the stream did not end"
        kinds = [m.get("type") for m in self.messages]
        assert kinds.count("complete") == 1 and kinds[-1] == "complete", f"ends with {kinds[-3:]}"
        assert set(kinds[:-1]) <= {"chunk"}, sorted(set(kinds))
        assert all(self.chunks), "an empty chunk"
        return self.text

    @property
    def usage(self):
        return self.complete[0]["usage"]

    @property
    def finish_reason(self):
        return self.complete[0]["finish_reason"]


class HttpStream:
    """One POST whose reply is a stream of server-sent events."""

    def __init__(self, port, path, body, timeout=60):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self.answer = Answer(sent=time.monotonic())
        self.connection.request(
            "POST", path, json.dumps(body).encode(), {"Content-Type": "application/json", "Accept": "text/event-stream"}
        )
        self.response = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        if self.response:
            self.response.close()
        self.connection.close()

    def next(self):
        """The next message, or None at the end of the stream or on an error."""
        if self.response is None:
            self.response = self.connection.getresponse()
            self.answer.status = self.response.status
            if self.response.status != 200:
                body = self.response.read().decode()
                self.answer.error = json.loads(body[body.index("{") :])["error"]
                self.answer.ended = True
                return None
        while True:
            line = self.response.readline()
            if not line:
                self.answer.ended = True
                return None
            line = line.decode().strip()
            if not line:
                continue
            assert line.startswith("data: "), line
            event = json.loads(line[len("data: ") :])
            if "error" in event:
                self.answer.error = event["error"]
                continue
            message = json.loads(event["text_output"])
            self.answer.messages.append(message)
            self.answer.times.append(time.monotonic())
            return message

    def read(self):
        while self.next() is not None:
            pass
        return self.answer
