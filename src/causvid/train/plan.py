"""How much memory a stage of training takes on each device, before anything loads.

Letters: B batch, F latent frames, C h w a latent frame, M text tokens.

What stays is counted from sizes. What each phase of an update takes is counted by running it, on tensors without
contents, for two transformers of few blocks: the memory of a phase grows by as much with every further block. So are
the moments between updates: samples, which are rolled out in place and decoded a latent frame at a time, and writing.
The start's weights while they load, and a bundle while it is written, are in the host's memory and not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from causvid.distill import critic_loss, student_loss
from causvid.engine.memory import peak_bytes, peaks_with_gradients, weight_bytes
from causvid.engine.plan import Plan, Sketch
from causvid.engine.rollout import rollout
from causvid.engine.solver import guided_velocity
from causvid.flow import Velocity, flow_matching_loss, x0_from_velocity
from causvid.loading.lora import Pair, changed
from causvid.media.writer import quantised
from causvid.models.autoencoder import pixel_frames
from causvid.models.transformer import Transformer
from causvid.nn.chunks import chunk_layout
from causvid.nn.visibility import Visibility
from causvid.seeding import without_contents
from causvid.train.distributed import recompute_blocks
from causvid.train.lora import LAYERS
from causvid.train.samples import SAMPLES
from causvid.train.sequence import Part, split_tokens
from causvid.train.stepwise import Stepwise

FULL, HALF = torch.float32.itemsize, torch.bfloat16.itemsize
MOMENTS = 2 * FULL
"""Of Adam, for each weight."""
FEW = (1, 2)
"""Blocks of the transformers that are run."""
STEADY = 4
"""Latent frames after which decoding one more takes no more memory."""
Kind = Literal["teacher", "ode", "dmd"]
Phase = Callable[[], None]


@dataclass(frozen=True)
class Training:
    """What decides the memory of a stage: its clips, how many processes share it, and how it is trained.

    batch, frames: of a micro-batch. together: how many of the processes share each clip. lora: rank. half: products are
    bf16, as on CUDA. rollout: the student's clips in stage `dmd` are rolled out, not noised data. muon: it moves the
    matrices of blocks, with one moment where Adam has two.
    """

    stage: Kind
    batch: int
    frames: int
    ranks: int = 1
    together: int = 1
    accumulates: bool = False
    lora: int | None = None
    recompute: bool = False
    average: bool = True
    half: bool = True
    rollout: bool = False
    muon: bool = False


def plan_training(sketch: Sketch, choice: Training) -> Plan:
    """Count what a stage takes on each device.

    Raises:
        ValueError: if there is no such clip, or a LoRA of a teacher is asked for.
    """
    g = sketch.generation
    if choice.frames < g.first or (choice.frames - g.first) % g.chunk:
        raise ValueError(f"frames={choice.frames} are not whole chunks: {g.first} and then {g.chunk} each")
    if choice.ranks % choice.together or (choice.together > 1 and choice.lora is not None):
        raise ValueError(
            f"sequence_parallel={choice.together} does not divide ranks={choice.ranks}, or does not go with a LoRA"
        )
    if choice.stage == "teacher" and choice.lora is not None:
        raise ValueError("stage=teacher trains all weights: leave out lora")
    with without_contents():
        model = Transformer(sketch.config)
    weights, block = weight_bytes(model, torch.float32), weight_bytes(model.blocks[0], torch.float32)
    low = 0 if choice.lora is None else FULL * _lora_numbers(model, choice.lora)
    share = choice.ranks if choice.lora is None else 1  # a LoRA, and what it is over, is whole on every device
    trained = low or weights // share
    roles = {"teacher": 1, "ode": 1, "dmd": 2}[choice.stage]
    text = weight_bytes(sketch.text, torch.float32)
    learnt = text // share if choice.stage == "teacher" else 0  # the teacher's text encoder is trained with it
    frozen = weights // share if choice.lora is not None or choice.stage == "dmd" else 0
    if frozen and share > 1 and choice.half:
        frozen -= block * sketch.config.layers // 2 // share
    both = roles * trained + learnt
    matrices = low or FULL * sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2) // share
    update, sample = _computed(sketch, choice)
    sides = _sides(sketch)
    latents = FULL * SAMPLES * _sampled(sketch, choice) * sketch.autoencoder.latent_channels * sides[0] * sides[1]
    update += learnt  # the text encoder's gradients
    if share > 1:
        numbers = block // FULL
        width = HALF if choice.half else FULL
        # A block that is gathered, the next one on its way, and what is in no block.
        sample += weights - block * sketch.config.layers + numbers * 3 * width
        # And gradients of a block before they are summed in fp32.
        update += trained + weights - block * sketch.config.layers + numbers * (3 * width + width + FULL)
    parts = {
        "weights in training": both,
        "frozen weights": frozen,
        "moments of the optimizer": MOMENTS // FULL * both - (roles * matrices if choice.muon else 0),
        "averages of weights": trained + learnt if choice.average else 0,
    }
    alone = 0 if learnt else max(0, text - sum(parts.values()))  # before any of them is there
    parts["autoencoder"] = weight_bytes(sketch.autoencoder, torch.bfloat16 if choice.half else torch.float32)
    moments = {
        "embedding captions": alone,
        "an update: gradients and activations": update,
        "generating samples": sample + latents,
        "decoding samples": _decoding(sketch, choice) + latents,
        "writing the weights": 0 if choice.lora is None else _merging(model, choice.lora),
    }
    return Plan(parts=parts, moments=moments)


def _layers(model: Transformer) -> dict[str, nn.Linear]:
    """Return what a LoRA is trained of."""
    return {
        name: part for name, part in model.named_modules() if isinstance(part, nn.Linear) and LAYERS.fullmatch(name)
    }


def _lora_numbers(model: Transformer, rank: int) -> int:
    return sum(rank * (layer.in_features + layer.out_features) for layer in _layers(model).values())


def _merging(model: Transformer, rank: int) -> int:
    """Return the bytes that merging a LoRA takes, one weight after another."""
    weight = max((layer.weight for layer in _layers(model).values()), key=Tensor.numel)
    rows, columns = weight.shape
    pair = Pair(weight.new_empty(rank, columns), weight.new_empty(rows, rank), 1.0)
    return peak_bytes(lambda: changed(weight, [(pair, 1.0)]))


def _decoding(sketch: Sketch, choice: Training) -> int:
    """Return the bytes that decoding samples takes at most."""
    coder = sketch.autoencoder.to(torch.bfloat16 if choice.half else torch.float32)
    latent = torch.empty(min(choice.batch, SAMPLES), 1, coder.latent_channels, *_sides(sketch), device="meta")

    def decode() -> None:
        state = None
        for _ in range(min(_sampled(sketch, choice), STEADY)):
            pixels, state = coder.decode_chunk(latent, state)
            quantised(pixels)

    g = sketch.generation
    videos = SAMPLES * pixel_frames(_sampled(sketch, choice)) * g.height * g.width * 3
    return peak_bytes(decode) + videos


def _computed(sketch: Sketch, choice: Training) -> tuple[int, int]:
    """Return the bytes that an update, without gradients that are sharded, and generating samples take at most."""
    few, more = (_phases(sketch, choice, blocks) for blocks in FEW)
    growth = [(large - small) / (FEW[1] - FEW[0]) for small, large in zip(few, more, strict=True)]
    *update, sample = (
        round(one + rate * (sketch.config.layers - FEW[0])) for one, rate in zip(few, growth, strict=True)
    )
    return max(update), sample


def _sampled(sketch: Sketch, choice: Training) -> int:
    """Return the latent frames of a sample."""
    first = sketch.generation.first
    return choice.frames if choice.stage == "teacher" else first + 2 * (choice.frames - first)


def _phases(sketch: Sketch, choice: Training, blocks: int) -> list[int]:
    """Return the bytes that each phase of an update takes at most, with so many blocks, and then a sample."""
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=choice.half, cache_enabled=False):
        config = sketch.config.model_copy(update={"layers": blocks})
        student, teacher, critic = (Transformer(config) for _ in range(3))
        sharded = choice.ranks > 1 and choice.lora is None
        for model in (student, teacher, critic):
            if choice.lora is not None or model is teacher:
                model.requires_grad_(False)
            if sharded and choice.half:
                for parameter in model.blocks.parameters():
                    parameter.data = parameter.data.bfloat16()  # as they are gathered
        for model in (student, teacher, critic):
            split_tokens(model, _alone(choice.together), tokens=_tokens(sketch))
        for model in (student, critic):
            if choice.lora is not None:
                _add_lora(model, choice.lora)
            if choice.recompute:
                recompute_blocks(model)
            for parameter in model.parameters() if sharded else ():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(_forget)
        updates = _updates(sketch, choice, student, teacher, critic)
        times = 2 if choice.accumulates else 1  # the second time, there are gradients already
        peaks = [peak for phases in updates for peak in peaks_with_gradients(*phases * times)]
        return [*peaks, *peaks_with_gradients(torch.no_grad()(_sampling(sketch, choice, student)))]


def _alone(together: int) -> Part | None:
    """Return the part of a clip of one of so many processes, which gets from the others what it has itself."""
    return (
        None
        if together == 1
        else Part(0, together, exchange=lambda x: x.clone(), gather=lambda x: torch.cat([x] * together, dim=2))
    )


def _sides(sketch: Sketch) -> tuple[int, int]:
    factor = sketch.autoencoder.spatial_factor
    return sketch.generation.height // factor, sketch.generation.width // factor


def _tokens(sketch: Sketch) -> int:
    height, width = _sides(sketch)
    return (height // sketch.config.patch) * (width // sketch.config.patch)


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


def _updates(
    sketch: Sketch, choice: Training, student: Transformer, teacher: Transformer, critic: Transformer
) -> list[list[Phase]]:
    """Return the updates of a stage's objectives, each as phases to run one after another."""
    g, coder = sketch.generation, sketch.autoencoder
    sides = _sides(sketch)
    real = torch.empty(choice.batch, choice.frames, coder.latent_channels, *sides)
    embedding = torch.empty(choice.batch, sketch.tokens, sketch.config.text_dim)
    sigma, noise = torch.empty(real.shape[:2]), torch.empty_like(real)
    seen = Visibility(first=g.first, chunk=g.chunk, window=g.window, sink=g.sink)

    stepwise = Stepwise()

    def predicted() -> Tensor:
        keys = student.encode_text(embedding)
        if not choice.rollout:
            return x0_from_velocity(real, student(real, sigma, keys, visibility=seen), sigma)
        layout = chunk_layout(choice.frames, g.first, g.chunk)
        cache = student.new_cache(
            batch=choice.batch,
            height=sides[0],
            width=sides[1],
            window=min(g.window, choice.frames),
            sink=g.sink,
            chunk=max(layout),
        )
        shape = (choice.batch, coder.latent_channels, *sides)
        chunks = rollout(
            student,
            stepwise.text(keys),
            cache,
            chunks=layout,
            shape=shape,
            sigmas=(1.0,),
            generator=torch.Generator(),
            grad_step=0,
        )
        return stepwise.join(chunks)

    def velocity_of(model: Transformer, guidance: float = 1.0) -> Velocity:
        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            keys = model.encode_text(embedding)
            null = keys if guidance == 1 else model.encode_text(embedding)
            return guided_velocity(model, keys, null, guidance=guidance)(x, sigma)

        return velocity

    held: dict[str, Tensor] = {}

    def flow() -> None:
        held["loss"] = flow_matching_loss(student(real, sigma, student.encode_text(embedding)), real, noise, sigma)

    def predict() -> None:
        held["x0"] = predicted()

    def regress() -> None:
        held["loss"] = (held.pop("x0") - real).square().mean()

    def compare() -> None:
        x0, scores = held.pop("x0"), (velocity_of(teacher, 2.0), velocity_of(critic))
        held["loss"] = student_loss(x0, teacher=scores[0], critic=scores[1], sigma=sigma, noise=noise)

    def learn() -> None:
        held["loss"] = critic_loss(held.pop("x0"), critic=velocity_of(critic), sigma=sigma, noise=noise)

    def differentiate() -> None:
        held.pop("loss").backward()
        stepwise.finish()

    of_critic = [torch.no_grad()(predict), learn, differentiate]
    return {
        "teacher": [[flow, differentiate]],
        "ode": [[predict, regress, differentiate]],
        "dmd": [of_critic, [predict, compare, differentiate]],
    }[choice.stage]


