"""A quantised checkpoint as ONNX: by its network file, or by its model.

Start at `export_checkpoint`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ai8x.checkpoint import Checkpoint
from ai8x.errors import Source, user_error
from ai8x.files import atomic_write
from ai8x.network.build import build_network
from ai8x.network.ir import Network, TensorShape
from ai8x.network.onnx import export_onnx
from ai8x.network.onnx_graph import require_onnx
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file
from ai8x.nn.export import network_from_model
from ai8x.quantization.task import Task


def export_checkpoint(path: Path, checkpoint: Checkpoint, network_file: Path | None,
                      find_task: Callable[[], Task]) -> int:
    """Write a quantised checkpoint as ONNX that computes its integers exactly.

    Args:
        path: the folder must exist.
        checkpoint: quantised.
        network_file: description of the network; None takes the model that the checkpoint names.
        find_task: gives that model.

    Returns:
        Number of layers.

    Raises:
        UserError: E0817 without onnx, E0722 where the shape of the input is not known, and what building says.
    """
    require_onnx()
    if network_file is None:
        task = find_task()
        network = network_from_model(task.integer_model(checkpoint), task.data.input_shape, name=task.model.name,
                                     dataset=task.data.name, labels=task.data.labels)
    else:
        network = _described_network(checkpoint, network_file)
    atomic_write(path, export_onnx(network))
    return len(network.layers)


def _described_network(checkpoint: Checkpoint, network_file: Path) -> Network:
    shape = checkpoint.input_shape or (None if checkpoint.sample is None else checkpoint.sample.shape)
    if shape is None:
        raise user_error("E0722", "the checkpoint does not say which shape its input has",
                         source=Source(file=checkpoint.file), found="neither input_shape nor a sample",
                         allowed="a checkpoint of train.py", help="leave --config-file out, so that the model is asked")
    parameters = parameters_from_state(checkpoint.state, file=checkpoint.file)
    return build_network(read_network_file(network_file), parameters, TensorShape(*(*shape, 1)[:3]),
                         checkpoint_arch=checkpoint.arch or None)
