"""A real server on loopback: the right numbers, a clear error for every hostile request, and it stays up."""

import asyncio
import base64
import contextlib
import http.client
import importlib
import json
import select
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import prediction_cases as cases
import pytest
import tensorflow as tf
from test_serving import BAD_CROPS, GOOD, bomb, cell, png

from hpa_tf import serving
from hpa_tf.serving import command
from hpa_tf.serving import server as server_module

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples" / "serving"))
client = importlib.import_module("client")


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


BLACK, REGION = png(0 * cell(1)[0]), cell(1)[1]
BAD_REGIONS = {
    "0 and 255": png((REGION == 1).astype(np.uint8) * 255),
    "5 is no region": png(REGION + 4 * (REGION == 2).astype(np.uint8)),
    "no pixel of the cell": png(np.where(REGION == 3, REGION, 0).astype(np.uint8)),
    "all background": png(0 * REGION),
}
BAD_REQUESTS = {
    **{name: {"instances": [{"crop": b64(GOOD), "region": b64(data)}]} for name, data in BAD_REGIONS.items()},
    "signature of other inputs": {"signature_name": "crop_and_region", "instances": [{"crop": b64(GOOD)}]},
    "signature that is not there": {"signature_name": "no_such", "instances": [{"crop": b64(GOOD)}]},
    "signature that is no name": {"signature_name": 7, "instances": [{"crop": b64(GOOD)}]},
    "rows and columns": {"instances": [{"crop": b64(GOOD)}], "inputs": {"crop": [b64(GOOD)]}},
    "columns of two lengths": {"inputs": {"crop": [b64(GOOD)] * 2, "region": [b64(png(REGION))]}},
    "a column that is no list": {"inputs": {"crop": b64(GOOD)}},
    "no column": {"inputs": {}},
    "columns of another name": {"inputs": {"image": [b64(GOOD)]}},
    "another key": {"instances": [{"crop": b64(GOOD)}], "parameters": {"tta": 8}},
    "too many pixels together": {"instances": [{"crop": b64(bomb(4096, 4096)[:1000])}] * 5},
    **{name: {"instances": [{"crop": b64(data)}]} for name, (data, _) in BAD_CROPS.items()},
    "a list": [],
    "no instances": {"examples": []},
    "no cells": {"instances": []},
    "too many cells": {"instances": [{"crop": b64(b"")}] * (server_module.MAX_INSTANCES + 1)},
    "wrong name": {"instances": [{"image": b64(GOOD)}]},
    "numbers": {"instances": [1, 2, 3]},
    "null": {"instances": [None]},
    "no base64": {"instances": [{"crop": {"b64": "!!!"}}]},
    "a number as base64": {"instances": [{"crop": {"b64": 7}}]},
    "mixed inputs": {"instances": [{"crop": b64(GOOD)}, {"crop": b64(GOOD), "region": b64(GOOD)}]},
    "wrong region": {"instances": [{"crop": b64(GOOD), "region": b64(bomb(60_000, 60_000, 8, 0))}]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return cases.write_run(tmp_path_factory.mktemp("http") / "run")


@pytest.fixture(scope="module")
def served(run):
    return serving.load(run)


def start(run: Path, *options: str) -> tuple[subprocess.Popen, str]:
    """Start the server on a free port of the loopback interface; return its process and address once it is up."""
    command = [sys.executable, "-m", "hpa_tf.serving", "serve", "--run", str(run), "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert "/v1/models/hpa:predict" in line, (line, process.stderr.read()[-2000:])
    return process, "http" + line.rsplit("http", 1)[1].split("/v1/")[0]


@pytest.fixture(scope="module")
def address(run):
    """Start the server; yield (address, process)."""
    pytest.importorskip("uvicorn", reason="needs the extra [serve]")
    process, url = start(run)
    yield url, process
    process.terminate()
    process.wait(30)


JSON = {"Content-Type": "application/json"}


def post(url: str, body: bytes | None, headers: dict[str, str] = JSON, method: str | None = None) -> tuple[int, str]:
    """Send one request, a GET without body; return status and text."""
    asked = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def raw(address: str, data: bytes, timeout: float = 60) -> bytes:
    """Send bytes on a connection of their own; return all that comes back until the server closes it."""
    with socket.create_connection(place(address), timeout) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def place(address: str) -> tuple[str, int]:
    host, port = address.removeprefix("http://").rsplit(":", 1)
    return host, int(port)


ASKED = json.dumps({"instances": [{"crop": b64(GOOD)}]}).encode()


def test_server_gives_the_numbers_of_the_savedmodel(served, address):
    crops = [png(cell(seed, dtype)[0]) for seed, dtype in ((1, np.uint8), (2, np.uint16), (3, np.uint8))]
    expected = served.signatures["serving_default"](crop=tf.constant(crops))["probabilities"].numpy()
    np.testing.assert_allclose(client.predict(address[0], "hpa", crops), expected, atol=1e-6)


def test_curl_example(run, address, tmp_path):
    (tmp_path / "crop.png").write_bytes(GOOD)
    script = [str(ROOT / "examples/serving/client.sh"), address[0], "hpa", str(tmp_path / "crop.png")]
    printed = json.loads(subprocess.run(script, capture_output=True, check=True).stdout)
    row = printed["predictions"][0]["probabilities"]
    np.testing.assert_allclose(row, client.predict(address[0], "hpa", [GOOD])[0], atol=1e-6)


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_hostile_requests_get_400_and_a_reason(address, name):
    status, text = post(f"{address[0]}/v1/models/hpa:predict", json.dumps(BAD_REQUESTS[name]).encode())
    assert status == 400 and len(json.loads(text)["error"]) < 1000, text[:500]
    assert "Traceback" not in text and "node" not in text
    if name == "60,000 x 60,000":
        assert "60000 60000" in text
    assert address[1].poll() is None
    assert len(client.predict(address[0], "hpa", [GOOD])[0]) == 19


def test_broken_json(address):
    bodies = (b'{"instances": [', b"\x89PNG", b"", b"[" * 100_000, b'{"instances": [' + b"[]," * 1_000_000 + b"[]]}")
    for body in bodies:
        status, text = post(f"{address[0]}/v1/models/hpa:predict", body)
        assert status == 400 and json.loads(text)["error"], body[:50]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/other:predict"),
        ("POST", "/v2/repository/models/hpa/unload"),
        ("POST", "/v2/repository/models/hpa/load"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/models/hpa/infer"),
        ("POST", "/v1/models/hpa:explain"),
        ("GET", "/v1/models/hpa:predict"),
        ("DELETE", "/v1/models/hpa"),
        ("OPTIONS", "/v1/models/hpa:predict"),
        ("POST", "/v1/models/hpa:predict/"),
        ("GET", "/v1/models/../../etc/passwd"),
        *(
            ("GET", path)
            for path in ("/", "/metrics", "/docs", "/openapi.json", "/v2", "/v2/health/live", "/v1/models")
        ),
    ],
)
def test_only_the_paths_that_serving_needs_answer(address, method, path):
    status, text = post(address[0] + path, ASKED if method == "POST" else None, JSON, method)
    assert status in (404, 405) and "error" in json.loads(text)
    assert post(f"{address[0]}/v1/models/hpa", None)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": "localhost.evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "10.0.0.1"}, 421),
        ({"Host": "localhost@evil.example"}, 421),
        ({"Host": "localhost:x"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "text/plain; application/json"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=a"}, 415),
    ],
)
def test_what_a_web_page_can_send_is_refused(address, headers, status):
    found, text = post(f"{address[0]}/v1/models/hpa:predict", ASKED, JSON | headers)
    assert found == status and "error" in json.loads(text) and "probabilities" not in text


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "LOCALHOST:9000"},
        {"Host": "[::1]:8501"},
        {"Host": "127.0.0.2"},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "Application/JSON"},
        {"Host": "localhost:1", "Origin": "http://localhost:1", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_what_is_from_here_is_answered(address, headers):
    assert post(f"{address[0]}/v1/models/hpa:predict", ASKED, JSON | headers)[0] == 200


def test_hosts_of_a_server_that_others_may_reach():
    web = pytest.importorskip("hpa_tf.serving.web")
    everywhere, named = web.Hosts("0.0.0.0"), web.Hosts("127.0.0.1", ("gpu7.lab.example",))
    assert everywhere.has("10.1.2.3") and everywhere.has("localhost") and not everywhere.has("gpu7.lab.example")
    assert named.has("GPU7.lab.example") and not named.has("10.1.2.3") and not named.has("lab.example")


@pytest.mark.parametrize("name", ["gpu1:8501", "http://gpu1", "gpu1/", "[::1]", "", "*", "gpu1, gpu2"])
def test_allowed_hosts_that_no_request_can_have_are_refused(name, capsys):
    pytest.importorskip("hpa_tf.serving.web")
    assert command.main(["serve", "--run", "nowhere", "--port", "0", "--allow-host", name]) == 2
    error = capsys.readouterr().err
    assert f"--allow-host: found {name!r}" in error and error.count("\n") == 1


def test_the_refused_host_is_named_as_it_can_be_allowed():
    web = pytest.importorskip("hpa_tf.serving.web")
    guard = web.Guard(None, web.Hosts("127.0.0.1", ("gpu1", "2001:db8::1")))
    assert guard._fault([(b"host", b"gpu1:8501")]) is None and guard._fault([(b"host", b"[2001:db8::1]:1")]) is None
    code, text = guard._fault([(b"host", b"gpu2:8501")])
    assert code == 421 and text.startswith("host 'gpu2' is not served here")


def test_two_hosts_and_no_host_are_refused(address):
    line = b"GET /v1/models/hpa HTTP/1.1\r\nConnection: close\r\n"
    assert b" 400 " in raw(address[0], line + b"\r\n").splitlines()[0]
    assert b" 4" in raw(address[0], line + b"Host: localhost\r\nHost: evil.example\r\n\r\n").splitlines()[0]
    assert b" 421 " in raw(address[0], b"GET /v1/models/hpa HTTP/1.0\r\n\r\n").splitlines()[0]


def test_large_bodies_are_refused_before_they_are_held(address):
    """A gigabyte: announced, sent without its length, and as chunks."""
    head = b"POST /v1/models/hpa:predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    psutil = pytest.importorskip("psutil")
    before = psutil.Process(address[1].pid).memory_info().rss
    assert b" 413 " in answer_to(address[0], head + b"Content-Length: 1000000000\r\n\r\n", 1 << 30)
    for _ in range(5):  # the answer arrives however much is still under way
        assert b" 413 " in answer_to(address[0], head + b"Transfer-Encoding: chunked\r\n\r\n40000000\r\n", 200 << 20)
    assert b" 400 " in answer_to(address[0], head + b"Content-Length: -5\r\n\r\n", 0)
    assert psutil.Process(address[1].pid).memory_info().rss - before < 200 << 20
    assert len(client.predict(address[0], "hpa", [GOOD])[0]) == 19


def test_refused_requests_are_answered_though_their_bodies_are_under_way(address):
    """Their last part may be the one too many; the kind of the body, or the host, may be wrong before it is read."""
    web = importlib.import_module("hpa_tf.serving.web")
    for host, kind, size, code in (
        ("localhost", "application/json", web.MAX_BODY + 1, 413),
        ("localhost", "text/plain", web.MAX_BODY + 1, 415),
        ("evil.example", "application/json", 8 << 20, 421),
    ):
        connection = http.client.HTTPConnection(*place(address[0]), timeout=10)  # s; less than a request's time
        parts = iter([b" " * (size - 1), b" "])
        headers = {"Host": host, "Content-Type": kind, "Transfer-Encoding": "chunked"}
        connection.request("POST", "/v1/models/hpa:predict", parts, headers, encode_chunked=True)
        assert connection.getresponse().status == code
        connection.close()


def answer_to(address: str, head: bytes, size: int) -> bytes:
    """Send a head and up to `size` zeros, until no more are taken once an answer is there; return its first line."""
    with socket.create_connection(place(address), 60) as connection:
        connection.sendall(head)
        connection.settimeout(0.01)
        block, sent = b"0" * (1 << 20), 0
        while sent < size:
            try:
                sent += connection.send(block)
            except TimeoutError:  # a slow reader, or one that has answered
                if select.select([connection], [], [], 0)[0]:
                    break
            except OSError:
                break
        connection.settimeout(60)
        return connection.recv(1000).partition(b"\r\n")[0]


@pytest.mark.slow
def test_requests_that_never_end_lose_their_connections_and_keep_nobody_waiting(address):
    head = b"POST /v1/models/hpa:predict HTTP/1.1\r\nHost: localhost\r\n"
    halves = (
        b"",
        head,
        head + b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{",
        head + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"GET /v1/models/hpa HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1/models/hpa HTTP/1.1\r\n",
    )
    connections = [socket.create_connection(place(address[0]), 60) for _ in range(300)]
    for number, connection in enumerate(connections):
        connection.sendall(halves[number % len(halves)])
    assert len(client.predict(address[0], "hpa", [GOOD], timeout=10)[0]) == 19
    deadline = time.monotonic() + web_module().SECONDS_TO_SEND + 15
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline - 10:  # a slow sender is no better than one that stopped
            connections[1].sendall(b"X-A: b\r\n")
            time.sleep(1)
    for connection in connections:
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65536):
                pass
        connection.close()


@pytest.mark.slow
def test_one_connection_too_many_is_closed_at_once(address):
    connections = [socket.create_connection(place(address[0]), 60) for _ in range(web_module().MAX_CONNECTIONS + 20)]
    assert is_closed(connections[-1], seconds=10), "it comes last"
    closed = [is_closed(connection) for connection in connections]
    assert 20 <= sum(closed) <= 25 and not any(closed[:100]), "25: some that others left are not gone yet"
    for connection in connections:
        connection.close()
    time.sleep(1)
    assert len(client.predict(address[0], "hpa", [GOOD])[0]) == 19


def is_closed(connection: socket.socket, seconds: float = 0) -> bool:
    """Tell whether the server closes a connection, of which it is asked nothing, within some seconds."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except (TimeoutError, BlockingIOError):
        return False
    except ConnectionResetError:
        return True


def web_module():
    return importlib.import_module("hpa_tf.serving.web")


def test_columns_and_signature_names_as_tensorflow_serving_takes_them(address):
    crops, regions = [png(cell(seed)[0]) for seed in (1, 2)], [png(cell(seed)[1]) for seed in (1, 2)]
    url = f"{address[0]}/v1/models/hpa:predict"

    def ask(payload: dict) -> dict:
        return json.loads(post(url, json.dumps(payload).encode())[1])

    rows = [{"crop": b64(crop), "region": b64(region)} for crop, region in zip(crops, regions, strict=True)]
    by_rows = ask({"signature_name": "crop_and_region", "instances": rows})["predictions"]
    columns = {"crop": [b64(crop) for crop in crops], "region": [b64(region) for region in regions]}
    by_columns = ask({"inputs": columns})["outputs"]["probabilities"]
    assert by_columns == [row["probabilities"] for row in by_rows]
    alone = ask({"signature_name": "serving_default", "inputs": [b64(crop) for crop in crops]})["outputs"]
    assert alone["probabilities"] == client.predict(address[0], "hpa", crops)
    assert np.abs(np.array(alone["probabilities"]) - by_columns).max() > 1e-3


def test_a_port_that_is_taken_is_one_line(run, address, capsys):
    pytest.importorskip("uvicorn", reason="needs the extra [serve]")
    assert command.main(["serve", "--run", str(run), "--port", str(place(address[0])[1])]) == 2
    error = capsys.readouterr().err
    assert "--port" in error and error.count("\n") == 1


@pytest.mark.parametrize("host", ["127.0..1", 70 * "a"])
def test_a_host_that_no_name_can_be_is_one_line(host, capsys):
    pytest.importorskip("uvicorn", reason="needs the extra [serve]")
    assert command.main(["serve", "--run", "nowhere", "--host", host, "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert f"{host} 0" in error and error.count("\n") == 1


def test_many_clients_at_once_get_their_own_answers(address):
    crops = [png(cell(seed)[0]) for seed in range(8)]
    alone = [client.predict(address[0], "hpa", [crop])[0] for crop in crops]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: client.predict(address[0], "hpa", [crops[i % 8]])[0], range(64)))
    for i, answer in enumerate(answers):
        np.testing.assert_allclose(answer, alone[i % 8], atol=1e-6)


def test_many_cells_are_computed_some_at_a_time_and_stay_in_order(served):
    crops, sizes = [png(cell(seed)[0]) for seed in range(40)], []

    def counted(crop: tf.Tensor) -> dict[str, tf.Tensor]:
        sizes.append(len(crop))
        return served.signatures["serving_default"](crop=crop)

    found = server_module.predict(
        replace(served, signatures={"serving_default": counted}), {"inputs": [b64(crop) for crop in crops]}
    )
    expected = served.signatures["serving_default"](crop=tf.constant(crops))["probabilities"].numpy()
    np.testing.assert_allclose(found["outputs"]["probabilities"], expected, atol=1e-6)
    assert sizes == [16, 16, 8]


def test_an_error_of_the_server_is_said_to_both_sides(capsys):
    pytest.importorskip("uvicorn", reason="needs the extra [serve]")
    from hpa_tf.serving import web

    def fail(body: bytes) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when\nallocating")

    async def receive() -> dict:
        return {"type": "http.request", "body": ASKED}

    async def send(message: dict) -> None:
        sent.append(message)

    path, headers, sent = "/v1/models/hpa:predict", [(b"content-type", b"application/json")], []
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    asyncio.run(web.application("hpa", fail, 1)(scope, receive, send))
    assert sent[0]["status"] == 500 and "ResourceExhaustedError" in json.loads(sent[1]["body"])["error"]
    assert capsys.readouterr().err == "hpa: ResourceExhaustedError: OOM when allocating\n"


@pytest.mark.parametrize("name", sorted(set(BAD_REQUESTS) - set(BAD_CROPS)))
def test_bad_requests_are_refused_without_a_server(served, name):
    with pytest.raises(ValueError):
        server_module.predict(served, BAD_REQUESTS[name])
