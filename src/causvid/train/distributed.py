"""Training in several processes: who does what, and transformers sharded over them (FSDP2).

A step's micro-batches are shared out: a process takes every so-manieth. Each has randomness of its own, so a step does
not depend on how many processes take it. Whatever decides how many passes are run is the same for all of them.

Letters: R processes, r this one.
"""

import copy
import datetime
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from causvid.models.transformer import TextKeys

M = TypeVar("M", bound=nn.Module)
JOINING, PATIENCE = datetime.timedelta(minutes=5), datetime.timedelta(hours=2)
"""How long a process waits for another to begin, and later on, when it may be writing samples or a result."""
_WHOLE: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
"""Of every sharded module, the module that it was: its weights are on the meta device."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train together: this one's number, and how many there are.

    together: how many neighbours share every clip, each with a part of its tokens (sequence parallelism).
    """

    rank: int = 0
    size: int = 1
    together: int = 1

    def __post_init__(self) -> None:
        if self.size % self.together:
            raise ValueError(f"sequence_parallel={self.together} does not divide {self.size} processes: use torchrun")

    @property
    def is_main(self) -> bool:
        """Tell whether this is the process that logs, samples and writes results."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return which of so many micro-batches are this process's, or its neighbours' and its own.

        Raises:
            ValueError: unless all processes get as many.
        """
        takers = self.size // self.together
        if count % takers:
            several = f"{takers} x {self.together}" if self.together > 1 else str(takers)
            raise ValueError(f"{count} micro-batches cannot be shared by {several} processes: use --micro-batches")
        return range(self.rank // self.together, count, takers)

    def agree(self, metrics: Mapping[str, float], flags: Sequence[bool]) -> tuple[dict[str, float], list[bool]]:
        """Return the mean of metrics over all processes, and of flags those that any process has set."""
        if self.size == 1:
            return dict(metrics), list(flags)
        values = torch.tensor([*metrics.values(), *flags], dtype=torch.float64)
        dist.all_reduce(values)
        means = (values[: len(metrics)] / self.size).tolist()
        return dict(zip(metrics, means, strict=True)), (values[len(metrics) :] > 0).tolist()

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(()))


@contextmanager
def processes(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that torchrun started, if it did; yield who this is, and the device that is its own.

    Raises:
        ConnectionError: if another process has ended.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=JOINING)
        _set_pg_timeout(PATIENCE)
        yield Ranks(dist.get_rank(), size), device
    except RuntimeError as error:
        lost = any(word in str(error).lower() for word in ("gloo", "nccl", "connection", "peer"))
        if not (lost or isinstance(error, dist.DistError)):
            raise
        raise ConnectionError("another process of this run has ended; the same command resumes") from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        if _mesh.cache_info().currsize:
            # Caches of torch keep the mesh, and with it gloo's threads, which abort a process that ends before them.
            vars(_mesh(device.type, size)).get("_pg_registry", {}).clear()
            _mesh.cache_clear()


@cache
def _mesh(kind: str, size: int) -> DeviceMesh:
    """Return the mesh of all processes."""
    return init_device_mesh(kind, (size,))


def shard(module: M, ranks: Ranks, device: torch.device) -> M:
    """Shard a module in place over all processes, a transformer's blocks each by itself; alone, leave it as it is.

    On CUDA, blocks travel and compute in bf16; what is sharded, and what gradients are summed in, is fp32.
    """
    if ranks.size == 1:
        return module
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    # Nothing here changes what a block returns in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    without = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    _WHOLE[module] = copy.deepcopy(module, dict[int, Any](without))
    mesh = _mesh(device.type, ranks.size)
    # Inputs stay as they are: residual sums are fp32, and products are autocast's.
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = half if device.type == "cuda" else MixedPrecisionPolicy()
    blocks = getattr(module, "blocks", ())
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        register_fsdp_forward_method(block, "encode_text")
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    if blocks:
        register_fsdp_forward_method(module, "encode_text")
        if TextKeys not in pytree.SUPPORTED_NODES:  # what it returns is looked through for tensors
            pytree.register_dataclass(TextKeys)
    return module


def is_sharded(module: nn.Module) -> bool:
    """Tell whether `shard` has sharded a module."""
    return module in _WHOLE


def gather(weights: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Return sharded weights whole, on the CPU, in the main process; in others nothing. All processes must call it."""
    whole = {}
    for name, tensor in weights.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if ranks.is_main:
            whole[name] = full.detach().to("cpu", copy=True)
    return whole


def unsharded(module: M, weights: Mapping[str, Tensor]) -> M:
    """Return a module as it was before it was sharded, with weights that `gather` returned."""
    device = local(next(module.parameters())).device
    whole = copy.deepcopy(_WHOLE[module])
    whole.load_state_dict(weights, assign=True)
    result: M = whole.to(device)  # type: ignore[assignment]
    return result


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process has, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float, ranks: Ranks) -> Tensor:
    """Average over all processes the gradients that sharding has not averaged; clip, and return their norm before."""
    found = [p.grad for p in parameters if p.grad is not None]
    grads = [local(grad) for grad in found]
    sharded = any(isinstance(grad, DTensor) for grad in found)
    if ranks.size > 1 and not sharded:
        for grad in grads:
            dist.all_reduce(grad)
            grad /= ranks.size
    norm = nn.utils.get_total_norm(grads)
    if sharded:
        total = norm.square()
        dist.all_reduce(total)
        norm = total.sqrt()
    torch._foreach_mul_(grads, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


def average_buffers(module: nn.Module, ranks: Ranks) -> None:
    """Average over all processes what a module has counted in the micro-batches that each has seen."""
    for buffer in module.buffers() if ranks.size > 1 else ():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= ranks.size


def recompute_blocks(model: nn.Module) -> None:
    """Compute the blocks of a transformer again in the backward pass, instead of keeping what they computed.

    With a cache, the slots that a pass has seen must be the same then; see `KVCache.preserve`.
    """
    for block in model.blocks:  # type: ignore[union-attr]
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Any, *tensors: Any, spans: Any = ()) -> Any:
    if not torch.is_grad_enabled():
        return forward(*tensors, spans=spans)
    tensors, room = tensors[:5], tensors[5:]
    passes = iter(range(2))

    def run(*tensors: Any) -> Any:
        again = next(passes, 1)  # by then, what was the tail of the cache is another chunk's history
        own = (part.clone() if again and part is not None else part for part in room)
        return forward(*tensors, *own, spans=spans)

    return checkpoint(run, *tensors, use_reentrant=False, preserve_rng_state=False)