def _sampling(sketch: Sketch, choice: Training, student: Transformer) -> Phase:
    """Return what generates the samples of a batch, by a step a chunk; of a teacher, by a step."""
    g, count = sketch.generation, min(choice.batch, SAMPLES)
    shape = (count, sketch.autoencoder.latent_channels, *_sides(sketch))
    embedding = torch.empty(count, sketch.tokens, sketch.config.text_dim)
    frames = _sampled(sketch, choice)

    def solve() -> None:
        keys, null = student.encode_text(embedding), student.encode_text(embedding)
        x, sigma = torch.empty(count, frames, *shape[1:]), torch.empty(count, frames)
        guided_velocity(student, keys, null, guidance=2.0)(x, sigma)

    def roll_out() -> None:
        keys = student.encode_text(embedding)
        cache = student.new_cache(
            batch=count, height=shape[2], width=shape[3], window=min(g.window, frames), sink=g.sink
        )
        layout, generator = chunk_layout(frames, g.first, g.chunk), torch.Generator()
        list(rollout(student, keys, cache, chunks=layout, shape=shape, sigmas=(1.0,), generator=generator))

    return solve if choice.stage == "teacher" else roll_out


class _Lora(nn.Module):
    """A linear layer with what peft adds to it, whose starting weights cannot be drawn without contents."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x.to(self.down.weight.dtype))) * 1.0
        return out


def _add_lora(model: Transformer, rank: int) -> None:
    for name, layer in _layers(model).items():
        model.set_submodule(name, _Lora(layer, rank))
