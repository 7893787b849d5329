"""Who takes part in training: teacher, student, critic, autoencoder and text encoder; what they load.

A part is what a stage of the run trained or, where the recipe has no such stage, what the preset's `start` has.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from causvid.data.dataset import Dataset
from causvid.data.renders import corpus, world_of
from causvid.data.set_models import autoencoder_marks, same_marks, text_marks
from causvid.data.storybook import StorybookDataset
from causvid.data.video_set import VideoSet
from causvid.files.writing import new_folder, stream_tensors
from causvid.loading.assemble import assemble, load_autoencoder
from causvid.loading.bundle import Bundle
from causvid.loading.spec import ModelSpec
from causvid.loading.text import load_text_encoder, save_text_encoder
from causvid.models.subword import train_subword_tokenizer
from causvid.models.text import EncoderOnDemand, TextEncoder, train_tokenizer
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.tokenizer import Tokenizer
from causvid.models.transformer import Transformer
from causvid.models.wan_autoencoder import WanAutoencoder
from causvid.preset import Preset
from causvid.recipe import LoraStage
from causvid.seeding import lend_seed, step_generator
from causvid.train.distributed import shard
from causvid.train.lora import Trained, read_trained, train_all, train_lora
from causvid.train.objective import half_is_fast
from causvid.train.run import RESULTS, Run, copy_weights, load_weights, needed, save_weights
from causvid.train.shapes import latent_size
from causvid.worlds.storybook import World

EMBEDDED_TOGETHER = 512


def trained_before(preset: Preset) -> dict[str, int]:
    """Return what stages after the teacher remember of it: trained further, it is not the teacher they began with."""
    teacher = preset.recipe.teacher
    return {} if teacher is None or "teacher" not in needed(preset) else {"teacher_steps": teacher.steps}


def compile_blocks(model: Transformer) -> None:
    """Compile a transformer's blocks in place: one graph for all; a pass with a cache stays as it is."""
    for block in model.blocks:
        block.compile(dynamic=False)


def new_tokenizer(world: World) -> Tokenizer:
    """Train a tokenizer on a world's captions: whole words, or subwords for the rich language."""
    return (train_subword_tokenizer if world.language == "rich" else train_tokenizer)(corpus(world))


def token_mask(ids: Tensor) -> Tensor:
    """Return which ids `[B, M]` are real tokens; 0 is padding."""
    return ids != 0


@torch.no_grad()
def embed_captions(text: TextEncoder, captions: Sequence[str], device: torch.device) -> Tensor:
    """Embed captions in batches: fp32 `[captions, tokens, D]`."""
    parts = text.tokens(captions)[0].to(device).split(EMBEDDED_TOGETHER)
    return torch.cat([text(part, token_mask(part)) for part in parts])


