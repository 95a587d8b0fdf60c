"""A real server on loopback: the right numbers, a clear error for every hostile request, and it stays up."""

import base64
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import prediction_cases as cases
import pytest
import tensorflow as tf
from test_serving import BAD_CROPS, GOOD, bomb, cell, png

from hpa_tf import serving
from hpa_tf.serving import server as server_module

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples" / "serving"))
client = importlib.import_module("client")


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


BAD_REQUESTS = {
    **{name: {"instances": [{"crop": b64(data)}]} for name, (data, _) in BAD_CROPS.items()},
    "a list": [],
    "no instances": {"inputs": []},
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
def address(run):
    """Start the server on a free port of the loopback interface; yield (address, process)."""
    if importlib.util.find_spec("kserve") is None:
        pytest.skip("needs the extra [serve]")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "hpa_tf.serving", "serve", "--run", str(run), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{url}/v1/models/hpa", timeout=5).read()
            break
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, "the server ended"
            time.sleep(0.5)
    yield url, process
    process.terminate()
    process.wait(30)


def post(url: str, body: bytes) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_server_gives_the_numbers_of_the_savedmodel(run, address):
    crops = [png(cell(seed, dtype)[0]) for seed, dtype in ((1, np.uint8), (2, np.uint16), (3, np.uint8))]
    expected = serving.load(run).signatures["serving_default"](crop=tf.constant(crops))["probabilities"].numpy()
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


def test_other_models_and_broken_json(address):
    assert post(f"{address[0]}/v1/models/other:predict", b'{"instances": []}')[0] == 404
    assert 400 <= post(f"{address[0]}/v1/models/hpa:predict", b'{"instances": [')[0] < 500
    assert len(client.predict(address[0], "hpa", [GOOD])[0]) == 19


def test_many_clients_at_once_get_their_own_answers(address):
    crops = [png(cell(seed)[0]) for seed in range(8)]
    alone = [client.predict(address[0], "hpa", [crop])[0] for crop in crops]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: client.predict(address[0], "hpa", [crops[i % 8]])[0], range(64)))
    for i, answer in enumerate(answers):
        np.testing.assert_allclose(answer, alone[i % 8], atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(BAD_REQUESTS) - set(BAD_CROPS)))
def test_bad_requests_are_refused_without_a_server(run, name):
    with pytest.raises(ValueError):
        server_module.predict(serving.load(run), BAD_REQUESTS[name])
