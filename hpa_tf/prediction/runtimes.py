"""What runs a network: TensorFlow on one device or several, onnxruntime or OpenVINO; the same numbers to 1e-4."""

import contextlib
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from hpa_tf.devices import find_gpus, mirrored_strategy
from hpa_tf.errors import InputError
from hpa_tf.prediction import members
from hpa_tf.prediction.batching import Inputs
from hpa_tf.prediction.inference import Run
from hpa_tf.prediction.members import Network
from hpa_tf.prediction.options import Runtime
from hpa_tf.recipes import System, system_named
from hpa_tf.serving.onnx import names_in, onnx_session, to_onnx

if TYPE_CHECKING:
    from openvino import ConstOutput

_PACKAGES = {"tensorflow": "tensorflow", "onnx": "onnxruntime", "openvino": "openvino"}
_FASTEST_FIRST = ("openvino", "onnx")  # measured: benchmarks/predict.py


class Device:
    """Where and how the networks run: set TensorFlow up, load networks in `scope()`, then `run_of` each.

    Args:
        runtime: See `Options`; precision and strategy, too.
        precision: "float32" or "mixed".
        strategy: "one" device, or batches "mirrored" over all GPUs.

    Raises:
        InputError: The options exclude each other, or a package or device is missing.
    """

    def __init__(self, runtime: Runtime = "tensorflow", precision: str = "float32", strategy: str = "one"):
        gpus = find_gpus()
        if strategy != "one" and runtime not in ("tensorflow", "auto"):
            fix = "drop one of the two"
            raise InputError("--strategy", f"mirrored with --runtime {runtime}", "--runtime tensorflow", fix)
        self.runtime = "tensorflow" if strategy != "one" else _choose(runtime, bool(gpus))
        self._mixed = precision == "mixed"
        if self.runtime == "onnx" and self._mixed:
            raise InputError("--precision", "mixed with --runtime onnx", "float32", "use tensorflow or openvino")
        if self._mixed:
            kind = "auto_mixed_precision" if gpus else "auto_mixed_precision_onednn_bfloat16"
            tf.config.optimizer.set_experimental_options({kind: True})
        self._strategy = None
        if strategy == "mirrored":
            self._strategy = mirrored_strategy()

    @property
    def facts(self) -> dict[str, Any]:
        """What of this decides the numbers, for the manifest."""
        module = importlib.import_module(_PACKAGES[self.runtime])  # installed as tensorflow, tensorflow-cpu, ...
        version = module.__version__.partition("-")[0]  # without OpenVINO's build
        return {"runtime": self.runtime, "version": version, "replicas": self.replicas}

    @property
    def replicas(self) -> int:
        """Devices that share a batch."""
        return self._strategy.num_replicas_in_sync if self._strategy else 1

    def scope(self) -> contextlib.AbstractContextManager:
        """Return the context in which networks are loaded."""
        return self._strategy.scope() if self._strategy else contextlib.nullcontext()

    def run_of(self, network: Network) -> Run:
        """Return how one network is run."""
        if self.runtime == "onnx":
            return _onnx_run(network)
        if self.runtime == "openvino":
            return _openvino_run(network, self._mixed)
        return _mirrored_run(network, self._strategy) if self._strategy else tensorflow_run(network)


@dataclass(frozen=True)
class NetworkRequest:
    """Which networks predict, and what runs them: the options of these names.

    Attributes:
        run: Run folders.
        system: Name of a system instead.
        runs: Folder of its members.
        runtime: What runs them.
        precision: "float32" or "mixed".
        strategy: "one" or "mirrored".
    """

    run: tuple[str, ...] = ()
    system: str | None = None
    runs: str = "runs"
    runtime: Runtime = "tensorflow"
    precision: str = "float32"
    strategy: str = "one"

    def open(self) -> tuple[Device, list[Network], System | None]:
        """Set the device up and load the networks.

        Returns:
            The device, the networks with their weights, and the system if one is asked for.

        Raises:
            InputError: The options exclude each other, a package or a run is missing, or a run cannot be used.
        """
        system = system_named(self.system) if self.system else None
        device = Device(self.runtime, self.precision, self.strategy)
        with device.scope():
            networks = members.load_members(system, self.runs) if system else members.load_networks(self.run)
        return device, networks, system


def _choose(asked: str, has_gpu: bool) -> str:
    """Return the runtime that `auto` stands for, or the one that was asked for if it is installed."""
    installed = {name for name, package in _PACKAGES.items() if importlib.util.find_spec(package)}
    if asked == "auto":
        can_convert = importlib.util.find_spec("tf2onnx") is not None
        return next(
            (name for name in _FASTEST_FIRST if name in installed and can_convert and not has_gpu), "tensorflow"
        )
    if asked not in installed:
        package = _PACKAGES[asked]
        raise InputError("--runtime", f"{package} is not installed", package, f"pip install 'hpa_tf[{asked}]'")
    return asked


def tensorflow_run(network: Network) -> Run:
    infer = network.served.signatures["prepared"]

    def run(inputs: Inputs) -> dict[str, np.ndarray]:
        answer = infer(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: tensor.numpy() for name, tensor in answer.items()}

    return run


def _mirrored_run(network: Network, strategy: tf.distribute.Strategy) -> Run:
    """Split each batch into equal slices, one a replica."""
    infer, count = network.served.signatures["prepared"], strategy.num_replicas_in_sync

    @tf.function
    def on_replicas(slices: Any) -> Any:
        return strategy.run(lambda inputs: infer(**inputs), args=(slices,))

    def distributed(values: np.ndarray) -> Any:
        padded = np.concatenate([values, np.zeros((-len(values) % count, *values.shape[1:]), values.dtype)])
        parts = np.split(padded, count)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def run(inputs: Inputs) -> dict[str, np.ndarray]:
        size = len(next(iter(inputs.values())))
        answers = on_replicas({name: distributed(values) for name, values in inputs.items()})
        joined = {name: strategy.experimental_local_results(value) for name, value in answers.items()}
        return {name: np.concatenate([one.numpy() for one in ones])[:size] for name, ones in joined.items()}

    return run


def _onnx_run(network: Network) -> Run:
    session = onnx_session(to_onnx(network.served))
    names = [output.name for output in session.get_outputs()]
    given = [one.name for one in session.get_inputs()]

    def run(inputs: Inputs) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {name: inputs[name] for name in given}), strict=True))

    return run


def _openvino_run(network: Network, mixed: bool) -> Run:
    import openvino

    data = to_onnx(network.served)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if mixed else "f32"}
    compiled = core.compile_model(core.read_model(data), "CPU", settings)
    given, answered = names_in(data)
    ports = {_own_name(one, given): one for one in compiled.inputs}
    names = [_own_name(one, answered) for one in compiled.outputs]

    def run(inputs: Inputs) -> dict[str, np.ndarray]:
        answers = compiled({port: inputs[name] for name, port in ports.items()})
        return {name: np.array(answers[i]) for i, name in enumerate(names)}

    return run


def _own_name(port: "ConstOutput", known: Sequence[str]) -> str:
    """Return the name in the file of an input or output of OpenVINO, which also bears those of operations beside it."""
    return next(name for name in known if name in port.get_names())