@dataclass(frozen=True)
class Roles:
    """The parts of one run, each made or loaded on its device when it is asked for.

    Every method raises `ValueError` if the part is missing, damaged, or does not fit the preset, naming the stage that
    makes it.

    sharded: transformers, and a text encoder to train, are spread over the run's processes.
    """

    preset: Preset
    run: Run
    sharded: bool = False

    @cached_property
    def base(self) -> Bundle | None:
        """The model that the preset starts from, on the CPU; its text encoder is read when it is asked for."""
        start = self.preset.start
        spec = ModelSpec(model=start, dtype="fp32", accelerate="none", text_encoder="release")
        return None if start is None else assemble(spec)

    def dataset(self, *, one_size: bool = False, real: bool = True) -> Dataset:
        """Open what the preset trains on: its set, or what stage `data` rendered of its world.

        one_size: clips of the preset's own size alone. real: a set of prompts without latents is refused.
        """
        preset, device = self.preset, self.run.device
        if preset.data is not None:
            size, folder = latent_size(preset), Path(preset.data)
            found = VideoSet.open(folder, preset.generation, size=size, device=device, one_size=one_size, real=real)
            marks = autoencoder_marks(self.autoencoder(decoder=False), device)
            if not same_marks(found.manifest.models.get("autoencoder"), marks):
                raise ValueError(
                    f"data={folder} was prepared with another autoencoder: prepare it with --model {preset.start}"
                )
            return found
        if preset.world is not None:
            return StorybookDataset.open(preset, self.run.folder / "data", device=device)
        raise ValueError(f"preset={preset.name} names nothing to train on: set data, a folder, or a world")

    def embeddings(self, dataset: Dataset, text: TextEncoder) -> Tensor:
        """Return the embedding of every caption, fp32 `[captions, M, D]`: stored ones, if they are this encoder's."""
        if isinstance(dataset, VideoSet) and same_marks(dataset.manifest.models.get("text_encoder"), text_marks(text)):
            return dataset.embeddings(text.max_tokens)
        return embed_captions(text, dataset.captions, self.run.device)

    def new_teacher(self) -> Transformer:
        """Make a teacher to train: untrained, or with the weights of `start`, of its student if it has no teacher."""
        model = Transformer(self.preset.transformer)
        if self.base is None:
            model.initialise(step_generator(self.run.seed, "transformer", 0))
        else:
            self._copy_base(self.base.teacher or self.base.transformer, model)
        return self._place(model)

    def teacher(self) -> Transformer:
        """Return the trained teacher, frozen: one, whoever asks."""
        return self._teacher

    @cached_property
    def _teacher(self) -> Transformer:
        return self.transformer("teacher", frozen=True).eval()

    def transformer(self, trained_by: str, *, frozen: bool = False) -> Transformer:
        """Return teacher or student as a stage left it, to be trained: as student or critic; or frozen, as teacher."""
        base = self._base_of("teacher") if trained_by == "teacher" else None
        whole = None if base is None else base.teacher
        if whole is not None and whole.config == self.preset.transformer and frozen and self.run.ranks.size == 1:
            model = whole  # once in memory, whoever else begins with it
        else:
            model = Transformer(self.preset.transformer)
            if base is not None:
                self._copy_base(base.teacher, model)
            else:
                load_weights(model, self.run.result(trained_by), made_by=trained_by)
        if frozen:
            model.requires_grad_(False)
            if self.sharded and self.run.ranks.size > 1 and self.run.device.type == "cuda":
                model.blocks.bfloat16()  # as `shard` lets them compute
        return self._place(model)

    def student(self, start: Literal["ode", "teacher"], lora: LoraStage | None) -> Trained:
        """Return the student to train, which begins with the weights of a stage: all of it, or a LoRA over them.

        A LoRA that stage `ode` trained is trained further, so that the result is one over the teacher.
        """
        if lora is None:
            return train_all(self.transformer(start))
        begin = read_trained(self.run.lora(start)) if start == "ode" else None
        base = self.teacher() if start == "teacher" or begin is not None else self.transformer(start)
        return self._lora(base, lora, "student", begin)

    def critic(self, lora: LoraStage | None) -> Trained:
        """Return the critic to train, which begins with the teacher's weights: all of it, or a LoRA over them."""
        return train_all(self.transformer("teacher")) if lora is None else self._lora(self.teacher(), lora, "critic")

    def _lora(
        self, base: Transformer, lora: LoraStage, role: str, begin: Mapping[str, Tensor] | None = None
    ) -> Trained:
        trained = train_lora(base, lora, step_generator(self.run.seed, f"lora {role}", 0), begin=begin)
        if self.run.compiles:
            compile_blocks(trained.model)
        return trained

    def save_student(self, stage: str, trained: Trained, state: Mapping[str, Tensor]) -> None:
        """Write what a stage made of the student: whole, a tensor at a time, and the LoRA beside it if it is one."""
        if trained.save is not None:
            trained.save(state, self.run.lora(stage))
        stream_tensors(self.run.result(stage), trained.entries, trained.read(state), {})

    def new_autoencoder(self) -> TinyAutoencoder:
        """Make an autoencoder to train: untrained, or with the weights of `start_autoencoder` or `start`."""
        with lend_seed(step_generator(self.run.seed, "autoencoder weights", 0)):
            model = TinyAutoencoder(self.preset.autoencoder_sizes)
        if (place := self.preset.start_autoencoder) is not None:
            source = load_autoencoder(ModelSpec(tiny_autoencoder=place, dtype="fp32"))
            copy_weights(source.state_dict(), model, source=f"start_autoencoder={place}")
        elif self.base is not None:
            self._copy_base(self.base.autoencoder, model)
        return model

    def autoencoder(self, *, decoder: bool = True) -> TinyAutoencoder | WanAutoencoder:
        """Return the autoencoder, frozen; with `decoder` as stage `decoder` left it, if that has run."""
        stage = "decoder" if decoder and self.run.result("decoder").is_file() else "autoencoder"
        base = self._base_of(stage)
        model: TinyAutoencoder | WanAutoencoder
        if base is None:
            model = TinyAutoencoder(self.preset.autoencoder_sizes)
            load_weights(model, self.run.result(stage), made_by=stage)
        else:
            model = base.autoencoder
        model = model.to(self.run.device).eval().requires_grad_(False)
        return channels_last(model) if isinstance(model, TinyAutoencoder) else model

    def decoder(self) -> TinyAutoencoder | WanAutoencoder:
        """Return the autoencoder for samples, the last use of it: in bf16 where products are, so that it takes half."""
        model = self.autoencoder()
        return model.to(torch.bfloat16) if half_is_fast(self.run.device) else model

    def autoencoder_to_refine(self) -> TinyAutoencoder:
        """Return the autoencoder as it was before stage `decoder`, frozen; new where only its preset magnifies.

        Raises:
            ValueError: if it is Wan's, or differs otherwise from the preset's.
        """
        model = copy.deepcopy(self.autoencoder(decoder=False))
        if isinstance(model, WanAutoencoder):
            raise ValueError(f"start={self.preset.start} has Wan's autoencoder, whose decoder is not trained here")
        sizes = self.preset.autoencoder_sizes
        if model.config == sizes:
            return model
        with lend_seed(step_generator(self.run.seed, "decoder weights", 0)):
            larger = TinyAutoencoder(sizes)
        untrained = {name: value for name, value in larger.state_dict().items() if name.startswith("enlarge.")}
        copy_weights(model.state_dict() | untrained, larger, source=f"start={self.preset.start}")
        return channels_last(larger.to(self.run.device).eval().requires_grad_(False))

    def new_text_encoder(self) -> TextEncoder:
        """Make a text encoder to train: that of `start`, or one whose tokenizer knows every word of the world.

        Raises:
            ValueError: if the one of `start` does not know the words of the preset's world.
        """
        if self.base is not None:
            self._check_words(self.base.text_encoder)
            model = _read_text_encoder(self.base).train().requires_grad_()
        else:
            generator = step_generator(self.run.seed, "text", 0)
            tokenizer = new_tokenizer(world_of(self.preset))
            model = TextEncoder.create(self.preset.text, tokenizer, generator=generator)
        model.to(self.run.device)
        if self.run.compiles:
            model.encoder.compile(dynamic=False)
        return shard(model, self.run.ranks, self.run.device) if self.sharded else model

    def text_encoder(self) -> TextEncoder:
        """Return the text encoder that the teacher was trained with, frozen."""
        base, place = self._base_of("teacher"), self.run.folder / RESULTS["teacher"][1]
        if base is not None:
            self._check_words(base.text_encoder)
            encoder = _read_text_encoder(base)
        elif place.is_dir():
            try:
                encoder = load_text_encoder(place, place / "tokenizer")
            except (ValueError, OSError) as error:
                line = " ".join(str(error).split())
                raise ValueError(f"{place} is damaged ({line}): run `causvid train teacher` again") from None
        else:
            raise ValueError(f"{place} is missing: run `causvid train teacher` first, with the same --out")
        return encoder.to(self.run.device).eval().requires_grad_(False)

    def save_teacher(self, teacher: Mapping[str, Tensor], text: TextEncoder) -> None:
        """Write a trained teacher and its text encoder."""
        save_weights(teacher, self.run.result("teacher"))
        with new_folder(self.run.folder / RESULTS["teacher"][1]) as place:
            save_text_encoder(text, place, place / "tokenizer", dtype=torch.float32)

    def classifier(self) -> Path | None:
        """Return the folder of the attribute classifier, if there is one."""
        trained = self.run.result("classifier")
        return trained if trained.is_dir() else self.base.classifier if self.base is not None else None

    def _base_of(self, stage: str) -> Bundle | None:
        """Return the model that has the result of a stage which this run does not train, None if it does."""
        if self.run.result(stage).exists() or stage in needed(self.preset):
            return None
        if self.base is None:
            raise ValueError(f"preset={self.preset.name} does not train stage {stage}: set start to a model that has")
        return self.base

    def _place(self, model: Transformer) -> Transformer:
        model.to(self.run.device)
        if self.run.compiles:
            compile_blocks(model)
        return shard(model, self.run.ranks, self.run.device) if self.sharded else model

    def _copy_base(self, source: nn.Module | None, model: nn.Module) -> None:
        if source is None:
            raise ValueError(f"start={self.preset.start} has no teacher")
        if isinstance(source, Transformer):
            own, wanted = source.config.model_dump(), self.preset.transformer.model_dump()
            if other := ", ".join(f"{name}={value}" for name, value in wanted.items() if value != own[name]):
                start = ", ".join(f"{name}={own[name]}" for name in wanted if wanted[name] != own[name])
                raise ValueError(f"transformer: {other}, but start={self.preset.start} has {start}")
        copy_weights(source.state_dict(), model, source=f"start={self.preset.start}")

    def _check_words(self, encoder: TextEncoder) -> None:
        preset, tokenizer = self.preset, encoder.tokenizer
        if preset.world is None or tokenizer.unknown is None:  # to subwords, no word is unknown
            return
        if tokenizer.vocabulary() != new_tokenizer(world_of(preset)).vocabulary():
            raise ValueError(f"start={preset.start} knows other words than the world of preset={preset.name}")


def _read_text_encoder(base: Bundle) -> TextEncoder:
    """Return the text encoder of a base whose own is read for every call: one that stays while it is held."""
    text = base.text_encoder
    assert isinstance(text.encoder, EncoderOnDemand)
    return TextEncoder(text.tokenizer, text.encoder.read(), max_tokens=text.max_tokens)


def channels_last(model: TinyAutoencoder) -> TinyAutoencoder:
    """Store the weights of convolutions with channels innermost, which is how every backend runs them fastest."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
