"""The same library loads and streams on stock servers from 23.12 to today's."""

import json

import pytest
from repository import make_model
from server import Server
from servers import SERVERS
from streams import grpc_answer


@pytest.mark.parametrize("version", SERVERS)
def test_load_and_stream(repository, version):
    make_model(repository)
    with Server(repository, program=SERVERS[version]) as server:
        reported = json.loads(server.get("/v2")[1])["version"]
        # "default" is a server of the machine's, of any version.
        assert reported == version or version == "default"
        text = server.stream("Count to 20").whole()
        assert text
        assert grpc_answer(server.grpc, "Count to 20").whole() == text
        status, body = server.generate("Count to 20")
        assert status == 200 and json.loads(body["text_output"])["content"] == text
        assert "temperature" in server.stream("x", temperature=-1).error
        assert server.stop() == 0
