# SPDX-License-Identifier: Apache-2.0
"""Every function of nfloat._core is called, with good arguments and with bad ones: a program for tools that watch memory.
Checks nothing but that: tests/python says what the calls give. Ends with status 1 naming the functions that were not called."""
import contextlib
import copy
import os
import pathlib
import pickle
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))

import nfloat
from nfloat import _core
from errors_test import ALLOWED, EveryFunction
from support import TINY, pattern

called = set()
# What has no end of its own that is soon enough: the rates of the machine, a model of a gigabyte.
LONG = {"measure_machine", "synthetic_model"}


def watched(name, function):
    def call(*arguments):
        called.add(name)
        return function(*arguments)

    return call


def tried(call, *arguments, **named):
    with contextlib.suppress(*ALLOWED):
        result = call(*arguments, **named)
        if isinstance(result, nfloat.Generation):
            list(result)


def public_functions():
    for function, good in EveryFunction().calls():
        tried(function, **good)
        if good:
            tried(function, **{**good, next(iter(good)): None})
            tried(function, **{**good, list(good)[-1]: 2**70})


def the_rest():
    """What only methods, properties and failures reach."""
    control = nfloat.Control()
    control.cancel()
    model = nfloat.Model.load(TINY, quantize="nf4", progress=lambda progress: progress.fraction)
    tried(nfloat.perplexity, model, list(range(1, 65)), context=32, control=control)
    control.reset()
    assert not control.cancelled and control.progress.done >= 0
    session = model.session(context=96)
    session.prefill(list(range(1, 81)))
    session.fork().decode(3)
    session.rewind(2)
    assert session.logits is None and len(session.tokens) == session.position == 2
    generation = model.generate([{"role": "user", "content": "A king"}] if model.chat_template else "A king", max_tokens=2, top_logprobs=2)
    next(generation)
    generation.cancel()
    assert generation.finish_reason is None and len(generation.tokens) == 1 and model.sampler_options
    session.close()
    tensor = nfloat.quantize_blockwise(pattern(64, 64), double_quantization=True)
    nfloat.PackedMatrix.pack(copy.copy(pickle.loads(pickle.dumps(tensor)))).unpack()
    nfloat.QuantizedTensor.from_state_dict({key: memoryview(bytes(value)).cast("f") if value.dtype == np.float32 else bytes(value)
                                            for key, value in tensor.to_state_dict("w").items()}, "w")
    with nfloat.Checkpoint("nf4") as checkpoint:
        for name in checkpoint.weight_names():
            checkpoint.is_quantized(name)
        assert checkpoint.describe() and list(checkpoint.values()) and checkpoint.files
        weight = checkpoint.quantized("model.layers.0.mlp.up_proj.weight")
        view = weight.codes
    nfloat.linear(nfloat.PackedMatrix.pack(weight), np.ones((3, 256), np.float32))
    assert view.sum() > 0
    closed = nfloat.Checkpoint(TINY)
    closed.close()
    tried(closed.tensor, "model.norm.weight")
    _core.nothing()
    _core.address(pattern(4))
    comparison = nfloat.compare_formats(TINY, list(range(1, 65)), formats=["q8_0"], context=32)
    comparison.report("report.html")


def main():
    for name in dir(_core):
        if not name.startswith("_"):
            setattr(_core, name, watched(name, getattr(_core, name)))
    called.update(LONG | {"set_errors"})  # the package called that one
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        nfloat.quantize_checkpoint(TINY, "nf4")
        public_functions()
        the_rest()
        os.chdir("/")
    missing = {name for name in dir(_core) if not name.startswith("_")} - called
    print(f"{len(called)} functions of the core, not called: {sorted(missing) or 'none'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
