"""The streams of an answer, over HTTP and over gRPC, with arrival times."""

import json
import queue
import time

import numpy as np
import tritonclient.grpc as grpcclient

from http_stream import Answer


class GrpcStreams:
    """One bidirectional gRPC stream that carries any number of requests."""

    def __init__(self, url, model="llm_decoupled"):
        self.client = grpcclient.InferenceServerClient(url)
        self.model = model
        self.events = queue.Queue()
        self.answers = {}
        self.client.start_stream(callback=lambda result, error: self.events.put((time.monotonic(), result, error)))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Cancels what has not ended.

        Only that: a cancel that meets a FINAL on its way can leave the model
        loaded for ever in stock servers (docs/troubleshooting.md).
        """
        self.client.stop_stream(cancel_requests=not all(a.ended for a in self.answers.values()))
        self.client.close()

    def send(self, text, request_id="1", shape=(1,), inputs=None, **parameters):
        """Queues one request; `inputs` are further BYTES inputs by name."""
        tensors = []
        if text is not None:
            tensors.append(bytes_input("text_input", [text], shape))
        for name, values in (inputs or {}).items():
            tensors.append(bytes_input(name, values))
        return self.send_tensors(tensors, request_id, **parameters)

    def send_tensors(self, tensors, request_id="1", **parameters):
        """Queues one request with these inputs and returns its answer to be."""
        answer = self.answers[request_id] = Answer(sent=time.monotonic())
        self.client.async_stream_infer(
            self.model,
            tensors,
            request_id=request_id,
            parameters=parameters or None,
            enable_empty_final_response=True,
        )
        return answer

    def next(self, timeout=60):
        """Takes the next response in: (request id, message or None)."""
        arrived, result, error = self.events.get(timeout=timeout)
        if error is not None:
            # The client library hides whose error it is: the open ones end.
            for answer in self.answers.values():
                if not answer.ended:
                    answer.error, answer.ended = str(error), True
            return None, None
        response = result.get_response()
        answer = self.answers[response.id]
        assert not answer.ended, f"a response after the final one of request {response.id}"
        message = None
        if response.outputs:
            message = json.loads(result.as_numpy("text_output").reshape(-1)[0])
            answer.messages.append(message)
            answer.times.append(arrived)
        final = response.parameters.get("triton_final_response")
        answer.ended = bool(final and final.bool_param)
        return response.id, message

    def read(self, timeout=60):
        """Reads until every request has ended; the answers by request id."""
        end = time.monotonic() + timeout
        while not all(a.ended for a in self.answers.values()):
            self.next(timeout=max(0.01, end - time.monotonic()))
        return self.answers


def bytes_input(name, values, shape=None):
    data = np.array([v if isinstance(v, bytes) else v.encode() for v in values], dtype=np.object_)
    tensor = grpcclient.InferInput(name, list(shape) if shape else [len(values)], "BYTES")
    tensor.set_data_from_numpy(data.reshape(list(shape) if shape else [len(values)]))
    return tensor


def grpc_answer(url, text, model="llm_decoupled", timeout=60, request_id="1", shape=(1,), inputs=None, **parameters):
    """One request over gRPC, read to its end."""
    with GrpcStreams(url, model) as streams:
        streams.send(text, request_id, shape=shape, inputs=inputs, **parameters)
        return streams.read(timeout)[request_id]
