"""`python -m moga.train`, in a process in which accelerate also splits weights on a CPU.

PyTorch does; accelerate only asks it to where it has seen an accelerator, so it is told of one.
"""

import runpy

from accelerate.state import PartialState
from accelerate.utils import DistributedType

begin = PartialState.__init__


def begin_as_if_accelerated(state, *args, **kwargs):
    begin(state, *args, **kwargs)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_XPU


PartialState.__init__ = begin_as_if_accelerated
runpy.run_module("moga.train", run_name="__main__", alter_sys=True)
