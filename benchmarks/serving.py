"""A load test of the HTTP server on loopback: requests/s, p50, p99 and errors by the number of clients.

    python benchmarks/serving.py     (needs the extra [serve])

EfficientNetB0 with random weights, crops of 400 px; beside it the same crops in the same SavedModel without HTTP.
"""

import base64
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf
import tyro

from hpa_tf import serving
from predict import make_run

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """Measure the server."""

    size: int = 128
    """Side of the network's input, px."""
    crop_size: int = 400
    """Side of the crops that are sent, px."""
    requests: int = 200
    """Requests a measurement."""


def start(run: str) -> tuple[subprocess.Popen, int]:
    """Start the server on a free port of the loopback interface and wait until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "hpa_tf.serving", "serve", "--run", run, "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(240):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return process, port
        except OSError:
            if process.poll() is not None:
                sys.exit("the server ended: is the extra [serve] installed?")
            time.sleep(0.5)
    sys.exit("the server does not answer")


def client(port: int, body: bytes, count: int) -> list[tuple[float, bool]]:
    """Send `count` requests over one connection; return (seconds, whether it was answered) of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    results = []
    for _ in range(count):
        begin = time.perf_counter()
        connection.request("POST", "/v1/models/hpa:predict", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        good = response.status == 200 and len(json.loads(answer)["predictions"]) > 0
        results.append((time.perf_counter() - begin, good))
    return results


def measure(port: int, crop: bytes, clients: int, cells: int, requests: int) -> str:
    """Return a line of the table."""
    instance = {"crop": {"b64": base64.b64encode(crop).decode()}}
    body = json.dumps({"instances": [instance] * cells}).encode()
    each = max(1, requests // clients // cells)
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        results = [one for many in threads.map(lambda _: client(port, body, each), range(clients)) for one in many]
    wall = time.perf_counter() - begin
    seconds, errors = np.array([second for second, _ in results]), sum(not good for _, good in results)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    speed = len(results) / wall
    return f"{clients:>7}{cells:>7}{speed:>12.1f}{speed * cells:>9.1f}{p50:>9.1f}{p99:>9.1f}{errors:>8}"


def main() -> None:
    """Run the load test."""
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory(prefix="hpa_tf_benchmark_") as folder:  # nothing of an earlier commit is measured
        load_test(options, make_run(Path(folder), options.size))


def load_test(options: Options, run: str) -> None:
    """Measure a run's network, then its server."""
    pixels = np.random.default_rng(0).integers(0, 64, (options.crop_size, options.crop_size, 4), np.uint8)
    crop = cv2.imencode(".png", pixels)[1].tobytes()
    infer = serving.load(run).signatures["serving_default"]
    for cells in (1, 8):
        infer(crop=tf.constant([crop] * cells))
        begin = time.perf_counter()
        for _ in range(10):
            infer(crop=tf.constant([crop] * cells))
        print(f"without HTTP, {cells} cells a call: {10 * cells / (time.perf_counter() - begin):.1f} cells/s")
    process, port = start(run)
    try:
        measure(port, crop, 2, 1, 20)
        print(f"{'clients':>7}{'cells':>7}{'requests/s':>12}{'cells/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
        for clients, cells in ((1, 1), (4, 1), (16, 1), (4, 8)):
            print(measure(port, crop, clients, cells, options.requests))
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
