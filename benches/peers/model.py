"""A chat model for Triton's Python backend, as people write it: llama-cpp-python, one request at a time.

The peer of row 3. Speaks the protocol of triton-llm. Its settings come from the
model configuration: model_path, n_ctx, n_threads and flash_attn.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from llama_cpp import Llama


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        settings = {name: value["string_value"] for name, value in parameters.items()}
        n_threads = int(settings["n_threads"])
        self.llama = Llama(
            settings["model_path"],
            n_ctx=int(settings["n_ctx"]),
            n_threads=n_threads,
            n_threads_batch=n_threads,
            flash_attn=settings["flash_attn"] == "on",
            verbose=False,
        )

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            try:
                self.answer(request, sender)
            except Exception as error:
                reply = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
                sender.send(reply, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def answer(self, request, sender):
        text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy().reshape(-1)[0]
        settings = json.loads(request.parameters())
        n_tokens = 0
        stream = self.llama.create_chat_completion(
            json.loads(text),
            stream=True,
            max_tokens=settings["max_tokens"],
            temperature=settings["temperature"],
        )
        for part in stream:
            content = part["choices"][0]["delta"].get("content")
            if content:
                n_tokens += 1
                sender.send(response({"type": "chunk", "content": content}))
        usage = {"prompt_tokens": self.llama.n_tokens - n_tokens, "completion_tokens": n_tokens}
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        sender.send(response({"type": "complete", "usage": usage}), flags=final)


def response(message):
    data = np.array([json.dumps(message).encode()], dtype=np.object_)
    return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", data)])
